"""``chatpager sessions`` and ``chatpager cache`` against a real server."""

import json
import re

import pytest

from tests.processes import serving


@pytest.fixture(scope="module")
def server(fork_server, tmp_path_factory):
    with serving(fork_server, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def ask(chatpager, server):
    """Run a command against the server; what it printed."""

    def run(*argv, code=0):
        result = chatpager(*argv, "--url", server.url)
        assert result.code == code, result.err
        return result.out if code == 0 else result.err

    return run


@pytest.fixture
def session(chatpager, server):
    said = chatpager("chat", "--url", server.url, typed="My name is Ada and I live in Paris with my cat.\n")
    return re.search(r"conv_\w+", said.err + said.out)[0]


def test_sessions_are_listed_the_latest_first(ask, session):
    first = ask("sessions", "list").splitlines()[1]
    assert first.split()[0] == session
    assert "My name is Ada" in first
    assert json.loads(ask("sessions", "list", "--json", "--limit", 1))[0]["id"] == session


def test_a_session_is_pinned_and_let_go(ask, session):
    assert re.match(r"granted: hard, \d+ tokens for 60 s\n", ask("sessions", "pin", session))
    told = ask("sessions", "show", session)
    assert re.match(r"(\d+) tokens in full blocks: \1 device, 0 host, 0 disk; \d+ shared with others\n", told)
    assert re.search(r"^hard lease on \d+ tokens for \d\d s$", told, re.M)
    assert ask("sessions", "unpin", session) == "released\n"
    assert "lease" not in ask("sessions", "show", session)
    assert re.match(r"granted: soft, \d+ tokens for 30 s\n", ask("sessions", "pin", session, "--soft", "--ttl", 30))
    assert json.loads(ask("sessions", "show", session, "--json"))["leases"][0]["strength"] == "soft"


def test_a_session_is_forked_and_deleted(ask, session, chatpager, server):
    result = chatpager("sessions", "fork", session, "--url", server.url)
    child = result.out.strip()
    assert child != session
    assert f"chat --session {child} --url {server.url}" in result.err
    assert ask("sessions", "delete", child) == "deleted\n"
    assert child not in ask("sessions", "list")
    assert "no conversation" in ask("sessions", "show", child, code=1)


def test_what_the_cache_holds_and_saved(ask, session):
    told = ask("cache", "stats")
    assert re.search(r"^device  16,383 blocks of 16 tokens: 0 active, [\d,]+ cached, [\d,]+ free$", told, re.M)
    assert re.search(r"^host    0 MiB of 1,024 MiB$", told, re.M)
    assert re.search(r"^disk    \d+ MiB of 2,048 MiB$", told, re.M)
    assert re.search(r"^hits    [\d,]+ of [\d,]+ prompt tokens \(\d+%\); 0 from host, 0 from disk$", told, re.M)
    assert set(json.loads(ask("cache", "stats", "--json"))) == {"kv", "tiers", "cache"}


def test_a_server_that_is_not_there_is_named(chatpager):
    result = chatpager("cache", "stats", "--url", "http://127.0.0.1:9")
    assert result.code == 1
    assert "no server at http://127.0.0.1:9" in result.err
    assert chatpager("cache", "stats", "--url", "nonsense").code == 2
