"""Another tenant's conversations, responses and blocks are as if they were not there, on every route and the socket."""

import asyncio
import re
from contextlib import asynccontextmanager, contextmanager

import pytest
from sqlalchemy import event

from chatpager.server.access import FOR_ADMINS, FOR_READERS, PUBLIC
from chatpager.server.keyring import CACHE_SECONDS, KEYRING
from chatpager.store import new_key
from tests.server.test_drafts import draft, drafted
from tests.serving import BLOCK, DEADLINE, GREEDY, eventually

CHAT = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
LONG = "The quick brown fox jumps over the lazy dog. " * 3


class Bearer:
    """A server as who has a key sees it."""

    def __init__(self, server, key):
        self._server = server
        self.headers = {"Authorization": f"Bearer {key}"}

    async def call(self, method, path, body=None):
        return await self._server.call(method, path, body, headers=self.headers)

    async def ok(self, method, path, body=None):
        answer = await self.call(method, path, body)
        assert answer.status == 200, answer.body
        return answer.json

    async def respond(self, input, **more):
        return await self.ok("POST", "/v1/responses", {"input": input, **GREEDY, **more})

    async def conversation(self):
        return (await self.ok("POST", "/v1/conversations", {}))["id"]

    def socket(self, **more):
        return self._server.socket(additional_headers=self.headers, **more)


async def bearer(server, tenant, role="user"):
    made, key = new_key(tenant, "", role, 1)
    await server.service.store.keys.create(made)
    return Bearer(server, key)


@pytest.fixture
async def two(server):
    """Ann, who has said something, and Bob, who knows every name of hers; her names, and names of nobody's."""
    ann, bob = await bearer(server, "ann"), await bearer(server, "bob")
    conversation = await ann.conversation()
    response = await ann.respond(LONG, conversation=conversation)
    chat = await ann.ok("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], **CHAT})
    [item, *_] = (await ann.ok("GET", f"/v1/conversations/{conversation}/items"))["data"]
    said = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    message = await ann.ok("POST", "/v1/messages", said)
    hers = {"conversation": conversation, "response": response["id"], "chat": chat["id"], "item": item["id"]}
    hers["message"] = message["id"]
    nobodys = {name: id[:-4] + "0000" for name, id in hers.items()}
    return ann, bob, hers, nobodys


async def all_of(bearer, hers):
    """What can be changed of somebody's."""
    path = f"/v1/conversations/{hers['conversation']}"
    return [
        await bearer.ok("GET", path),
        await bearer.ok("GET", f"{path}/items"),
        {lease["strength"] for lease in (await bearer.ok("GET", f"{path}/cache"))["leases"]},
        await bearer.ok("GET", f"/v1/responses/{hers['response']}"),
        [one["id"] for one in (await bearer.ok("GET", "/v1/conversations"))["data"]],
    ]


ITEMS = {"items": [{"role": "user", "content": "mine now"}]}
NAMED = {
    ("GET", "/v1/responses/{response}"): None,
    ("GET", "/v1/responses/{response}/input_items"): None,
    ("POST", "/v1/responses/{response}/cancel"): None,
    ("DELETE", "/v1/responses/{response}"): None,
    ("DELETE", "/v1/chat/completions/{chat}"): None,
    ("DELETE", "/v1/messages/{message}"): None,
    ("GET", "/v1/conversations/{conversation}"): None,
    ("POST", "/v1/conversations/{conversation}"): {"metadata": {"title": "mine now"}},
    ("DELETE", "/v1/conversations/{conversation}"): None,
    ("GET", "/v1/conversations/{conversation}/items"): None,
    ("GET", "/v1/conversations/{conversation}/export"): None,
    ("POST", "/v1/conversations/{conversation}/items"): ITEMS,
    ("GET", "/v1/conversations/{conversation}/items/{item}"): None,
    ("DELETE", "/v1/conversations/{conversation}/items/{item}"): None,
    ("GET", "/v1/conversations/{conversation}/cache"): None,
    ("PUT", "/v1/conversations/{conversation}/pin"): {"ttl": 60},
    ("DELETE", "/v1/conversations/{conversation}/pin"): None,
    ("POST", "/v1/conversations/{conversation}/fork"): None,
    ("POST", "/v1/conversations/{conversation}/prefetch"): None,
    ("POST", "/v1/conversations/{conversation}/hint"): {"tool": "search"},
    ("POST", "/v1/conversations/{conversation}/rewind"): {"to": "{response}"},
    ("POST", "/v1/conversations/{conversation}/compact"): {"summary": "mine now", "keep": 0},
    ("GET", "/v1/cache/explain?first={conversation}&second={response}"): None,
    ("GET", "/v1/conversations?after={conversation}"): None,
}
"""Routes that are told a name of something in the address -> what is sent there."""
GO_ON = {
    "conversation": {"conversation": "{conversation}"},
    "an object": {"conversation": {"id": "{conversation}"}},
    "response": {"previous_response_id": "{response}"},
}
"""Bodies of a turn that goes on from something."""
NAMELESS = {
    ("POST", "/v1/conversations"), ("GET", "/v1/conversations"), ("GET", "/v1/cache/top"), ("GET", "/v1/cache/events"),
    ("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/{}"),
    ("POST", "/v1/responses"), ("GET", "/v1/responses"),
    ("POST", "/v1/responses/input_tokens"),
    ("POST", "/v1/messages"), ("POST", "/v1/messages/count_tokens"), ("POST", "/v1/completions"),
    ("GET", "/v1/admin/audit"), ("POST", "/v1/login"), ("GET", "/v1/login"), ("DELETE", "/v1/login"),
    ("POST", "/v1/ws-tickets"),
    ("GET", "/v1/prefixes"), ("POST", "/v1/prefixes"), ("GET", "/v1/prefixes/{}"), ("DELETE", "/v1/prefixes/{}"),
    ("GET", "/v1/admin/snapshot"), ("GET", "/v1/admin/live"), ("GET", "/v1/admin/history"), ("GET", "/v1/admin/tables"),
    ("GET", "/v1/admin/blocks"), ("GET", "/v1/admin/blocks/{}"), ("GET", "/v1/admin/leases"),
    ("GET", "/v1/admin/tenants"), ("PUT", "/v1/admin/tenants/{}/limits"), ("PUT", "/v1/admin/keys/{}/limits"),
    ("POST", "/v1/admin/tenants/{}/pause"), ("POST", "/v1/admin/tenants/{}/resume"), ("DELETE", "/v1/admin/tenants/{}"),
    ("GET", "/v1/admin/replicas"), ("POST", "/v1/admin/replicas/{}/drain"), ("POST", "/v1/admin/replicas/{}/resume"),
    ("GET", "/v1/admin/settings"), ("POST", "/v1/admin/drain"), ("POST", "/v1/admin/requests/{}/cancel"),
    ("GET", "/v1/admin/sessions/{}/{}/turns"), ("PUT", "/v1/admin/sessions/{}/{}/pin"),
    ("DELETE", "/v1/admin/sessions/{}/{}/pin"), ("POST", "/v1/admin/sessions/{}/{}/turns/{}/reveal"),
}  # fmt: skip
"""What is told no name, or in its body, and the socket: the tests below show what they give."""


def shape(path):
    """A path without the names of what stands in its brackets, and without its query."""
    return "".join(
        "{}" if i % 2 else part for i, part in enumerate(path.partition("?")[0].replace("}", "{").split("{"))
    )


def nameless(said):
    """Without the request's own name."""
    return re.sub(r'"request_id":"[^"]*"', "", said)


def filled(body, names):
    if isinstance(body, dict):
        return {key: filled(value, names) for key, value in body.items()}
    return body.format(**names) if isinstance(body, str) else body


async def test_no_route_is_left_out(server):
    served = {
        (route.method, shape(route.resource.canonical))
        for route in server.app.router.routes()
        if route.method != "HEAD" and route.resource.canonical.startswith("/v1/")
    }
    assert {(method, shape(path)) for method, path in NAMED} | NAMELESS == served
    named = {route.name for route in server.app.router.routes()}
    guarded = server.app[PUBLIC] | server.app[FOR_ADMINS] | server.app[FOR_READERS]
    assert guarded <= named, "a name that no route has guards nothing"


@contextmanager
def asked(server):
    """What the database is asked meanwhile of what is said."""
    found, engine = [], server.service.store._database._visits._engine

    def note(connection, cursor, statement, *rest):
        if any(table in statement for table in ("turns", "sessions", "messages", "responses")):
            found.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield found
    event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize(("method", "path"), NAMED)
async def test_what_is_another_tenants_is_not_there_and_ones_own_is(two, server, method, path):
    """Nor is it told by more work than is done for what is nobody's."""
    ann, bob, hers, nobodys = two
    body, before = NAMED[method, path], await all_of(ann, hers)
    with asked(server) as of_hers:
        foreign = await bob.call(method, path.format(**hers), filled(body, hers))
    with asked(server) as of_nobodys:
        unknown = await bob.call(method, path.format(**nobodys), filled(body, nobodys))
    assert of_hers == of_nobodys
    assert foreign.status == unknown.status == 404
    said = foreign.body.decode()
    for name, id in hers.items():
        said = said.replace(id, nobodys[name])
    assert nameless(said) == nameless(unknown.body.decode())
    assert await all_of(ann, hers) == before
    assert (await ann.call(method, path.format(**hers), filled(body, hers))).status == 200


@pytest.mark.parametrize("body", GO_ON.values(), ids=GO_ON)
async def test_nobody_goes_on_from_what_another_tenant_said(two, body):
    ann, bob, hers, nobodys = two
    before = await all_of(ann, hers)
    foreign = await bob.call("POST", "/v1/responses", {"input": "And?", **GREEDY, **filled(body, hers)})
    unknown = await bob.call("POST", "/v1/responses", {"input": "And?", **GREEDY, **filled(body, nobodys)})
    assert foreign.status == 404
    assert foreign.refusal == unknown.refusal
    counted = await bob.call("POST", "/v1/responses/input_tokens", {"input": "And?", **filled(body, hers)})
    assert counted.refusal == foreign.refusal
    async with bob.socket() as socket:
        await socket.create("And?", **filled(body, hers))
        refused = await socket.receive()
        assert (refused["status"], refused["error"]["code"]) == (404, foreign.error["code"])
    assert await all_of(ann, hers) == before
    async with ann.socket() as socket:
        await socket.create("And?", **filled(body, hers))
        assert (await socket.rest())[-1]["type"] == "response.incomplete"


async def test_a_running_response_is_seen_and_ended_by_its_tenant_alone(server):
    ann, bob = await bearer(server, "ann"), await bearer(server, "bob")
    server.gate.hold()
    async with ann.socket() as hers, bob.socket() as his:
        conversation = await ann.conversation()
        await hers.create("Hello", conversation=conversation, max_output_tokens=200)
        response = (await hers.receive())["response"]["id"]
        await server.held()
        for method, path in (
            ("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/input_items")
        ):  # fmt: skip
            assert (await bob.call(method, f"/v1/responses/{response}{path}")).status == 404
        for asked in ("response.cancel", "response.resume"):
            await his.send(type=asked, response_id=response)
            assert (await his.receive())["error"]["code"] == "response_not_found"
        assert (await ann.ok("GET", f"/v1/responses/{response}"))["status"] == "in_progress"
        assert (await ann.ok("GET", f"/v1/conversations/{conversation}"))["chatpager"]["active_response_id"] == response
        await hers.send(type="response.cancel", response_id=response)
        server.gate.open()
        assert (await hers.rest())[-1]["response"]["chatpager"]["state"] == "cancelled"


async def test_another_tenants_response_is_nothing_to_compare_with_or_to_fork_at(two):
    ann, bob, hers, _ = two
    options = {"prompt_cache_options": {"comparison_response_id": hers["response"]}}
    told = [(await who.respond(LONG, **options))["prompt_cache_diagnostics"] for who in (bob, ann)]
    assert told[0] == {"type": "comparison_response_not_found"}
    assert told[1]["type"] != "comparison_response_not_found"
    conversation = await bob.conversation()
    mine = await bob.respond("Hello", conversation=conversation)
    for at, status in ((hers["response"], 404), (mine["id"], 200)):
        assert (await bob.call("POST", f"/v1/conversations/{conversation}/fork", {"at": at})).status == status
    for names in ((hers["response"], mine["id"]), (mine["id"], hers["response"])):
        query = "first={}&second={}".format(*names)
        assert (await bob.call("GET", f"/v1/cache/explain?{query}")).status == 404


async def test_lists_hold_ones_own(two):
    ann, bob, hers, _ = two
    assert (await bob.ok("GET", "/v1/conversations"))["data"] == []
    for one, found in ((ann, 1), (bob, 0)):
        assert len((await one.ok("GET", f"/v1/conversations?search={LONG[:12]}"))["data"]) == found
    mine = await bob.conversation()
    assert [one["id"] for one in (await bob.ok("GET", "/v1/conversations"))["data"]] == [mine]
    assert [one["id"] for one in (await ann.ok("GET", "/v1/conversations"))["data"]] == [hers["conversation"]]
    for path in ("/v1/models", "/v1/models/default"):
        assert await ann.ok("GET", path) == await bob.ok("GET", path)


# -- the cache --------------------------------------------------------------------------------------------------------


def cached(response):
    found = response["chatpager"]["cache"]
    return [found[f"{tier}_tokens"] for tier in ("device", "host", "disk")]


@pytest.mark.parametrize("kept", [True, False])
async def test_a_prompt_that_another_tenant_sent_is_cold(two, kept):
    ann, bob, _, _ = two
    his = await bob.respond(LONG, store=kept)
    assert (cached(his), his["chatpager"]["cache"]["miss_reason"]) == ([0, 0, 0], "cold")
    assert his["usage"]["input_tokens_details"]["cached_tokens"] == 0
    assert cached(await ann.respond(LONG, store=kept))[0] > 0
    assert cached(await bob.respond(LONG, store=kept))[0] > 0, "by then it is his own"


@pytest.mark.parametrize(
    ("path", "asked", "cached"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 8}, "cache_read_input_tokens"),
        ("/v1/completions", {"prompt": LONG, "max_tokens": 8, "temperature": 0}, "prompt_tokens_details"),
    ],
)
async def test_what_another_tenant_asked_on_the_other_wires_is_not_warm(two, path, asked, cached):
    ann, bob, *_ = two
    await ann.ok("POST", path, asked)
    found = [(await who.ok("POST", path, asked))["usage"][cached] for who in (bob, ann)]
    his, hers = [usage["cached_tokens"] if isinstance(usage, dict) else usage for usage in found]
    assert (his, hers > BLOCK) == (0, True)


async def test_a_chat_that_another_tenant_had_is_neither_found_nor_warm(two):
    ann, bob, _, _ = two
    first = {"messages": [{"role": "user", "content": LONG}], **CHAT}
    said = (await ann.ok("POST", "/v1/chat/completions", first))["choices"][0]["message"]
    again = {**first, "messages": [*first["messages"], said, {"role": "user", "content": "And?"}]}
    found = [(await who.ok("POST", "/v1/chat/completions", again))["usage"] for who in (bob, ann)]
    assert found[0]["prompt_tokens_details"]["cached_tokens"] == 0
    assert found[1]["prompt_tokens_details"]["cached_tokens"] > 0


async def test_what_went_to_host_memory_comes_back_for_its_tenant_alone(serve):
    async with serve(blocks=60, length=240, engine={"swap_space": 0.1}) as server:
        ann, bob = await bearer(server, "ann"), await bearer(server, "bob")
        conversation = await ann.conversation()
        await ann.respond(LONG, conversation=conversation)
        await ann.ok("DELETE", f"/v1/conversations/{conversation}/pin")
        for i in range(8):
            await ann.respond(f"{i} {LONG[::-1]}", conversation=await ann.conversation())
        assert (await ann.ok("GET", f"/v1/conversations/{conversation}/cache"))["host_tokens"] > 0
        assert cached(await bob.respond(LONG)) == [0, 0, 0]
        assert cached(await ann.respond(LONG))[1] > 0


async def test_what_is_on_disk_is_read_after_a_restart_for_its_tenant_alone(serve, tmp_path):
    kv = {"kv_dir": str(tmp_path / "kv")}
    async with serve(engine=kv) as server:
        ann, bob = await bearer(server, "ann"), await bearer(server, "bob")
        await ann.respond(LONG, conversation=await ann.conversation())
    async with serve(engine=kv) as server:
        ann._server = bob._server = server
        assert cached(await bob.respond(LONG)) == [0, 0, 0]
        device, host, disk = cached(await ann.respond(LONG))
        assert (device, host, disk > 0) == (0, 0, True)
        assert cached(await bob.respond(LONG + "!"))[1:] == [0, 0]


async def test_a_draft_is_computed_for_its_tenant_alone(two, server):
    ann, bob, hers, _ = two
    text = LONG[::-1]
    async with ann.socket(extended=True) as one, bob.socket(extended=True) as other:
        await draft(other, text, conversation=hers["conversation"])
        assert (await other.receive())["error"]["code"] == "conversation_not_found"
        await drafted(server, other, text)
        for role in ("user", "admin"):
            rows = (await (await bearer(server, "draft", role)).ok("GET", "/v1/cache/top"))["data"]
            assert {row["tenant"] for row in rows} == ({"ann"} if role == "admin" else set())
        await one.create(text + "!")
        assert cached((await one.rest())[-1]["response"])[0] < BLOCK, "the beginning that all her prompts have"
        await other.create(text + "!")
        assert cached((await other.rest())[-1]["response"])[0] > 0
    assert (await ann.ok("GET", f"/v1/conversations/{hers['conversation']}/cache"))["shared_tokens"] == 0


async def test_who_has_most_of_the_cache_is_told_of_ones_own_and_admins_of_all(two, server):
    ann, bob, hers, _ = two
    mine = await bob.respond(LONG[:80])

    async def top(who):
        return {(row["tenant"], row["id"]) for row in (await who.ok("GET", "/v1/cache/top"))["data"]}

    of_ann = {("ann", hers["conversation"]), ("ann", hers["chat"]), ("ann", hers["message"])}
    assert await top(bob) == {("bob", mine["id"])}
    assert await top(ann) == of_ann
    assert await top(await bearer(server, "cy")) == set()
    assert await top(await bearer(server, "cy", "admin")) == {("bob", mine["id"])} | of_ann


# -- roles and keys ---------------------------------------------------------------------------------------------------


ADMIN = [f"/v1/admin/{name}" for name in ("snapshot", "history", "tables", "blocks", "leases", "settings", "replicas")]


@pytest.mark.parametrize("path", ["/metrics", "/v1/cache/events", "/v1/prefixes", *ADMIN])
async def test_what_is_the_whole_servers_is_for_admins(two, server, path):
    ann, _, hers, _ = two
    for method in ("GET", "HEAD"):
        assert (await ann.call(method, path)).status == 403
    refused = await ann.call("GET", path)
    assert refused.refusal == (403, "forbidden", None)
    assert refused.error["type"] == "permission_error"
    assert "--role admin" in refused.error["message"]
    assert "this is about the whole server" in (await ann.call("POST", "/v1/admin/drain")).error["message"]
    admin = await bearer(server, "ann", "admin")
    assert (await admin.call("GET", path)).status == 200
    assert await all_of(admin, hers) == await all_of(ann, hers), "an admin is its tenant's too"
    assert (await admin.call("GET", "/v1/conversations/conv_none")).status == 404


async def test_what_all_tenants_share_is_published_by_admins_and_found_by_all(two, server):
    ann, bob, _, _ = two
    admin = await bearer(server, "ops", "admin")
    body = {"label": "support", "instructions": LONG}
    path = "/v1/prefixes/support"
    for method, there, sent in (("POST", "/v1/prefixes", body), ("GET", path, None), ("DELETE", path, None)):
        assert (await ann.call(method, there, sent)).refusal == (403, "forbidden", None)
    made = await admin.ok("POST", "/v1/prefixes", body)
    for who in (ann, bob):
        found = await who.respond("Hello", instructions=LONG, store=False)
        assert cached(found) == [made["tokens"], 0, 0]
        assert found["chatpager"]["cache"]["published"] == "support"
    assert (await admin.call("DELETE", path)).status == 200


async def test_an_admin_does_not_read_what_other_tenants_said(two, server):
    _, _, hers, _ = two
    admin = await bearer(server, "ops", "admin")
    for path in ("/v1/conversations/{conversation}/items", "/v1/responses/{response}"):
        assert (await admin.call("GET", path.format(**hers))).status == 404


async def test_the_servers_own_key_is_beside_the_stored_ones(serve):
    async with serve(api_key="secret") as server:
        own, ann = Bearer(server, "secret"), await bearer(server, "ann")
        conversation = await own.conversation()
        assert (await ann.call("GET", f"/v1/conversations/{conversation}")).status == 404
        assert (await own.call("GET", "/metrics")).status == 200
        assert (await Bearer(server, "cp_x").call("GET", "/v1/models")).refusal == (401, "invalid_api_key", None)
        assert (await server.get("/v1/models")).refusal == (401, "invalid_api_key", None)
        assert (await server.get("/health")).status == 200


async def test_an_open_server_is_closed_by_its_first_key_and_keeps_what_was_said(server):
    conversation = await server.conversation()
    async with server.socket() as socket:
        admin = await bearer(server, "default", "admin")
        later(server)
        assert (await server.get("/v1/conversations")).refusal == (401, "invalid_api_key", None)
        await socket.create("Hello")
        assert (await socket.receive())["error"]["code"] == "invalid_api_key"
    assert [one["id"] for one in (await admin.ok("GET", "/v1/conversations"))["data"]] == [conversation]


def later(server):
    """What was looked up is to be looked up again."""
    ring = server.app[KEYRING]
    now = ring.clock()
    ring.clock = lambda: now + CACHE_SECONDS


async def revoke(server, tenant):
    for key in await server.service.store.keys.every():
        if key.tenant == tenant:
            await server.service.store.keys.revoke(key.id, now=2)
    later(server)


async def test_a_revoked_key_opens_nothing(two, server):
    ann, bob, _, _ = two
    await revoke(server, "ann")
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/responses"), ("GET", "/metrics")):
        refused = await ann.call(method, path)
        assert refused.refusal == (401, "invalid_api_key", None)
    assert (await bob.call("GET", "/v1/models")).status == 200
    await revoke(server, "bob")
    assert (await bob.call("GET", "/v1/models")).status == 401
    assert (await server.get("/v1/models")).status == 401, "no key is left, and nobody comes in without one"


@asynccontextmanager
async def speaking(who, conversation):
    """A socket on which an answer has begun."""
    async with who.socket() as socket:
        await socket.create("Hello", conversation=conversation, max_output_tokens=40)
        await socket.until("response.output_text.delta")
        yield socket


async def test_a_socket_ends_with_its_key_and_its_answer_does_not(server):
    ann, bob = await bearer(server, "ann"), await bearer(server, "bob")
    conversation = await ann.conversation()
    server.gate.hold(after=4)
    async with speaking(ann, conversation) as hers, bob.socket() as his:
        await server.held()
        turn = await server.live_turn()
        await revoke(server, "ann")
        await hers.create("And then?", conversation=conversation)
        assert (await hers.until("error"))[-1]["error"]["code"] == "invalid_api_key"
        await hers.ws.wait_closed()
        assert hers.ws.close_code == 1008
        server.gate.open()
        assert (await server.turn_ended(turn)).status == "incomplete"
        await his.create("Hello")
        assert (await his.rest())[-1]["type"] == "response.incomplete"
    assert len(await server.service.store.turns_of("ann", conversation)) == 1


async def test_a_socket_on_which_nobody_speaks_ends_with_its_key_too(server):
    ann, bob = await bearer(server, "ann"), await bearer(server, "bob")
    async with ann.socket() as hers, bob.socket() as his:
        await revoke(server, "ann")
        async with asyncio.timeout(DEADLINE):
            told = await hers.receive()
        assert told["error"]["code"] == "invalid_api_key"
        await hers.ws.wait_closed()
        assert hers.ws.close_code == 1008
        await his.create("Hello")
        assert (await his.rest())[-1]["type"] == "response.incomplete"
    await eventually(lambda: not server.hub.turns)


async def test_keys_are_in_no_answer_no_log_and_no_file(server, capsys, caplog, tmp_path):
    ann = await bearer(server, "ann")
    key = ann.headers["Authorization"].removeprefix("Bearer ")
    answers = [
        await ann.call("GET", "/v1/models"),
        await ann.call("GET", f"/v1/responses/{LONG}"),
        await ann.call("POST", "/v1/responses", {"input": "Hello", "model": "x"}),
        await ann.call("GET", "/metrics"),
        await Bearer(server, key + "x").call("GET", "/v1/models"),
        await server.call("GET", "/v1/models", headers={"Authorization": key}),
    ]
    await server.service.store.close()
    later(server)
    answers.append(await ann.call("GET", "/v1/models"))
    assert [answer.status for answer in answers] == [200, 404, 404, 403, 401, 401, 503]
    shown = b"".join(answer.body + str(answer.headers).encode() for answer in answers)
    written = b"".join(file.read_bytes() for file in tmp_path.glob("chat.db*"))
    said = "".join(capsys.readouterr()) + caplog.text
    assert b"ann" in written
    for secret in (key, key[10:]):
        assert secret.encode() not in shown + written
        assert secret not in said
