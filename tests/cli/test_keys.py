"""``chatpager keys``, on the database alone and beside a server that runs on it."""

import json
import re
import shlex
import time
import urllib.error
import urllib.request

import pytest

from tests.gate import DEADLINE
from tests.processes import SECONDS, serving


@pytest.fixture
def make(chatpager):
    """A new key: its id and itself."""

    def run(*argv):
        made = chatpager("keys", "create", *argv)
        assert made.code == 0, made.err
        key = made.out.strip()
        assert made.out == f"{key}\n" and re.fullmatch(r"cp_[\w-]{43}", key)
        assert key not in made.err
        return re.match(r"key_\w+", made.err)[0], key

    return run


def listed(chatpager):
    return json.loads(chatpager("keys", "list", "--json").out)


def status(url, key=None):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        asked = urllib.request.Request(f"{url}/v1/models", headers=headers)
        with urllib.request.urlopen(asked, timeout=DEADLINE) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def soon(url, key, expected):
    """The server hears of what was done in the database within seconds."""
    until = time.monotonic() + SECONDS
    while (found := status(url, key)) != expected:
        assert time.monotonic() < until, found


def test_a_key_is_shown_once_and_listed_by_its_beginning(chatpager, make):
    ann, key = make("--tenant", "ann", "--name", "[laptop]")
    bob, other = make("--tenant", "bob", "--role", "admin")
    rows = listed(chatpager)
    assert [(row["id"], row["tenant"], row["role"], row["name"]) for row in rows] == [
        (ann, "ann", "user", "[laptop]"), (bob, "bob", "admin", ""),
    ]  # fmt: skip
    assert [row["prefix"] for row in rows] == [key[:8], other[:8]]
    assert [row["revoked_at"] for row in rows] == [None, None]
    assert chatpager("keys", "revoke", ann).out == f"{ann} of tenant ann is revoked\n"
    head, first, second = chatpager("keys", "list").out.splitlines()
    assert head.split() == ["id", "tenant", "role", "key", "made", "revoked", "expires", "name"]
    assert first.split()[:4] == [ann, "ann", "user", f"{key[:8]}..."] and first.rstrip().endswith("[laptop]")
    assert first.split()[6] != "-" and second.split()[6] == "-"
    for argv in (["keys", "list"], ["keys", "list", "--json"], ["config", "show"], ["doctor", "--port", 0]):
        said = chatpager(*argv)
        assert key not in said.out + said.err and other not in said.out + said.err


def test_a_key_is_made_for_a_program(chatpager):
    made = json.loads(chatpager("keys", "create", "--tenant", "ann", "--json").out)
    key = made.pop("key")
    assert made == listed(chatpager)[0] and key.startswith(made["prefix"])
    assert abs(made["created_at"] - time.time()) < 600, "in seconds, as on the wire"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["create", "--tenant", "a b"], 2, ["tenant = 'a b'", "letters"]),
        (["create", "--tenant", "ann", "--role", "root"], 2, ["role = 'root'", "user or admin"]),
        (["create", "--tenant", "ann", "--name", "x" * 101], 2, ["name", "100"]),
        (["create", "--tenant", "ann", "--days", "0"], 2, ["days = 0", "above 0"]),
        (["create", "--tenant", "ann", "--days", "1e9"], 2, ["days", "at most"]),
        (["revoke", "key_none"], 1, ["no key 'key_none'"]),
    ],
)
def test_what_is_wrong_is_told_in_one_line_and_changes_nothing(chatpager, make, argv, code, words):
    make("--tenant", "ann")
    before = listed(chatpager)
    result = chatpager("keys", *argv)
    assert (result.code, result.out) == (code, "")
    [line] = result.err.splitlines()
    assert line.startswith("chatpager: ") and all(word in line for word in words)
    assert listed(chatpager) == before


def test_a_key_may_be_made_for_some_days(chatpager, make):
    make("--tenant", "ann", "--days", "1.5")
    [row] = listed(chatpager)
    assert row["expires_at"] - row["created_at"] == 1.5 * 86_400
    assert chatpager("keys", "list").out.splitlines()[1].split()[7].startswith("20")


@pytest.mark.parametrize("argv", [["list"], ["revoke", "key_1"]])
def test_where_no_database_is_none_is_made(chatpager, home, argv):
    result = chatpager("keys", *argv)
    assert result.code == 1 and re.search(r"does not exist; run `.* db upgrade`$", result.err)
    assert not (home / "data").exists()
    (home / "mine.toml").write_text("")
    for given in (["--data-dir", "other data"], ["--database-url", "sqlite:///x.db", "--config", "mine.toml"]):
        result = chatpager("keys", *argv, *given)
        assert result.code == 1 and result.err.rstrip().endswith(f" db upgrade {shlex.join(given)}`"), result.err


def test_a_server_that_runs_hears_of_keys(chatpager, make, fork_server, home):
    with serving(fork_server, home) as server:
        assert status(server.url) == status(server.url, "cp_x") == 200
        ann, key = make("--tenant", "ann")
        _, bobs = make("--tenant", "bob", "--role", "admin")
        soon(server.url, None, 401)
        assert status(server.url, key) == status(server.url, bobs) == 200
        said = chatpager("chat", "--url", server.url, "--api-key", key, typed="My name is Ada.\n")
        session = re.search(r"conv_\w+", said.err)[0]
        asks = ["--url", server.url, "--api-key"]
        assert session in chatpager("sessions", "list", *asks, key).out
        assert session not in chatpager("sessions", "list", *asks, bobs).out
        assert "no conversation" in chatpager("sessions", "show", session, *asks, bobs).err
        assert "no conversation" in chatpager("chat", "--session", session, *asks, bobs, typed="Hi\n").err
        assert [row.split()[0] for row in chatpager("cache", "top", *asks, key).out.splitlines()[1:]] == [session]
        assert chatpager("cache", "top", *asks, bobs).out.splitlines()[1].split()[-1] == "ann"
        again = chatpager("chat", "--session", session, *asks[:2], typed="Who am I?\n", CHATPAGER_API_KEY=key)
        assert again.code == 0, again.err
        revoked = json.loads(chatpager("keys", "revoke", ann, "--json").out)
        assert revoked["id"] == ann and revoked["revoked_at"] is not None
        soon(server.url, key, 401)
        refused = chatpager("sessions", "list", *asks, key)
        assert refused.code == 1 and "or was revoked" in refused.err
        assert status(server.url, bobs) == 200
        assert server.stop() == 0
        told = server.process.out.whole() + server.process.err.whole()
        assert key not in told and bobs not in told
        assert "tenant=ann" in told


def test_beyond_loopback_a_stored_key_will_do_for_as_long_as_it_is_good(chatpager, make, fork_server, home):
    anywhere = ("--host", "0.0.0.0")
    id, key = make("--tenant", "ann")
    assert ("access", "ok") in findings(chatpager("doctor", "--json", "--port", 0, *anywhere))
    with serving(fork_server, home, *anywhere) as server:
        assert (status(server.url), status(server.url, key)) == (401, 200)
        assert "$CHATPAGER_API_KEY" in server.process.out.wait_for(r"curl +(curl .*)")[1]
        chatpager("keys", "revoke", id)
        soon(server.url, key, 401)
        assert status(server.url) == 401
    refused = chatpager("demo", "--port", 0, *anywhere)
    assert refused.code == 2 and "keys create" in refused.err
    assert ("access", "wrong") in findings(chatpager("doctor", "--json", "--port", 0, *anywhere))


def findings(result):
    return {(finding["what"], finding["state"]) for finding in json.loads(result.out)}
