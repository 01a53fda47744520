"""One word, sent in every place that takes text and answered by the model, followed through every way that a turn can
go: it is in no line of the log, and in nothing that is told of the whole server."""

import io
import logging

import pytest
import structlog

from chatpager.cli.logs import MAX_VALUE, log_turn, set_up_logs
from chatpager.errors import StoreError
from tests.serving import GREEDY, eventually

WORD = "Xylophon"
SAID = f"a {WORD} of mine"
HEADERS = {"X-Session-Id": "agent 7"}
LOOKS = [
    "/metrics", "/health", "/v1/admin/snapshot", "/v1/admin/history", "/v1/admin/tables", "/v1/admin/blocks",
    "/v1/admin/blocks/1", "/v1/admin/leases", "/v1/admin/settings", "/v1/admin/audit", "/v1/admin/tenants",
    "/v1/cache/top", "/v1/cache/events", "/openapi.json",
]  # fmt: skip


@pytest.fixture(params=["console", "json"])
def log(request, monkeypatch):
    """What the server writes, as it writes it."""
    written, handlers = io.StringIO(), logging.getLogger().handlers
    monkeypatch.setattr("sys.stderr", written)
    before = structlog.get_config()
    set_up_logs(request.param)
    yield written
    structlog.configure(**before)
    logging.getLogger().handlers = handlers


def asked(**more):
    user = {"role": "user", "content": SAID}
    tools = [{"type": "function", "name": "search", "description": SAID, "parameters": {"type": "object"}}]
    return [
        ("/v1/responses", {"input": SAID, "instructions": SAID, "metadata": {"a": SAID}, **GREEDY, **more}),
        ("/v1/responses", {"input": SAID, "tools": tools, "stream": True, **GREEDY, **more}),
        ("/v1/chat/completions", {"messages": [user], "user": SAID, "max_tokens": 8}),
        ("/v1/messages", {"messages": [user], "system": SAID, "max_tokens": 8}),
        ("/v1/completions", {"prompt": SAID, "max_tokens": 8}),
        ("/v1/conversations", {"metadata": {"title": SAID}, "items": [user]}),
        ("/tokenize", {"prompt": SAID}),
    ]


WRONG = [
    ("/v1/responses", f'{{"input": "{SAID}", '),
    ("/v1/responses", {"input": [{"type": WORD}], WORD: WORD}),
    ("/v1/responses", {"input": SAID, "conversation": WORD}),
    ("/v1/responses", {"input": f"{SAID} " * 2000}),
    ("/v1/responses", {"input": SAID, "text": {"format": {"type": "json_schema", "name": WORD, "schema": {WORD: 1}}}}),
    (f"/v1/{WORD}", {}),
]


def mistake(*args):
    raise ValueError(SAID)


def write_turns(server):
    """As a server that was started by its command does."""
    before = server.hub._on_end

    def on_end(turn, ended):
        before(turn, ended)
        log_turn(turn, ended)

    server.hub._on_end = on_end


async def every_way(server, monkeypatch):
    """Good requests, wrong ones, ends of all kinds, and what is done with what was said."""
    for path, body in [*asked(), *WRONG]:
        await server.post(path, body, headers=HEADERS)
    conversation = await server.conversation(items=[{"role": "user", "content": SAID}])
    async with server.socket() as socket:
        for _ in range(2):
            await socket.create(SAID, conversation=conversation)
            first = (await socket.rest())[0]["response"]["id"]
        await socket.send(type=WORD)
        await socket.receive()
        await socket.ws.send(f'{{"{WORD}')
        await socket.receive()
        server.gate.hold(after=2)
        await socket.create(SAID, max_output_tokens=100)
        await server.held()
        cancelled = await server.live_turn()
        server.hub.cancel("default", cancelled.id)
        server.gate.open()
        await socket.rest()
    path = f"/v1/conversations/{conversation}"
    for act, body in (
        ("pin", None),
        ("fork", {}),
        ("rewind", {"to": first}),
        ("compact", {"summary": SAID, "keep": 0}),
    ):
        await server.call("PUT" if act == "pin" else "POST", f"{path}/{act}", body)
    await server.post("/v1/prefixes", {"label": "rules", "instructions": f"{SAID} " * 9})
    server.gate.hold(after=2)
    async with server.socket() as leaving:
        await leaving.create(SAID, max_output_tokens=100, chatpager={"on_disconnect": "cancel"})
        await server.held()
    server.gate.open()
    await eventually(lambda: not server.hub.turns)

    async def full(*args, **more):
        raise StoreError("the database is full")

    for name in ("finish_turn", "begin_turns", "journal"):
        with monkeypatch.context() as broken:
            broken.setattr(server.service.store, name, full)
            for end in asked()[:3]:
                await server.post(*end)
    for name in ("finish_turn", "begin_turns"):
        with monkeypatch.context() as broken:
            broken.setattr(server.service.store, name, mistake)
            await server.post(*asked()[0])
    await server.delete(path)


@pytest.mark.parametrize("log", ["json"], indirect=True)
async def test_a_word_is_in_no_log_and_in_nothing_that_is_told_of_the_whole_server(serve, log, monkeypatch):
    async with serve(lambda prompt: f"I say {WORD}", length=400) as server:
        write_turns(server)
        await every_way(server, monkeypatch)
        for path in LOOKS:
            told = await server.get(path)
            assert told.status == 200 and WORD.encode() not in told.body, path
        for row in (await server.get("/v1/admin/tables")).json["sessions"]:
            timeline = await server.get(f"/v1/admin/sessions/default/{row['id']}/turns")
            assert WORD.encode() not in timeline.body
    async with serve(mistake) as server:  # the model's step fails
        write_turns(server)
        for end in asked()[:5]:
            await server.post(*end)
    lines = log.getvalue()
    assert WORD not in lines, [line for line in lines.splitlines() if WORD in line][:3]
    for code in ("internal_error", "storage_unavailable", "engine_step_failed", "cancelled", "agent 7"):
        assert code in lines, code


def test_a_line_of_the_log_is_one_line_and_not_too_long(log):
    structlog.get_logger("chatpager").info("turn", said="a\nb" + "x" * MAX_VALUE * 2, many=["y" * MAX_VALUE * 2])
    structlog.get_logger("chatpager").info("turn", said="\x1b]0;title\x07\x9b2J\x85\u2028")
    logging.getLogger("of a library").warning("%s\r\nlevel=critical", "z" * MAX_VALUE * 2)
    lines = log.getvalue().splitlines()
    assert len(lines) == 3 and all(len(line) < 3 * MAX_VALUE for line in lines)
    assert all(line.isprintable() for line in lines), "a terminal is told nothing by what is said"
