"""The demo as a process of its own: conversations and forks outlive its kill warm, and nothing that happens to the
folder of KV blocks stops the chat."""

import os
import shutil
import signal
import time
import urllib.request

import pytest

from chatpager.engine.head_records import _read
from tests.processes import SECONDS, serving

QUESTIONS = ["My name is Ada and I live in Vienna.", "What is chatpager?", "What is my name?"]


def turn(server, conversation, text):
    """One turn that ends as it should; its id and its receipt, which adds up."""
    wanted = {"conversation": conversation, "input": text, "temperature": 0, "max_output_tokens": 24}
    response = server.post("/v1/responses", wanted)
    assert response["status"] in ("completed", "incomplete") and response["error"] is None
    receipt = response["chatpager"]["cache"]
    sources = ("device", "host", "disk", "computed")
    assert sum(receipt[f"{source}_tokens"] for source in sources) == receipt["prompt_tokens"]
    return response["id"], receipt


def talk(server, questions=QUESTIONS):
    conversation = server.post("/v1/conversations")["id"]
    return conversation, [turn(server, conversation, question)[0] for question in questions]


def written(kv, conversations):
    """Wait until the disk has all of so many conversations."""
    until = time.monotonic() + SECONDS
    while True:
        heads = [_read(path) for path in kv.glob("heads/*.head")]
        names = [proof.hex() for head in heads if head for proof in head.proofs]
        if len(heads) >= conversations and all((kv / name[:2] / f"{name}.kv").exists() for name in names):
            return
        assert time.monotonic() < until, f"{len(heads)} conversations, {len(names)} blocks"
        os.sched_yield()


def disk(server):
    return server.get("/health")["tiers"]["disk"]


@pytest.fixture
def start(fork_server, tmp_path):
    def serve(*flags, **env):
        return serving(fork_server, tmp_path, *flags, CHATPAGER_DATA_DIR=str(tmp_path / "data"), **env)

    return serve


def test_a_conversation_and_its_fork_are_warm_after_a_kill(start, tmp_path):
    with start() as server:
        origin, answers = talk(server)
        fork = server.post(f"/v1/conversations/{origin}/fork", {"at": answers[1]})["id"]
        for conversation in (fork, origin):
            _, receipt = turn(server, conversation, "Tell me about leases.")
            assert receipt["device_tokens"] > 0 and receipt["miss_reason"] in (None, "sub_block")
        written(tmp_path / "data" / "kv", 2)
        server.process.send(signal.SIGKILL)
        server.process.wait()
    with start() as server:
        assert disk(server)["warm_fraction"] == 1.0
        _, first = turn(server, origin, "And forks?")
        assert first["disk_tokens"] > 0 and first["device_tokens"] == 0
        _, second = turn(server, fork, "And forks?")
        assert second["disk_tokens"] > 0 and second["device_tokens"] > 0, "the past that it shares is back already"
        assert first["computed_tokens"] < first["prompt_tokens"] / 2


def test_what_a_kill_behind_the_deletion_left_goes_at_the_next_start(start, tmp_path):
    kv = tmp_path / "data" / "kv"
    with start(CHATPAGER_TEST_MODE="1", CHATPAGER_FAILPOINTS="store.delete_session.after_commit=kill@1") as server:
        conversation, _ = talk(server, QUESTIONS[:1])
        written(kv, 1)
        deletion = urllib.request.Request(f"{server.url}/v1/conversations/{conversation}", method="DELETE")
        with pytest.raises(ConnectionError):
            urllib.request.urlopen(deletion, timeout=SECONDS)
        assert server.process.wait() == -signal.SIGKILL
    assert list(kv.glob("*/*"))
    with start() as server:
        until = time.monotonic() + SECONDS
        while list(kv.glob("*/*")):
            assert time.monotonic() < until
            os.sched_yield()


def test_flipped_files_and_a_folder_deleted_under_the_server_cost_warmth_alone(start, tmp_path):
    kv = tmp_path / "data" / "kv"
    with start() as server:
        conversation, _ = talk(server)
        written(kv, 1)
    for file in kv.glob("*/*.kv"):
        raw = file.read_bytes()
        file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with start() as server:
        _, receipt = turn(server, conversation, "And now?")
        assert receipt["disk_tokens"] == 0 and receipt["computed_tokens"] == receipt["prompt_tokens"]
        assert disk(server)["bad_files"] == 1
        while kv.exists():  # the server may write there meanwhile
            shutil.rmtree(kv, ignore_errors=True)
        assert turn(server, conversation, "Still there?")[1]["device_tokens"] > 0
        written(kv, 1)
        assert server.stop() == 0
    with start() as server:
        assert turn(server, conversation, "And after it?")[1]["disk_tokens"] > 0


def test_a_full_disk_costs_warmth_alone(start, small_disk):
    with start("--kv-dir", str(small_disk / "kv"), "--swap-space", "0") as server:
        conversation, _ = talk(server)
        for i in range(8):
            talk(server, [f"{i} " + "The quick brown fox jumps over the lazy dog. " * 8])
        assert turn(server, conversation, "Still there?")[1]["device_tokens"] > 0
        until = time.monotonic() + SECONDS
        while not disk(server)["failed_writes"]:
            assert time.monotonic() < until, "it never was full"
            os.sched_yield()
        assert turn(server, conversation, "And now?")[1]["device_tokens"] > 0
        assert server.stop() == 0
