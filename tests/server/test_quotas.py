"""Requests and tokens in a minute, and conversations, by every wire: one tenant's end is nobody else's."""

import asyncio
import time

import pytest

from chatpager.errors import TenantPaused
from chatpager.server import routes_tenants
from chatpager.server.keyring import CACHE_SECONDS, KEYRING
from chatpager.server.routes_tenants import CHANGING
from chatpager.store import Limits, new_key
from tests.server.test_drafts import ask, drafted
from tests.server.test_tenants import Bearer, bearer
from tests.serving import GREEDY, eventually

SAID = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


async def test_so_many_requests_in_a_minute_whatever_their_wire_or_key(serve):
    async with serve(requests_per_minute=5, api_key="the owner's") as server:
        now = [0.0]
        server.hub.quotas._clock = lambda: now[0]
        ann, bob = await bearer(server, "ann"), await bearer(server, "bob")
        made, second = new_key("ann", "", "user", 1)
        await server.service.store.keys.create(made)
        async with ann.socket() as socket:  # the first
            await socket.create("Hello")
            assert (await socket.rest())[-1]["type"] == "response.incomplete"
            await ann.ok("GET", "/v1/models")
            await ann.respond("Hello")
            await Bearer(server, second).ok("GET", "/v1/conversations")
            await socket.create("Hello")
            refused = await socket.receive()
            assert (refused["status"], refused["error"]["code"]) == (429, "rate_limit_exceeded")
            assert refused["retry_after_ms"] == 12_000
            assert "may ask 5 times in a minute; try again in 12 s" in refused["error"]["message"]
            for path, body in (("/v1/responses", {"input": "Hello"}), ("/v1/messages", SAID)):
                answer = await Bearer(server, second).call("POST", path, body)
                assert (answer.status, answer.headers["retry-after"], answer.headers["x-should-retry"]) == (
                    429, "12", "true",
                )  # fmt: skip
            assert (await ann.call("POST", "/v1/responses/resp_x/cancel")).status == 404, "that is not counted"
            await bob.respond("Hello")
            now[0] += 12.0
            await socket.create("Hello")
            assert (await socket.rest())[-1]["type"] == "response.incomplete"
        owner = Bearer(server, "the owner's")
        for _ in range(6):  # who looks after the server is not kept out of it
            metrics = await owner.call("GET", "/metrics")
        assert b'chatpager_refused_total{code="rate_limit_exceeded"} 3.0' in metrics.body


async def test_so_many_tokens_in_a_minute_and_what_is_not_said_is_given_back(serve):
    async with serve(tokens_per_minute=300) as server:
        server.hub.quotas._clock = lambda: 0.0
        spent = 0
        while True:
            answer = await server.post("/v1/responses", {"input": "Hello", **GREEDY, "max_output_tokens": 40})
            if answer.status != 200:
                break
            spent += answer.json["usage"]["total_tokens"]
        assert answer.refusal == (429, "rate_limit_exceeded", None)
        assert "ask for shorter answers" in answer.error["message"]
        assert 300 <= spent < 300 + 100, "by one answer too much at the most"
        assert not server.hub.quotas._taken
        counted = await server.post("/v1/responses/input_tokens", {"input": "Hello"})
        assert counted.status == 200, "to count costs nothing"


async def test_so_many_conversations_and_no_more_forks_too(serve):
    async with serve(max_conversations=2) as server:
        first = await server.conversation()
        assert (await server.post(f"/v1/conversations/{first}/fork", {})).status == 200
        for path in ("/v1/conversations", f"/v1/conversations/{first}/fork"):
            refused = await server.post(path, {})
            assert refused.refusal == (409, "too_many_conversations", None)
        assert (await server.delete(f"/v1/conversations/{first}")).status == 200
        await server.conversation()


async def test_an_operator_changes_what_a_tenant_and_a_key_may_ask_for_while_it_runs_and_it_stays_so(
    serve, monkeypatch
):
    limits = {"requests_per_minute": 3, "max_conversations": 1}
    async with serve(api_key="the owner's") as server:
        server.hub.quotas._clock = lambda: 0.0
        own, ann = Bearer(server, "the owner's"), await bearer(server, "ann")
        made, key = new_key("ann", "", "user", 1)
        await server.service.store.keys.create(made)
        told = await own.ok("PUT", "/v1/admin/tenants/ann/limits", limits)
        assert (told["requests_left"], told["tokens_per_minute"], told["keys"]) == (3, None, 2)
        assert told["own"] == {**limits, "tokens_per_minute": None, "weight": None}
        assert (await own.ok("PUT", f"/v1/admin/keys/{made.id}/limits", {"tokens_per_minute": 50}))["tokens_left"] == 50
        assert (await own.call("PUT", "/v1/admin/keys/key_none/limits", {})).refusal == (404, "key_not_found", None)
        of_bob = await own.call("PUT", f"/v1/admin/keys/{made.id}/limits?tenant=bob", {})
        assert of_bob.refusal == (404, "key_not_found", None) and "of tenant 'bob'" in of_bob.error["message"]
        for body in ({"requests": 1}, {"tokens_per_minute": 0}, {"weight": 101}):
            assert (await own.call("PUT", "/v1/admin/tenants/ann/limits", body)).refusal[2] == next(iter(body))
        asked = {"input": "Hello", **GREEDY, "max_output_tokens": 100}
        assert (await Bearer(server, key).call("POST", "/v1/responses", asked)).status == 200
        refused = await Bearer(server, key).call("POST", "/v1/responses", asked)
        assert refused.status == 429 and "this key may use 50 tokens" in refused.error["message"]
        await ann.conversation()
        assert (await ann.call("GET", "/v1/models")).status == 429
        monkeypatch.setattr(routes_tenants, "MOST_ROWS", 1)
        await own.ok("PUT", "/v1/admin/tenants/Zoe/limits", {"weight": 2})
        told = await own.ok("GET", "/v1/admin/tenants")
        assert ([row["id"] for row in told["data"]], told["tenants_in_all"], told["keys_in_all"]) == (["Zoe"], 2, 1)
        told = await own.ok("GET", "/v1/admin/tenants?search=AN%20n")
        assert (told["tenants_in_all"], told["keys"]) == (1, [])
        [row] = told["data"]
        assert (row["requests_left"], row["conversations"], row["max_conversations"]) == (0, 1, 1)
        told = await own.ok("PUT", "/v1/admin/tenants/ann/limits", {"weight": 5})
        assert (told["weight"], told["own"]["weight"], told["own"]["max_conversations"]) == (5, 5, None)
        assert (server.hub.quotas.weight("ann"), server.hub.quotas.weight("bob")) == (5, 1)
        await ann.ok("GET", "/v1/models")
        await own.ok("PUT", "/v1/admin/tenants/ann/limits", limits)
        for stranger in (ann, await bearer(server, "ann", "read-only")):
            assert (await stranger.call("PUT", "/v1/admin/tenants/ann/limits", {})).status == 403
        actions = [row["action"] for row in (await own.ok("GET", "/v1/admin/audit"))["data"]]
        assert actions.count("tenant.limited") == 4 and actions.count("key.limited") == 1
    async with serve(api_key="the owner's") as server:
        ann = Bearer(server, key)
        assert (await ann.call("POST", "/v1/conversations", {})).refusal == (409, "too_many_conversations", None)
        [limited] = (await Bearer(server, "the owner's").ok("GET", "/v1/admin/tenants"))["keys"]
        assert (limited["id"], limited["tokens_per_minute"]) == (made.id, 50)
        await server.service.store.keys.revoke(made.id, now=2)
        own = Bearer(server, "the owner's")
        assert (await own.call("PUT", f"/v1/admin/keys/{made.id}/limits", {})).refusal == (404, "key_not_found", None)
        assert (await own.ok("GET", "/v1/admin/tenants"))["keys"] == []
        assert [row.kind for row in await server.service.store.tenants.limits()] == ["tenant", "tenant"]


async def test_a_tenant_that_is_paused_begins_nothing_and_loses_nothing(serve):
    async with serve(api_key="the owner's") as server:
        own, ann = Bearer(server, "the owner's"), await bearer(server, "ann")
        conversation = await ann.conversation()
        server.gate.hold(after=2)
        async with ann.socket() as socket:
            await socket.create("Hello", conversation=conversation)
            await server.held()
            waits = asyncio.ensure_future(
                ann.call("POST", "/v1/responses", {"input": "a", "conversation": conversation})
            )
            await eventually(lambda: server.hub._admission._places.taken == 2)
            authorization = f"Authorization: {ann.headers['Authorization']}\r\n"
            head = f"POST /v1/conversations HTTP/1.1\r\nHost: localhost\r\n{authorization}"
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(f"{head}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n".encode())
            assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
            assert (await own.ok("POST", "/v1/admin/tenants/ann/pause"))["running"] == 1
            writer.write(b"{}")
            assert b" 403 " in await reader.readline(), "its head came before the pause, and its body after"
            writer.close()
            server.gate.open()
            assert (await socket.rest())[-1]["type"] == "response.incomplete", "what runs goes on to its end"
            assert (await waits).refusal == (403, "tenant_paused", None), "it had not begun"
            await socket.create("And then?", conversation=conversation)
            assert (await socket.receive())["error"]["code"] == "tenant_paused"
            assert (await ann.call("GET", "/v1/conversations")).refusal == (403, "tenant_paused", None)
            assert (await ann.call("POST", "/v1/responses/resp_x/cancel")).status == 404, "it may end what runs"
            assert (await own.call("DELETE", "/v1/admin/tenants/bob")).refusal == (409, "tenant_not_paused", None)
            assert (await own.ok("POST", "/v1/admin/tenants/ann/resume"))["paused_at"] is None
            await socket.create("And then?", conversation=conversation)
            assert (await socket.rest())[-1]["type"] == "response.incomplete"


async def test_a_limit_that_is_being_stored_undoes_no_pause_and_goes_on_when_its_client_leaves(serve, monkeypatch):
    async with serve(api_key="the owner's") as server:
        own, store = Bearer(server, "the owner's"), server.service.store
        storing, going_on, limit = asyncio.Event(), asyncio.Event(), store.tenants.limit

        async def slowly(row):
            storing.set()
            await going_on.wait()
            await limit(row)

        monkeypatch.setattr(store.tenants, "limit", slowly)
        limiting = asyncio.ensure_future(own.call("PUT", "/v1/admin/tenants/ann/limits", {"weight": 5}))
        await storing.wait()
        pausing = asyncio.ensure_future(own.ok("POST", "/v1/admin/tenants/ann/pause"))
        limiting.cancel()
        await eventually(lambda: server.app[CHANGING]._waiters)
        going_on.set()
        told, [stored] = await pausing, await store.tenants.limits()
        assert (told["weight"], told["paused_at"]) == (5, stored.paused_at) and stored.paused_at
        assert stored == server.hub.quotas.limits["tenant", "ann"]


async def test_of_a_paused_tenant_neither_drafts_nor_prefetches_are_computed(server):
    ann = await bearer(server, "ann")
    conversation = await ann.conversation()
    async with ann.socket(extended=True) as socket:
        server.hub.quotas.change(Limits(kind="tenant", name="ann", paused_at=1))
        await drafted(server, socket, "The quick brown fox jumps over the lazy dog. " * 3)
        assert not await ask(server, lambda engine: engine.leases.heads)
    with pytest.raises(TenantPaused):
        await server.hub.prefetcher.bring("ann", conversation)


async def test_of_an_erased_tenant_no_turn_is_left_in_memory_and_nothing_in_the_database_or_on_disk(serve, tmp_path):
    word = "Xylophon"
    kv = {"kv_dir": str(tmp_path / "kv")}

    def blocks():
        return {path.name for path in (tmp_path / "kv").glob("*/*.kv")}

    async with serve(api_key="the owner's", engine=kv) as server:
        own, bob, ann = Bearer(server, "the owner's"), await bearer(server, "bob"), await bearer(server, "ann")
        await bob.respond("Something that stays. " * 3, conversation=await bob.conversation())
    his = blocks()
    assert his
    async with serve(api_key="the owner's", engine=kv) as server:
        hers = Bearer(server, ann.headers["Authorization"][7:])
        first = await hers.respond(f"{word} said, of no conversation. " * 4)
        await hers.respond("And then?", previous_response_id=first["id"])
        await hers.ok("DELETE", f"/v1/responses/{first['id']}")
    chained = blocks()
    assert chained > his, "in the name of the first turn, of which the next server knows nothing"
    async with serve(api_key="the owner's", engine=kv) as server:
        own = Bearer(server, "the owner's")
        hers, bobs = Bearer(server, ann.headers["Authorization"][7:]), Bearer(server, bob.headers["Authorization"][7:])
        conversation = await hers.conversation()
        kept = await hers.respond(f"{word} " * 20, conversation=conversation)
        chat = {"messages": [{"role": "user", "content": f"{word}e " * 20}], "max_tokens": 8}
        await server.call("POST", "/v1/chat/completions", chat, headers={**hers.headers, "Idempotency-Key": "one"})
        await eventually(lambda: blocks() > chained)
        [key] = [key.id for key in await server.service.store.keys.every() if key.tenant == "ann"]
        await own.ok("PUT", f"/v1/admin/keys/{key}/limits?tenant=ann", {"requests_per_minute": 600})
        server.gate.hold(after=2)
        running = asyncio.ensure_future(hers.respond(f"{word}e", conversation=conversation, max_output_tokens=200))
        await server.held()
        await own.ok("POST", "/v1/admin/tenants/ann/pause")
        login = await server.post("/v1/login", {"key": "the owner's"})
        by_cookie = {"Cookie": login.headers["Set-Cookie"].partition(";")[0], "X-Chatpager-Page": "1"}
        refused = await server.delete("/v1/admin/tenants/ann", headers=by_cookie)
        assert refused.status == 403 and "send the key itself" in refused.error["message"]
        erasing = asyncio.ensure_future(own.ok("DELETE", "/v1/admin/tenants/ann"))
        await eventually(lambda: not server.hub.engine._commands.empty())
        resumed = await own.call("POST", "/v1/admin/tenants/ann/resume")
        assert resumed.refusal == (409, "tenant_being_erased", None)
        server.gate.open()
        erased = await erasing
        assert (erased["conversations"], erased["turns"], erased["keys"]) == (1, 2, 1)
        assert (await running)["status"] == "cancelled"
        assert (await own.ok("DELETE", "/v1/admin/tenants/ann"))["conversations"] == 0
        assert (await own.ok("GET", "/v1/admin/tenants"))["keys"] == []
        assert [row.kind for row in await server.service.store.tenants.limits()] == ["tenant"]
        server.app[KEYRING].clock = lambda: time.monotonic() + 2 * CACHE_SECONDS
        assert (await hers.call("GET", f"/v1/responses/{kept['id']}")).status == 401
        assert len((await bobs.ok("GET", "/v1/conversations"))["data"]) == 1
        await eventually(lambda: blocks() == his)
        assert not server.service.keyed._running and not server.service.keyed._ended and not server.hub._recent._turns
        assert not server.hub._remembered._past
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) > 1 and not [path for path in files if word.encode() in path.read_bytes()]
