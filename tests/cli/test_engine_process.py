"""``--engine-process`` and ``--replicas``: neither server nor engine ends with the other unless it is to."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError

import pytest
import torch

from chatpager.cli.serving import engine_maker
from chatpager.config_sources import load
from chatpager.errors import ConfigError
from chatpager.sessions.engine_link import Program
from tests.processes import SECONDS, serving

FLAGS = ("--engine-process", "--engine", "fake", "--test-mode", "--num-kv-blocks", "1024")
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("given", "device", "gpu", "apart"),
    [
        ({}, "auto", True, True),
        ({}, "cuda", False, True),  # it says there why it does not start
        ({}, "auto", False, False),
        ({}, "cpu", True, False),
        ({"engine_process": False}, "cuda", True, False),
        ({"engine_process": True}, "cpu", False, True),
        ({"engine": "fake", "test_mode": True}, "auto", True, False),
    ],
)
def test_on_a_gpu_an_engine_has_its_own_process_if_nothing_is_said(given, device, gpu, apart, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    config = load({"device": device, **given}, env={})
    assert isinstance(engine_maker(config, tmp_path, b""), Program) == apart


@pytest.mark.parametrize("several", [{"replicas": 2}, {"ray_address": "local"}])
def test_several_engines_cannot_be_the_server_s_own_process(several, tmp_path):
    with pytest.raises(ConfigError, match="processes of their own"):
        engine_maker(load({"device": "cpu", "engine_process": False, **several}, env={}), tmp_path, b"")


def test_an_engine_that_outlived_an_upgrade_has_other_settings(tmp_path, monkeypatch):
    config = load({"device": "cpu", "ray_address": "local"}, env={})
    [before] = engine_maker(config, tmp_path, b"").values()
    monkeypatch.setattr("chatpager.cli.serving.__version__", "0.2.0")
    [after] = engine_maker(config, tmp_path, b"").values()
    assert before.agreed != after.agreed


def test_servers_share_actors_wherever_each_has_its_own_data(tmp_path):
    def actor(folder, secret=b"", **more):
        config = load({"device": "cpu", "ray_address": "local", "data_dir": str(tmp_path / folder), **more}, env={})
        [made] = engine_maker(config, tmp_path, secret).values()
        return made.agreed

    assert actor("a") == actor("b", log_format="json")
    assert len({actor("a"), actor("a", b"another"), actor("a", num_kv_blocks=99)}) == 3


def engines_of(server):
    """The process ids of its engines."""
    tasks = Path(f"/proc/{server.process.pid}/task")
    children = [pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
    return sorted(int(pid) for pid in children if "engine_child" in Path(f"/proc/{pid}/cmdline").read_text())


def engine_of(server):
    [engine] = engines_of(server)
    return engine


def until(look):
    until = time.monotonic() + SECONDS
    while not (found := look()):
        assert time.monotonic() < until
        os.sched_yield()
    return found


def restarted(server, times):
    with suppress(HTTPError):  # it is not ready
        return server.get("/health").get("restarts") == times
    return False


def replicas(server):
    return server.get("/v1/admin/replicas")["data"]


def said(server, **more):
    answer = server.post("/v1/responses", {"input": "Hello", "max_output_tokens": 40, **more})
    return answer["output"][0]["content"][0]["text"], answer["usage"]["input_tokens_details"]["cached_tokens"]


def test_an_engine_that_is_killed_is_started_again_and_ends_with_its_server(fork_server, home, tmp_path):
    (tmp_path / "queue.py").write_text("raise SystemExit('somebody put it into the folder')")
    with serving(fork_server, home, *FLAGS, cwd=tmp_path) as server:
        text, _ = said(server)
        again, cached = said(server)
        assert again == text and cached > 0
        form = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}}
        assert json.loads(said(server, text=form)[0])["a"] in (True, False)
        first = engine_of(server)
        os.kill(first, signal.SIGKILL)
        until(lambda: restarted(server, 1))
        assert said(server) == (text, 0)
        assert engine_of(server) != first
        engine = engine_of(server)
        os.killpg(os.getpgid(engine), signal.SIGTERM)
        os.killpg(os.getpgid(engine), signal.SIGINT)
        assert said(server)[0] == text, "signals are the server's to answer"
        assert server.stop() == 0
        assert not Path(f"/proc/{engine}").exists()
        log = server.process.out.text + server.process.err.text
        assert log.count("engine.stopped") == 1 and "signal 9" in log


def test_an_engine_that_hangs_is_killed_and_its_server_goes_on(fork_server, home):
    """A token of the fake takes half a minute, but for the first."""
    flags = (*FLAGS, "--fake-tokens-per-second", "0.03", "--watchdog-seconds", "1.5")
    with serving(fork_server, home, *flags) as server:
        asked = server.post("/v1/responses", {"input": "Hello", "background": True})
        until(lambda: restarted(server, 1))
        failed = server.get(f"/v1/responses/{asked['id']}")
        assert (failed["status"], failed["error"]["code"]) == ("failed", "engine_stopped")
        assert said(server, max_output_tokens=1)[0]
        assert "engine.hangs" in server.process.out.text + server.process.err.text
        os.kill(engine_of(server), signal.SIGSTOP)  # no step runs, and it hears of nothing more
        server.post("/v1/responses", {"input": "Hello", "background": True})
        until(lambda: restarted(server, 2))


def test_an_answer_goes_on_where_another_replica_is_killed_under_it(fork_server, home):
    flags = ("--replicas", "2", "--engine", "fake", "--test-mode", "--num-kv-blocks", "1024")
    with serving(fork_server, home, *flags, "--fake-tokens-per-second", "20") as server:
        first = engines_of(server)
        assert len(first) == 2
        plain, _ = said(server)
        asked = server.post("/v1/responses", {"input": "Hello", "max_output_tokens": 40, "background": True})
        assert sum(row["answers"] for row in replicas(server)) == 1
        until(lambda: server.get(f"/v1/responses/{asked['id']}")["output"])
        for times, engine in enumerate(first, 1):  # so that the answer moves whichever has it
            os.kill(engine, signal.SIGKILL)
            until(lambda times=times: sum(row["restarts"] for row in replicas(server)) == times)
        ended = until(lambda: (one := server.get(f"/v1/responses/{asked['id']}"))["status"] != "in_progress" and one)
        assert (ended["status"], ended["output"][0]["content"][0]["text"]) == ("incomplete", plain)
        assert ended["usage"]["output_tokens"] == 40
        assert {row["state"] for row in replicas(server)} == {"ok"} and not set(engines_of(server)) & set(first)
        assert server.stop() == 0
