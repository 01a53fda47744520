"""Prefixes over HTTP: published, listed, withdrawn, and told in receipts."""

import pytest

from tests.serving import BLOCK

PATH = "/v1/prefixes"
RULES = "Answer as our support team does: in short sentences, and without promises. " * 2


async def publish(server, label="support", instructions=RULES, **more):
    answer = await server.post(PATH, {"label": label, "instructions": instructions, **more})
    assert answer.status == 200, answer.body
    return answer.json


async def test_a_published_prefix_and_its_receipts(server):
    made = await publish(server)
    tokens = made["tokens"]
    assert made == {
        "object": "prefix", "label": "support", "status": "published", "model": "tiny",
        "created_at": made["created_at"], "tokens": tokens, "blocks": tokens // BLOCK, "device_tokens": tokens,
        "host_tokens": 0, "disk_tokens": 0, "sessions": 0, "leases": [], "instructions": None, "pin": None,
    }  # fmt: skip
    response = await server.respond("Hello", instructions=RULES)
    cache = response["chatpager"]["cache"]
    assert (cache["published"], cache["published_tokens"], cache["device_tokens"]) == ("support", tokens, tokens)
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == tokens
    other = (await server.respond("Hello"))["chatpager"]["cache"]
    assert (other["published"], other["published_tokens"], other["device_tokens"]) == (None, 0, 0)
    chat = {"messages": [{"role": "system", "content": RULES}, {"role": "user", "content": "Hi"}], "max_tokens": 2}
    assert (await server.post("/v1/chat/completions", chat)).json["chatpager"]["cache"]["published"] == "support"
    one = (await server.get(f"{PATH}/support")).json
    assert one == {**made, "sessions": 2, "instructions": RULES}
    assert (await server.get(PATH)).json == {"object": "list", "data": [{**made, "sessions": 2}]}


async def test_a_pin_with_it(serve):
    async with serve(blocks=200, length=160) as server:
        made = await publish(server, ttl=7200)
        assert made["pin"] | {"expires_in": 0} == {
            "status": "granted", "strength": "hard", "tokens": made["tokens"], "expires_in": 0, "reason": "",
        }  # fmt: skip
        assert 7190 < made["pin"]["expires_in"] <= 7200
        [lease] = (await server.get(f"{PATH}/support")).json["leases"]
        assert lease["strength"] == "hard" and lease["seconds_left"] > 7190
        assert (await server.get("/v1/cache/top")).json["data"] == []


async def test_a_pin_that_nothing_is_left_for(serve):
    async with serve(blocks=66, length=512) as server:  # all of it is the longest request's
        made = await publish(server, ttl=60)
        assert made["status"] == "published" and made["pin"]["tokens"] == 0
        assert made["leases"] == []


async def test_withdrawn(server):
    await publish(server)
    assert (await server.delete(f"{PATH}/support")).json == {
        "id": "support", "object": "prefix.deleted", "deleted": True
    }  # fmt: skip
    for method in ("GET", "DELETE"):
        assert (await server.call(method, f"{PATH}/support")).refusal == (404, "prefix_not_found", None)
    assert (await server.get(PATH)).json["data"] == []
    assert (await server.respond("Hello", instructions=RULES))["chatpager"]["cache"]["published"] is None


async def test_it_is_there_after_a_restart(serve):
    async with serve() as server:
        made = await publish(server)
    async with serve() as server:
        assert (await server.get(f"{PATH}/support")).json | {"instructions": None} == {**made, "device_tokens": 0}
        await server.respond("Hello", instructions=RULES)
        assert (await server.get(f"{PATH}/support")).json["device_tokens"] == made["tokens"]


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({}, (400, "invalid_request", "label")),
        ({"label": ""}, (400, "invalid_request", "label")),
        ({"label": "a b"}, (400, "invalid_request", "label")),
        ({"label": "a/b"}, (400, "invalid_request", "label")),
        ({"label": "a\0"}, (400, "invalid_request", "label")),
        ({"label": "a\n"}, (400, "invalid_request", "label")),
        ({"label": "a" * 65}, (400, "invalid_request", "label")),
        ({"label": 1}, (400, "invalid_request", "label")),
        ({"label": "a"}, (400, "invalid_request", "instructions")),
        ({"label": "a", "instructions": ["x"]}, (400, "invalid_request", "instructions")),
        ({"label": "a", "instructions": ""}, (400, "invalid_request", "instructions")),
        ({"label": "a", "instructions": "\0" * 99}, (400, "invalid_request", "instructions")),
        ({"label": "a", "instructions": "x" * 100_000}, (400, "context_length_exceeded", "input")),
        ({"label": "a", "instructions": RULES, "ttl": 0}, (400, "invalid_request", "ttl")),
        ({"label": "a", "instructions": RULES, "ttl": True}, (400, "invalid_request", "ttl")),
        ({"label": "a", "instructions": RULES, "ttl": "60"}, (400, "invalid_request", "ttl")),
        ({"label": "a", "instructions": RULES, "tokens": 3}, (400, "invalid_request", "tokens")),
        ({"label": "support", "instructions": RULES + "!"}, (409, "prefix_exists", "label")),
    ],
)
async def test_what_is_refused_changes_nothing(server, body, refusal):
    before = await publish(server)
    assert (await server.post(PATH, body)).refusal == refusal
    assert (await server.get(PATH)).json["data"] == [before]


async def test_instructions_of_less_than_a_block_are_told_how_long_they_are(serve):
    async with serve(engine={"block_size": 64}) as server:
        answer = await server.post(PATH, {"label": "a", "instructions": "Be kind."})
        assert answer.refusal == (400, "prefix_too_short", "instructions")
        assert "tokens in common, and a block has 64" in answer.error["message"]


@pytest.mark.parametrize("label", ["none", "%00", "a%0Ab", "%F0%9F%98%80"])
async def test_an_unknown_label(server, label):
    for method in ("GET", "DELETE"):
        assert (await server.call(method, f"{PATH}/{label}")).refusal[:2] == (404, "prefix_not_found")
