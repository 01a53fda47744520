"""Servers side by side: one made for the purpose, which is wrong where a test wants it, and chatpager itself."""

import asyncio
import json
import os
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chatpager.bench import accounting, models, peers, serve
from chatpager.bench.completions import PeerError
from chatpager.bench.scenarios import Sizes
from chatpager.bench.serve import Options, run
from chatpager.engine import thread_choice
from chatpager.errors import ConfigError
from tests.gate import DEADLINE

STRANGE = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name('strange_server.py')))} {{port}}"
SMALL = Sizes(
    prompt=40, answer=8, concurrency=(1, 3), turns=3, longest=120, short_answer=4,
    users=4, system=60, question=8, sessions=5, session=30, in_flight=2,
)  # fmt: skip


def strange(way="", name="strange"):
    return f"{name}={STRANGE} '{way}'"


def options(*start, **more):
    return Options(**{"start": start, "rounds": 1, "without_self": True, "sizes": SMALL, "start_seconds": 60, **more})


def test_every_scenario_counts_what_the_server_did(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(thread_choice, "_set_here", [])
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    thread_choice.spin_briefly()
    out = tmp_path / "compared.json"
    result = run(options(strange(), strange("tells no cache", "silent"), rounds=2, seed=1, out=str(out)))
    assert json.loads(out.read_text()) == result
    found = {name: {s: f["median"] for s, f in servers.items()} for name, servers in result["scenarios"].items()}
    assert set(found) == {"single", "concurrency", "growing", "shared", "returning"}
    one = {name: servers["strange"] for name, servers in found.items()}
    assert one["single"]["decode_tokens_per_s"] > 0
    assert one["single"]["prompt_tokens"] == SMALL.prompt + 1
    assert one["concurrency"]["3"]["output_tokens"] == 3 * SMALL.answer
    assert one["concurrency"]["3"]["gap_p99_ms"] > 0
    assert one["growing"]["prompt_tokens"] == [37, 37 + 5 + 37, 2 * (37 + 5) + 37]
    assert one["growing"]["cached_share"] == 1
    assert one["shared"]["second"]["cached_share"] == 1
    assert one["returning"]["second"]["sessions_hit"] == SMALL.sessions
    assert one["returning"]["second"]["cached_share"] == 1
    assert found["growing"]["silent"]["cached_share"] is None
    assert found["returning"]["silent"]["second"]["sessions_hit"] is None
    for servers in found.values():
        for figures in servers.values():
            assert all(0 <= share <= 1 for share in figures["cpu"].values())
    facts = result["servers"]["strange"]
    assert (facts["model"], facts["notes"]) == ("words", [])
    assert facts["version"] == "b1-strange, spins none", "its threads wait as they would without us"
    assert 5 < facts["peak_resident_mib"] < 500
    told = capsys.readouterr().out
    assert "cached of attainable" in told and "not told" in told
    page = out.with_suffix(".html").read_text()
    assert page.count("<svg") == 8 and "strange" in page and "http" not in page.replace("http://127.0.0.1", "")


def test_no_prompt_of_a_round_is_known_from_another():
    found = run(options(strange(), rounds=3, only=("single", "concurrency"), seed=7))["scenarios"]
    alone = [figures["cached_tokens"] for figures in found["single"]["strange"]["rounds"]]
    together = [figures["3"]["cached_tokens"] for figures in found["concurrency"]["strange"]["rounds"]]
    first_words = 3  # the role, and perhaps words that another prompt begins with too
    assert max(alone) <= first_words and max(together) <= 3 * first_words


def test_a_server_goes_with_all_of_its_processes(monkeypatch):
    groups = []
    stop = peers._stop

    async def watched(peer):
        groups.append((peer.group, len(accounting.members(peer.group))))
        await stop(peer)

    monkeypatch.setattr(peers, "_stop", watched)
    run(options(strange("by a child"), only=("single",)))
    ((group, processes),) = groups
    assert processes == 2
    assert not accounting.members(group)


def test_servers_may_have_the_machine_to_themselves():
    result = run(options(strange(), strange(name="other"), rounds=2, only=("single",), one_at_a_time=True))
    assert {name: len(f["rounds"]) for name, f in result["scenarios"]["single"].items()} == {"strange": 2, "other": 2}


SPINS = """import time
print("spins", flush=True)
while time.process_time() < 1:
    pass
print("rests", flush=True)
input()"""


def has_rested():
    """Whether one that spins had said that it rests when it was waited for."""
    command = [sys.executable, "-c", SPINS]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as spinning:
        assert spinning.stdout.readline() == "spins\n"
        asyncio.run(serve._rest([spinning.pid]))
        rests = bool(select.select([spinning.stdout], [], [], 0)[0])
        spinning.communicate("\n")
    return rests


def test_a_server_is_measured_once_the_others_have_stopped():
    assert any(has_rested() for _ in range(3)), "whom a busy machine gives no processor seems to rest, not each time"


@pytest.mark.parametrize(
    ("way", "kind"), [("no ignore_eos", "it refuses ignore_eos"), ("ends early", "some answers ended early")]
)
def test_what_makes_figures_differ_is_noted(way, kind):
    (note,) = run(options(strange(way), only=("single",)))["servers"]["strange"]["notes"]
    assert note.startswith(kind)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("no usage", "no usage.*include_usage"),
        ("no models", r"no list of models \(status 404\).*--api-key"),
        ("empty list", "no list of models"),
        ("does not start", "(?s)ended at its start with 1.*no such model.*--out keeps the whole log"),
    ],
)
def test_a_server_that_cannot_be_measured_is_named_with_the_way_out(way, words):
    with pytest.raises(PeerError, match=words):
        run(options(strange(way)))


def test_a_command_that_is_not_there_is_told():
    with pytest.raises(PeerError, match="no-such-server: No such file or directory; is it installed"):
        run(options("gone=no-such-server {port}"))


def test_a_server_that_is_never_ready_is_given_up():
    with pytest.raises(PeerError, match=r"not ready after 0\.5 s"):
        run(options(strange("never ready"), start_seconds=0.5))


def test_an_address_that_nobody_listens_at_is_told():
    with pytest.raises(PeerError, match=r"away cannot be reached.*http://127.0.0.1:9"):
        run(options(url=("away=http://127.0.0.1:9",)))


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("short context", "growing on strange: strange answered 400: .*too long"),
        ("dies", "(?s)growing on strange: .*it ended with 9.*out of memory"),
    ],
)
def test_what_one_server_fails_at_does_not_take_the_others_figures(way, words, tmp_path):
    out = tmp_path / "out.json"
    sizes = {**SMALL.__dict__, "longest": 240}
    with pytest.raises(PeerError, match=words):
        run(
            options(strange(way), strange(name="other"), only=("single", "growing"), sizes=Sizes(**sizes), out=str(out))
        )
    result = json.loads(out.read_text())
    assert set(result["scenarios"]["growing"]) == {"other"}
    assert set(result["scenarios"]["single"]) == {"strange", "other"}
    assert len(result["failed"]) == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rounds": 0}, "rounds"),
        ({"only": ("sprint",)}, "single, concurrency"),
        ({"start": ()}, "leaves nothing"),
        ({"start": ("vllm",)}, "--start name=value"),
        ({"start": ("vllm=vllm serve",)}, "where the port goes"),
        ({"start": ("vllm='",)}, "not a command line"),
        ({"self_flags": "'", "without_self": False}, "self_flags.*not a command line"),
        ({"start": ("a=x {port}", "a=y {port}")}, "two servers"),
        ({"start": ("a=x {port}",), "url": ("a=http://y",)}, "two servers"),
        ({"url": ("vllm=127.0.0.1:80",)}, "begins with http"),
        ({"model": "/nowhere"}, "bench model makes one"),
        ({"out": "/tmp/x.txt"}, "ends in .json"),
        ({"out": "/nowhere/x.json"}, "not there"),
        ({"out": "/dev/null.json"}, "logs go to /dev/null"),
        ({"start_seconds": 0}, "start_seconds"),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        run(options(**{"start": (strange(),), **wrong}))


def test_chatpager_is_a_column_and_its_own_server_is_no_one_else_s(tmp_path, monkeypatch):
    """Two real servers on a model made for the purpose, whose answers have all the tokens that were asked for."""
    monkeypatch.setenv("CHATPAGER_DATABASE_URL", f"sqlite:///{tmp_path / 'mine.db'}")
    model = tmp_path / "model"
    models.make_model("llama-15m", model)
    fast = {"OMP_NUM_THREADS": "1", "COVERAGE_PROCESS_CONFIG": ""}
    for name, value in fast.items():
        monkeypatch.setenv(name, value)
    data = tmp_path / "other"
    other = f"env -u CHATPAGER_DATABASE_URL {sys.executable} -m chatpager serve {{model}} --port {{port}}"
    found = run(
        Options(start=(f"other={other} --data-dir {data}",), only=("single", "growing"), model=str(model), rounds=1,
                sizes=SMALL, self_flags="--max-num-seqs 8")
    )  # fmt: skip
    for name in ("chatpager", "other"):
        assert found["servers"][name]["notes"] == []
        assert found["servers"][name]["version"]
        assert found["scenarios"]["single"][name]["median"]["output_tokens"] == SMALL.answer
        growing = found["scenarios"]["growing"][name]["median"]
        assert growing["cached_share"] == 1
        assert growing["cold_ttft_ms"] > 0
    assert found["servers"]["chatpager"]["command"].endswith("--max-num-seqs 8")
    assert not (tmp_path / "mine.db").exists()


def test_the_bench_takes_its_servers_with_it_when_it_is_ended(tmp_path):
    """By SIGTERM, while a server is being waited for."""
    script = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    os.mkfifo(tmp_path / "pid")
    start = f"slow={shlex.quote(sys.executable)} -c {shlex.quote(script)} {{port}}"
    argv = [sys.executable, "-m", "chatpager", "bench", "serve", "--without-self", "--start", start]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bench:
        pid = int((tmp_path / "pid").read_text())
        bench.terminate()
        assert bench.wait(DEADLINE) == 130
    assert not accounting.members(pid)


def test_rounds_that_were_measured_are_kept_when_the_bench_is_interrupted(tmp_path):
    out = tmp_path / "out.json"
    argv = [sys.executable, "-m", "chatpager", "bench", "serve", "--without-self", "--trial", "--rounds", "1000"]
    argv += ["--only", "single", "--start", strange(), "--out", str(out)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
        assert any(line.startswith("round 2 of") for line in bench.stdout)
        bench.send_signal(signal.SIGINT)
        _, said = bench.communicate(timeout=DEADLINE)
    assert bench.returncode == 130
    assert said == ""
    result = json.loads(out.read_text())
    assert result["failed"] == ["interrupted: figures are of the rounds that are here"]
    assert result["scenarios"]["single"]["strange"]["rounds"]
    assert out.with_suffix(".html").exists()
