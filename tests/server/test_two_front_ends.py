"""Two servers of one PostgreSQL: what one computes can be asked for at the other, which says what it cannot do."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from chatpager.client import AsyncClient
from chatpager.store import Store
from tests.serving import eventually, open_serving

pytestmark = pytest.mark.postgres
SAID = "on and on and on and on"


@pytest.fixture
def both(chat_model, postgres_url):
    @asynccontextmanager
    async def open_both():
        await (await Store.open(postgres_url, migrate=True, share=True)).close()
        served = [open_serving(chat_model, postgres_url, lambda prompt: SAID, share=True) for _ in range(2)]
        async with served[0] as one, served[1] as other:
            yield one, other

    return open_both


async def test_what_another_server_computes_is_not_cancelled_followed_or_told_again_in_silence(both):
    async with both() as (one, other):
        one.gate.hold(after=2)
        body, key = {"input": "Hello", "background": True}, {"headers": {"Idempotency-Key": "k"}}
        id = (await one.post("/v1/responses", body, **key)).json["id"]
        path = f"/v1/responses/{id}"
        assert (await other.get(path)).json["status"] == "in_progress"
        assert (await other.post("/v1/responses", body, **key)).json["status"] == "in_progress"
        refused = [
            await other.post(f"{path}/cancel"),
            await other.get(f"{path}?stream=true"),
            await other.post("/v1/responses", {**body, "stream": True}, **key),
        ]
        assert {answer.refusal for answer in refused} == {(409, "response_elsewhere", None)}
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        one.gate.open()
        async with AsyncClient(other.url, resume_pauses=(0.0, 0.0)) as client:
            await eventually(lambda: not one.hub.turns)
            assert (await client.request("GET", path))["status"] == "completed"
        assert (await other.get(f"{path}?stream=true")).refusal == (410, "response_events_expired", "response_id")
        assert (await other.post(f"{path}/cancel")).json["status"] == "completed"
        assert (await other.post("/v1/responses", {**body, "stream": True}, **key)).status == 200


async def test_a_client_that_comes_back_to_the_other_server_has_the_whole(both):
    async with both() as (one, other):
        one.gate.hold(after=3)
        looked = []
        async with AsyncClient(one.url, resume_pauses=(0.0, 0.01)) as client:
            session, request = await client.session(), client.request
            async with session.send("Hello") as answer:
                text = await anext(aiter(answer))

                async def seen(*args, **more):
                    looked.append((await request(*args, **more))["status"])
                    return await request(*args, **more)

                client.url, client.request = other.url, seen
                answer._socket.transport.abort()
                rest = asyncio.create_task(_rest(answer))
                await eventually(lambda: looked.count("in_progress") > 1)
                one.gate.open()
                assert text + await rest == SAID


async def _rest(answer):
    return "".join([piece async for piece in answer])


@pytest.mark.parametrize("what", ["conversations", "responses"])
async def test_a_deletion_at_the_other_server_ends_the_answer_as_one_here_would(both, what):
    async with both() as (one, other):
        one.gate.hold(after=3)
        conversation = await one.conversation()
        asking = asyncio.create_task(one.post("/v1/responses", {"input": "Hello", "conversation": conversation}))
        turn = await one.live_turn()
        await eventually(lambda: turn.text)
        assert (await other.delete(f"/v1/{what}/{conversation if what == 'conversations' else turn.id}")).status == 200
        one.gate.open()
        ended = (await asking).json
        assert (ended["status"], ended["error"]) == ("cancelled", None)
        assert not one.hub.turns
