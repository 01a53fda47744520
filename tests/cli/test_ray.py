"""``--ray-address``: what it is refused for; and with Ray, a server whose engines are actors."""

import os
import signal
import sys
from pathlib import Path

import pytest

from chatpager.cli.ray_cluster import TOKEN, begin, join
from chatpager.config_sources import load
from chatpager.errors import ConfigError
from tests.cli.test_engine_process import replicas, said, until
from tests.processes import serving


@pytest.mark.parametrize("given", [{}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_TOKEN": "x"}])
def test_a_cluster_without_a_token_is_not_joined(given, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE=token"):
        join(load({"ray_address": "10.0.0.1:6379"}, env={}))


def test_where_ray_is_missing_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"chatpager\[ray\]"):
        join(load({"ray_address": "local", "data_dir": str(tmp_path / "data")}, env={}))
    assert not list(tmp_path.iterdir())


def test_the_token_of_a_cluster_is_there_whole_or_not_at_all(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        "chatpager.cli.ray_cluster._join", lambda *how, **more: seen.append((tmp_path / TOKEN).read_text())
    )
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
    with monkeypatch.context() as broken:
        broken.setattr("chatpager.cli.ray_cluster.secrets.token_hex", lambda count: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            begin(tmp_path, cpus=1)
    assert not list(tmp_path.iterdir()), "an empty one would stay for good"
    begin(tmp_path, cpus=1)
    begin(tmp_path, cpus=1)
    assert seen[0] == seen[1] and len(seen[0]) == 64
    [token] = tmp_path.iterdir()
    assert token.stat().st_mode & 0o777 == 0o600


@pytest.mark.cluster
def test_an_answer_goes_on_where_the_actor_that_gave_it_is_killed(fork_server, home):
    flags = ("--replicas", "2", "--ray-address", "local", "--engine", "fake", "--test-mode", "--num-kv-blocks", "1024")
    with serving(fork_server, home, *flags, "--fake-tokens-per-second", "10") as server:
        plain, _ = said(server)
        asked = server.post("/v1/responses", {"input": "Hello", "max_output_tokens": 40, "background": True})
        until(lambda: server.get(f"/v1/responses/{asked['id']}")["output"])
        [row] = [row for row in replicas(server) if row["answers"]]
        os.kill(row["process"], signal.SIGKILL)
        ended = until(lambda: (one := server.get(f"/v1/responses/{asked['id']}"))["status"] != "in_progress" and one)
        assert (ended["status"], ended["output"][0]["content"][0]["text"]) == ("incomplete", plain)
        until(lambda: [one["state"] for one in replicas(server) if one["restarts"]] == ["ok"])
        assert said(server)[0] == plain
        actors = [one["process"] for one in replicas(server)]
        assert row["process"] not in actors
        assert server.stop() == 0
        until(lambda: not [actor for actor in actors if Path(f"/proc/{actor}").exists()])
