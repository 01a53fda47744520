"""``chatpager sessions`` and ``chatpager cache`` against a real server."""

import asyncio
import json
import os
import re
import shutil
import socket
import time
import urllib.request

import pytest

from chatpager.cli.sessions import _print_raw
from chatpager.client import client
from tests.gate import DEADLINE
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
    first = ask("sessions", "ls").splitlines()[1]
    assert first.split()[0] == session
    assert "My name is Ada" in first
    assert json.loads(ask("sessions", "ls", "--json", "--limit", 1))[0]["id"] == session


def test_tenants_are_limited_paused_and_erased(ask):
    told = ask("tenants", "limit", "[ann]", "--requests-per-minute", 60, "--max-conversations", 0)
    assert told == "[ann]: 60 requests_per_minute, 0 max_conversations\n"
    assert ask("tenants", "pause", "[ann]") == "[ann] is paused\n"
    head, *rows = ask("tenants", "list").splitlines()
    assert head.split()[:2] == ["tenant", "state"]
    row = next(row for row in rows if row.startswith(" [ann]"))
    assert row.split() == ["[ann]", "paused", "0", "of", "0", "0", "0", "60,", "60", "left", "any"]
    assert "for good; say --yes" in ask("tenants", "erase", "[ann]", code=2)
    assert ask("tenants", "erase", "[ann]", "--yes") == "erased [ann]: 0 conversations, 0 other answers, 0 keys\n"
    assert ask("tenants", "resume", "[ann]") == "[ann] goes on\n"
    assert "pause it first" in ask("tenants", "erase", "[ann]", "--yes", code=1)
    assert json.loads(ask("tenants", "limit", "[ann]", "--json"))["requests_per_minute"] is None
    wrong = ask("tenants", "limit", "ann", "--key", "key_x", "--max-conversations", 1, code=2)
    assert "they are its tenant's" in wrong
    assert "no key 'key_x' of tenant 'ann'" in ask("tenants", "limit", "ann", "--key", "key_x", code=1)


def test_a_session_is_pinned_and_let_go(ask, session, server):
    assert re.match(r"granted: hard, \d+ tokens for 60 s\n", ask("sessions", "pin", session))
    told = ask("sessions", "show", session)
    assert re.match(r"(\d+) tokens: \1 device, 0 host, 0 disk; \d+ shared with others\n", told)
    assert re.search(r"^hard lease on \d+ tokens for \d\d s$", told, re.M)
    call = urllib.request.Request(f"{server.url}/v1/conversations/{session}/hint", b'{"tool": "search"}')
    urllib.request.urlopen(call, timeout=DEADLINE).close()
    told = ask("sessions", "show", session)
    assert re.search(r"^soft lease on \d+ tokens for \d\d s: waits for the tool search$", told, re.M)
    assert ask("sessions", "unpin", session) == "released\n"
    assert "lease" not in ask("sessions", "show", session)
    assert re.match(r"granted: soft, \d+ tokens for 30 s\n", ask("sessions", "pin", session, "--soft", "--ttl", 30))
    assert json.loads(ask("sessions", "show", session, "--json"))["leases"][0]["strength"] == "soft"


def test_a_session_is_forked_and_deleted(ask, session, chatpager, server):
    result = chatpager("sessions", "fork", session, "--url", server.url)
    child = result.out.strip()
    assert child != session
    assert f"chat --session {child} --url {server.url}" in result.err
    assert ask("sessions", "rm", child) == f"deleted {child}\n"
    assert child not in ask("sessions", "ls")
    assert "no conversation" in ask("sessions", "show", child, code=1)


def test_a_session_goes_back_to_an_earlier_answer(ask, session, chatpager, server):
    chatpager("chat", "--session", session, "--url", server.url, typed="What is my name?\n")
    with urllib.request.urlopen(f"{server.url}/v1/conversations/{session}/items?order=asc") as found:
        items = json.loads(found.read())["data"]
    assert len(items) == 4
    first = items[1]["chatpager"]["response_id"]
    assert ask("sessions", "rewind", session, first) == "rewound\n"
    with urllib.request.urlopen(f"{server.url}/v1/conversations/{session}/items?order=asc") as found:
        assert json.loads(found.read())["data"] == items[:2]
    assert "no response" in ask("sessions", "rewind", session, "resp_none", code=1)


def test_a_session_is_found_by_what_was_said_and_by_its_title(ask, session):
    assert ask("sessions", "rename", session, "Rainy [days]") == "renamed\n"
    for words in ("with my cat", "rainy"):
        found = ask("sessions", "search", words)
        assert session in found and "Rainy [days]" in found
    assert json.loads(ask("sessions", "search", "no one said this", "--json")) == []
    assert "no conversation" in ask("sessions", "rename", "conv_none", "a", code=1)


def test_what_was_said_does_not_steer_a_terminal(tmp_path):
    said = "a\x1b[2Jb\x9b\tc\nd\u202e\n"
    terminal, ours = os.openpty()
    with open(ours, "w") as out:
        _print_raw(said.encode(), out)
        assert os.read(terminal, 1000).decode() == "a\ufffd[2Jb\ufffd\tc\r\nd\ufffd\r\n"
    os.close(terminal)
    with open(tmp_path / "talk.md", "w") as out:
        _print_raw(said.encode(), out)
    assert (tmp_path / "talk.md").read_bytes() == said.encode()


def test_a_session_is_exported(ask, session):
    whole = json.loads(ask("sessions", "export", session))
    assert (whole["object"], whole["conversation"]["id"]) == ("conversation.export", session)
    assert [item["role"] for item in whole["items"]] == ["user", "assistant"]
    assert "My name is Ada and I live in Paris with my cat." in ask("sessions", "export", session, "--format", "md")
    assert json.loads(ask("sessions", "export", session, "--json")) == whole
    ask("sessions", "export", session, "--format", "pdf", code=2)
    ask("sessions", "export", session, "--format", "md", "--json", code=2)


def test_a_session_is_kept_for_a_tool_brought_back_and_made_short(ask, session, chatpager, server, tmp_path):
    assert re.match(r"\w+: soft, \d+ tokens for \d+ s\n", ask("sessions", "hint", session, "--tool", "search"))
    assert re.match(r"\w+: soft, \d+ tokens for 9\d s\n", ask("sessions", "hint", session, "--eta", 99))
    assert "--tool" in ask("sessions", "hint", session, code=2)
    assert ask("sessions", "prefetch", session) == "0 tokens brought to the device\n", "it is there"
    file = tmp_path / "summary.txt"
    file.write_text("Ada has a cat.\n")
    assert ask("sessions", "compact", session, file, "--keep", 0) == "compacted\n"
    exported = json.loads(ask("sessions", "export", session))["items"]
    assert [item["content"][0]["text"] for item in exported] == ["Ada has a cat."]
    empty = chatpager("sessions", "compact", session, "-", "--url", server.url, typed=" \n")
    assert empty.code == 2 and "summary = '-': is empty; say what is to stand in place of" in empty.err
    again = chatpager("sessions", "compact", session, "-", "--keep", 9, "--url", server.url, typed="Again.\n")
    assert (again.code, "nothing is older" in again.err) == (1, True)


def test_several_sessions_are_deleted_at_once_and_the_old_names_still_work(ask, session, server):
    other = server.post("/v1/conversations")["id"]
    assert ask("sessions", "delete", session, other, other) == f"deleted {session}\ndeleted {other}\n"
    assert {session, other}.isdisjoint(ask("sessions", "list").split())
    assert "is empty" in ask("sessions", "rm", other, " ", code=2)


def test_a_session_that_is_not_there_does_not_keep_the_others(chatpager, session, server):
    other = server.post("/v1/conversations")["id"]
    result = chatpager("sessions", "rm", "conv_none", session, "conv_gone", other, "--url", server.url)
    assert (result.code, result.out) == (1, f"deleted {session}\ndeleted {other}\n")
    told = result.err.splitlines()
    assert [line.startswith("chatpager: no conversation") for line in told] == [True, True]
    assert "conv_none" in told[0] and "conv_gone" in told[1]


def test_nothing_more_is_deleted_once_the_server_refuses_or_is_gone(chatpager, fork_server, tmp_path):
    with serving(fork_server, tmp_path, "--api-key", "k") as locked:
        for url in (locked.url, "http://127.0.0.1:9"):
            result = chatpager("sessions", "rm", "conv_a", "conv_b", "--url", url)
            assert (result.code, result.out, len(result.err.splitlines())) == (1, "", 1)


def test_what_the_cache_holds_and_saved(ask, session):
    told = ask("cache", "stats")
    assert re.search(r"^device  16,383 blocks of 16 tokens: 0 active, [\d,]+ cached, [\d,]+ free$", told, re.M)
    assert re.search(r"^host    0 MiB of 1,0\d\d MiB$", told, re.M)
    assert re.search(r"^disk    \d+ MiB of 2,048 MiB$", told, re.M)
    assert re.search(r"^hits    [\d,]+ of [\d,]+ prompt tokens \(\d+%\); 0 from host, 0 from disk$", told, re.M)
    assert set(json.loads(ask("cache", "stats", "--json"))) == {"kv", "tiers", "cache"}


def test_a_server_that_is_not_there_is_named(chatpager):
    result = chatpager("cache", "stats", "--url", "http://127.0.0.1:9")
    assert result.code == 1
    assert "no server at http://127.0.0.1:9" in result.err
    assert chatpager("cache", "stats", "--url", "nonsense").code == 2


def test_ids_are_whole_and_titles_are_one_line_whatever_they_hold(ask, server, chatpager):
    title = "\x1b[31mred\x1b[0m\ntwo\tthree \u202eback " + "long " * 20
    body = json.dumps({"metadata": {"title": title}}).encode()
    call = urllib.request.Request(f"{server.url}/v1/conversations", body, {"content-type": "application/json"})
    with urllib.request.urlopen(call) as answer:
        made = json.loads(answer.read())["id"]
    fork = chatpager("sessions", "fork", made, "--url", server.url).out.strip()
    lines = {line.split()[0]: line for line in ask("sessions", "ls").splitlines()}
    shown = lines[made]
    assert (
        "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}[0m two three \N{REPLACEMENT CHARACTER}back" in shown
    )
    assert shown.rstrip().endswith("long")
    assert f"(of {made})" in lines[fork]
    assert "the latest 1; --limit" in chatpager("sessions", "ls", "--limit", 1, "--url", server.url).err


def test_a_part_is_pinned_and_what_is_no_time_or_id_is_refused(ask, session):
    told = ask("sessions", "pin", session, "--tokens", 16, "--ttl", 7200)
    assert re.match(r"granted: hard, 16 tokens for 7200 s\n|renewed: ", told)
    assert "--ttl" in ask("sessions", "pin", session, "--ttl", "nan", code=2)
    assert "is empty" in ask("sessions", "show", " ", code=2)


def test_a_key_is_asked_for_in_the_commands_own_words(chatpager, fork_server, tmp_path):
    with serving(fork_server, tmp_path, "--api-key", "k") as server:
        for command in (("sessions", "ls"), ("chat",)):
            without = chatpager(*command, "--url", server.url, typed="Hello\n" if command == ("chat",) else "")
            assert "give it with --api-key or CHATPAGER_API_KEY" in without.err
        wrong = chatpager("sessions", "ls", "--url", server.url, "--api-key", "x")
        assert "the one that was given is not this server's" in wrong.err


def test_a_server_that_hangs_is_not_waited_for_for_ever(chatpager, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        monkeypatch.setattr(client, "ANSWER_SECONDS", 0.1)

        async def ask():
            async with client.AsyncClient(url) as ours:
                await ours.sessions()

        with pytest.raises(client.ClientError, match="does not answer"):
            asyncio.run(ask())


def test_a_disk_that_fails_is_told(chatpager, fork_server, tmp_path):
    with serving(fork_server, tmp_path) as server:
        [folder] = tmp_path.rglob("kv")
        for path in folder.iterdir():
            path.unlink() if path.is_file() else shutil.rmtree(path)
        folder.rename(folder.with_name("away"))
        folder.write_text("no folder")
        chatpager("chat", "--url", server.url, typed="My name is Ada and I live in Paris with my cat.\n")

        def stats():
            return chatpager("cache", "stats", "--url", server.url).out

        deadline = time.monotonic() + DEADLINE
        while "broken" not in stats():
            assert time.monotonic() < deadline
        assert re.search(r"^broken  \d+ blocks could not be written: see the server's log", stats(), re.M)
        assert re.search(r"^\S+Z \[warning +\] KV blocks cannot be written", server.process.err.text, re.M)


def test_it_is_explained_where_two_prompts_part(ask, chatpager, server):
    def said(text):
        told = chatpager("chat", "--url", server.url, typed=f"{text}\n")
        return re.search(r"conv_\w+", told.err)[0]

    one, two = said("My name is Ada and I live in Paris."), said("My name is Ada and I live in Rome.")
    told = ask("cache", "explain", one, two).splitlines()
    assert re.match(r"resp_\w+: \d+ tokens; resp_\w+: \d+ tokens$", told[0])
    assert re.match(r"the first (\d+) are the same: \1 need not be computed again$", told[1])
    assert re.match(r"they part at token \d+ in message 0 \(user\):$", told[2])
    assert (told[3][:4], "aris" in told[3]) == ("  A ", True)
    assert (told[4][:4], "ome" in told[4]) == ("  B ", True)
    assert ask("cache", "explain", one, one).splitlines()[2] == "one is the beginning of the other"
    assert json.loads(ask("cache", "explain", one, two, "--json"))["object"] == "cache.explanation"
    assert "no response" in ask("cache", "explain", one, "resp_none", code=1)


def test_what_all_conversations_share_is_published_and_withdrawn(ask, chatpager, server, tmp_path):
    file = tmp_path / "rules.txt"
    file.write_text("Be kind, be short, and say what you do not know. " * 4)
    publish = ("cache", "publish", "rules", "--instructions-file", file)
    assert re.match(r"published: \d+ tokens in \d+ blocks\n$", ask(*publish))
    told = ask(*publish, "--ttl", 90)
    assert re.match(r"published: (\d+) tokens in \d+ blocks\ngranted: \1 tokens on the device for [89]\d s\n$", told)
    assert json.loads(ask(*publish, "--json"))["label"] == "rules"
    head, row = ask("cache", "prefixes").splitlines()
    assert head.split() == ["label", "status", "tokens", "device", "host", "disk", "conversations", "leases"]
    assert re.match(r" *rules +published +(\d+) +\1 +0 +0 +0 +hard [89]\d s", row)
    assert [one["label"] for one in json.loads(ask("cache", "prefixes", "--json"))] == ["rules"]
    file.write_text("Be rude.")
    assert "a block has 16" in ask(*publish, code=1)
    assert ask("cache", "withdraw", "rules") == "withdrawn\n"
    assert "no prefix" in ask("cache", "withdraw", "rules", code=1)
    assert ask("cache", "prefixes").splitlines()[1:] == []
    piped = chatpager(*publish[:-1], "-", "--url", server.url, typed="Be kind and short. " * 9)
    assert piped.out.startswith("published: ")
    ask("cache", "withdraw", "rules")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_instructions_that_cannot_be_read_are_named(ask, tmp_path, content):
    file = tmp_path / "rules.txt"
    if content:
        file.write_bytes(content)
    assert "rules.txt" in ask("cache", "publish", "rules", "--instructions-file", file, code=2)


@pytest.mark.parametrize(
    "wrong", [("publish", "a", "--instructions-file", "-", "--ttl", 0), ("publish", "a"), ("withdraw", " ")]
)
def test_what_is_no_command_for_prefixes(ask, wrong):
    ask("cache", *wrong, code=2)


def test_what_a_command_did_a_program_can_have(ask, session, server, tmp_path):
    def told(*argv):
        return json.loads(ask("sessions", *argv, "--json"))

    assert told("rename", session, "Rain")["chatpager"]["title"] == "Rain"
    lease = told("pin", session, "--ttl", 90)
    assert (lease["object"], lease["id"], lease["strength"]) == ("conversation.pin", session, "hard")
    assert told("hint", session, "--tool", "search")["object"] == "conversation.hint"
    assert told("prefetch", session) == {"object": "conversation.prefetch", "id": session, "tokens": 0}
    assert told("unpin", session) == {"id": session, "object": "conversation.pin.deleted", "deleted": True}
    child = told("fork", session)
    assert child["chatpager"]["forked_from"] == session
    answer = json.loads(ask("sessions", "export", session))["items"][1]["chatpager"]["response_id"]
    assert told("rewind", session, answer)["id"] == session
    file = tmp_path / "summary.txt"
    file.write_text("Ada has a cat.\n")
    assert told("compact", session, file, "--keep", 0)["id"] == session
    deleted = told("rm", child["id"], session)
    assert [(one["id"], one["deleted"]) for one in deleted] == [(child["id"], True), (session, True)]
    rules = tmp_path / "rules.txt"
    rules.write_text("Be kind, be short, and say what you do not know. " * 4)
    ask("cache", "publish", "kind", "--instructions-file", rules)
    assert json.loads(ask("cache", "withdraw", "kind", "--json"))["id"] == "kind"


def test_what_of_several_was_deleted_a_program_can_have(chatpager, session, server):
    result = chatpager("sessions", "rm", "conv_none", session, "--json", "--url", server.url)
    assert result.code == 1 and "conv_none" in result.err
    assert [one["id"] for one in json.loads(result.out)] == [session]


def test_who_has_most_of_the_cache(ask, session):
    head, *rows = ask("cache", "top").splitlines()
    assert head.split() == ["conversation", "device", "host", "disk", "shared", "leases", "tenant"]
    [mine] = [row.split() for row in rows if session in row]
    assert int(mine[1]) >= 16
    assert mine[5] == "soft"
    assert len(json.loads(ask("cache", "top", "--limit", 1, "--json"))) == 1
