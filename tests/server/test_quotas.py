"""Requests and tokens in a minute, and conversations, by every wire: one tenant's end is nobody else's."""

from chatpager.store import new_key
from tests.server.test_tenants import Bearer, bearer
from tests.serving import GREEDY

SAID = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


async def test_so_many_requests_in_a_minute_whatever_their_wire_or_key(serve):
    async with serve(requests_per_minute=5, api_key="the owner's") as server:
        now = [0.0]
        server.hub.quotas._clock = lambda: now[0]
        ann, bob = await bearer(server, "ann"), await bearer(server, "bob")
        made, second = new_key("ann", "", "user", 1)
        await server.service.store.create_key(made)
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
