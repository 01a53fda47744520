"""``chatpager demo`` as a person starts and stops it."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from chatpager.cli.models import model_name
from chatpager.demo import model_path
from tests import processes
from tests.gate import DEADLINE
from tests.processes import clean_env, free_port, spawn, traced


def serving(*what, **more):
    return processes.serving(*what, **traced(), **more)


def status(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=DEADLINE) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def banner(server):
    server.process.out.wait_for(r"data +\S+")
    return server.process.out.text


def test_the_banner_has_what_one_needs_next(fork_server, home):
    with serving(fork_server, home, "--num-kv-blocks", "1025") as server:
        said = banner(server)
        assert f"chat       {server.url}\n  admin      {server.url}/admin\n" in said
        terminal = re.search(r"terminal +(.*)", said)[1]
        assert terminal.endswith(f" chat --url {server.url}")
        assert subprocess.check_output(shlex.split(terminal), input=b"Hello\n", env=clean_env(home), cwd=home)
        assert "1,024 usable blocks of 16 tokens: 16,384 tokens; context 4,096" in said
        assert server.get("/health")["kv"]["tokens"] == 16_384
        assert f"{home}/data/chatpager/chatpager.db" in said
        curl = re.search(r"curl +(curl .*)", said)[1]
        assert json.loads(subprocess.check_output([*shlex.split(curl), "-s"]))["status"] == "completed"
        python = re.search(r"python +(OpenAI\(.*)", said)[1]
        assert "Hello" in eval(python, {"OpenAI": _openai()})


def _openai():
    import openai

    return openai.OpenAI


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_port_host_and_data_folder_come_from_the_environment(fork_server, home, host):
    port = free_port()
    env = {"CHATPAGER_PORT": str(port), "CHATPAGER_HOST": host, "CHATPAGER_DATA_DIR": str(home / "mine")}
    process = fork_server("demo", env=clean_env(home, **env))
    try:
        shown = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        process.out.wait_for(f"chat +{re.escape(shown)}\n")
        assert status(f"{shown}/health/ready") == 200
        assert (home / "mine" / "chatpager.db").is_file()
        assert not (home / "data").exists()
    finally:
        process.end()


def test_a_folder_is_served_under_its_name(fork_server, home):
    (home / "my-model").symlink_to(model_path())
    with serving(fork_server, home, command=("serve", str(home / "my-model"))) as server:
        assert server.get("/v1/models")["data"][0]["id"] == "my-model"


def test_names_are_printed_as_they_are(fork_server, home):
    """A name in brackets is no markup."""
    with serving(fork_server, home, "--served-model-name", "m[/a]", "--data-dir", str(home / "[prod]")) as server:
        said = banner(server)
        assert "chatpager serves m[/a]\n" in said
        assert f"data       {home}/[prod]/chatpager.db\n" in said


def test_a_name_that_the_hub_would_refuse_is_printed_as_it_is(chatpager):
    result = chatpager("serve", "[some]/model", "--port", 0)
    assert result.out.startswith("fetching [some]/model from the Hugging Face hub")
    assert result.code == 1
    assert result.err.startswith("chatpager: cannot load [some]/model: no such folder, and the hub")


def test_a_model_of_the_hub_keeps_its_name_though_its_copy_is_called_by_a_revision(tmp_path):
    assert model_name("Qwen/Qwen3-0.6B", tmp_path / "snapshots" / "c1899de2") == "Qwen/Qwen3-0.6B"


def test_the_demo_is_the_demo_whatever_model_is_set(fork_server, home):
    with serving(fork_server, home, CHATPAGER_MODEL="/nowhere") as server:
        assert server.get("/v1/models")["data"][0]["id"] == "chatpager-demo"


def test_with_a_key_any_address_will_do_and_no_one_else_gets_in(fork_server, home):
    with serving(fork_server, home, "--host", "0.0.0.0", "--api-key", "hush", "--admin-port", "0") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert status(f"{server.url}/v1/models") == 401
        assert status(f"{server.url}/v1/models", Authorization="Bearer hush") == 200
        assert f'curl {server.url}/v1/responses -H "authorization: Bearer $CHATPAGER_API_KEY"' in banner(server)
        admins = re.search(r"admin +(http://127.0.0.1:\d+)/admin", banner(server))[1]
        assert [status(f"{at}/metrics", Authorization="Bearer hush") for at in (server.url, admins)] == [404, 200]
        assert "hush" not in banner(server) + server.process.err.text


SOMEBODY = {"CI": "", "DISPLAY": ":0"}


@pytest.mark.parametrize(
    ("env", "flags", "opened"),
    [
        (SOMEBODY, [], True),
        (SOMEBODY, ["--no-browser"], False),
        ({**SOMEBODY, "CI": "true"}, [], False),
        ({"CI": ""}, [], False),
    ],
    ids=["a display", "a display, and a wish", "CI", "no display"],
)
def test_a_browser_opens_where_somebody_sees_it(fork_server, home, env, flags, opened):
    script = home / "browser"
    script.write_text('#!/bin/sh\necho "browser opens $1" >&2\n')
    script.chmod(0o755)
    with serving(fork_server, home, *flags, BROWSER=str(script), **env) as server:
        if opened:
            server.process.err.wait_for(f"browser opens {server.url}\n")
        assert server.stop() == 0
        assert ("browser" in server.process.err.whole()) == opened


async def talking(url, tokens=200):
    """A socket on which a long answer has begun."""
    talk = await connect(url.replace("http", "ws") + "/v1/responses")
    long = {"input": "What is chatpager?", "ignore_eos": True, "max_output_tokens": tokens}
    await talk.send(json.dumps({"type": "response.create", **long}))
    while json.loads(await talk.recv())["type"] != "response.output_text.delta":
        pass
    return talk


async def rest(talk):
    """The events that still come, and the frame that ends the socket."""
    events = []
    try:
        while True:
            events.append(json.loads(await talk.recv()))
    except ConnectionClosed as closed:
        return events, closed.rcvd


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_running_answers_end_and_the_server_goes_calmly(fork_server, home, number):
    with serving(fork_server, home) as server:
        talk = await talking(server.url)
        server.process.send(number)
        events, closed = await rest(talk)
        assert events[-1]["type"] == "response.incomplete"
        assert events[-1]["response"]["usage"]["output_tokens"] == 200
        assert closed.code == 1012
        assert server.process.wait() == 0
        assert "running answers have time to end" in server.process.out.whole()
        assert "Traceback" not in server.process.err.whole()


async def test_a_client_is_heard_while_running_answers_end(fork_server, home):
    with serving(fork_server, home) as server:
        talk = await talking(server.url, tokens=3000)
        server.process.send(signal.SIGTERM)
        server.process.out.wait_for("again to stop at once")
        with pytest.raises(urllib.error.HTTPError) as told:
            await asyncio.to_thread(urllib.request.urlopen, f"{server.url}/health")
        with told.value as answer:
            assert json.load(answer)["status"] == "draining"
        item = json.loads(await talk.recv())["item_id"]
        await talk.send(json.dumps({"type": "response.cancel", "response_id": item.replace("msg_", "resp_")}))
        events, _ = await rest(talk)
        assert events[-1]["response"]["chatpager"]["state"] == "cancelled"
        assert server.process.wait() == 0


async def test_an_answer_that_takes_too_long_is_interrupted_and_kept(fork_server, home):
    with serving(fork_server, home, "--drain-seconds", "0") as server:
        talk = await talking(server.url, tokens=3000)
        server.process.send(signal.SIGTERM)
        await rest(talk)
        assert server.process.wait() == 0
        assert "status=interrupted" in server.process.err.whole()


async def test_a_second_signal_does_not_wait(fork_server, home):
    with serving(fork_server, home) as server:
        talk = await talking(server.url, tokens=3000)
        server.process.send(signal.SIGINT)
        server.process.out.wait_for("again to stop at once")
        server.process.send(signal.SIGINT)
        assert server.process.wait() == 130
        await rest(talk)


def test_ctrl_c_ends_it_while_it_fetches_a_model(home):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HUB_OFFLINE": "0"}
        process = spawn("serve", "some/model", "--port", "0", env=clean_env(home, NO_PROXY="127.0.0.1", **hub))
        with silent.accept()[0]:
            process.send(signal.SIGINT)
            assert process.wait() == 130
        assert "fetching some/model from the Hugging Face hub" in process.out.whole()
        assert process.err.whole() == ""


def logged(server):
    """The log of a server that began by saying that it loads its model."""
    first, *lines = [json.loads(line) for line in server.process.err.whole().splitlines()]
    assert (first["event"], first["phase"].split()[0]) == ("start", "loading")
    return lines


def test_started_from_nothing_it_logs_for_machines_and_ends_well(home):
    with serving(spawn, home, "--log-format", "json") as server:
        body = json.dumps({"input": "My secret is rain.", "conversation": server.post("/v1/conversations")["id"]})
        call = urllib.request.Request(f"{server.url}/v1/responses", body.encode(), {"X-Session-Id": "agent 7"})
        with urllib.request.urlopen(call, timeout=DEADLINE) as answer:
            name, told = answer.headers["x-request-id"], json.load(answer)
        assert server.stop() == 0
        [line] = logged(server)
        usage, timings = told["usage"], told["chatpager"]["timings"]
        assert line == {
            "event": "turn", "level": "info", "timestamp": line["timestamp"], "request_id": name, "id": told["id"],
            "tenant": "default", "session": told["conversation"]["id"], "client_session": "agent 7",
            "status": "completed", "reason": "stop",
            "prompt": usage["input_tokens"], "cached": 0, "miss": "cold", "generated": usage["output_tokens"],
            "ttft_ms": timings["ttft_ms"], "tok_s": timings["decode_tok_s"], "error": None,
        }  # fmt: skip
    assert os.path.exists(home / "data" / "chatpager" / "chatpager.db")


def test_what_is_said_is_logged_only_where_somebody_asked_for_it(fork_server, home):
    with serving(fork_server, home, "--log-format", "json", "--log-content") as server:
        told = server.post("/v1/responses", {"input": "My secret is rain."})
        server.post("/v1/completions", {"prompt": "Once", "max_tokens": 1})
        assert server.stop() == 0
        line, bare = logged(server)
        assert (line["input"], bare["input"]) == (["My secret is rain."], ["Once"])
        assert line["output"] == told["output"][0]["content"][0]["text"]


def test_a_server_leaves_no_core(fork_server, home):
    with serving(fork_server, home) as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    [core] = [line.split() for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core[4] == "0"


def test_a_key_may_stand_in_a_file(fork_server, home, chatpager):
    (home / "key").write_text("hush\n")
    (home / "key").chmod(0o600)
    with serving(fork_server, home, "--api-key-file", str(home / "key"), "--host", "0.0.0.0") as server:
        assert status(f"{server.url}/v1/models") == 401
        listed = ("sessions", "ls", "--url", server.url)
        assert chatpager(*listed).code == 1
        assert chatpager(*listed, "--api-key-file", home / "key").code == 0
        assert chatpager(*listed, CHATPAGER_API_KEY_FILE=str(home / "key")).code == 0
        assert chatpager(*listed, "--api-key", "wrong", CHATPAGER_API_KEY_FILE=str(home / "key")).code == 1
        assert chatpager(*listed, "--api-key-file", home / "key", CHATPAGER_API_KEY="wrong").code == 0
        assert "hush" not in chatpager("config", "show", "--api-key-file", home / "key").out


def test_a_folder_for_kv_blocks_that_cannot_be_used_is_refused_only_where_it_was_asked_for(
    fork_server, chatpager, home
):
    folder = home / "data" / "chatpager" / "kv"
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")
    with serving(fork_server, home) as server:
        assert server.get("/health")["tiers"]["disk"]["capacity_bytes"] == 0
        assert "no KV blocks are kept on disk" in server.process.out.text + server.process.err.text
    refused = chatpager("demo", "--port", 0, "--kv-dir", folder)
    assert (refused.code, "kv_dir" in refused.err) == (2, True), refused.err


def test_a_restarted_server_says_how_warm_it_is(fork_server, home, chatpager):
    with serving(fork_server, home) as server:
        assert "told before" not in banner(server)
        assert chatpager("chat", "--url", server.url, typed="My name is Ada and I live in a small town.\n").code == 0
        server.stop()
    with serving(fork_server, home) as server:
        assert "; 100% of what was told before is on disk\n" in banner(server)
