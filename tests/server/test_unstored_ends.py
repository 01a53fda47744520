"""What is read of a turn whose end the store refused agrees with what was told of it."""

import pytest

from chatpager.errors import StoreError
from tests.serving import GREEDY


@pytest.fixture
async def failed(serve, monkeypatch):
    """A server, and the response that it told as failed because its end was not stored."""
    async with serve(lambda prompt: "so it is", hub={"pauses": ()}) as server:
        conversation = await server.conversation()

        async def refused(done):
            raise StoreError("the database is locked")

        with monkeypatch.context() as patch:
            patch.setattr(server.service.store, "finish_turn", refused)
            told = await server.respond("Hello", conversation=conversation)
        assert (told["status"], told["error"]["code"]) == ("failed", "storage_unavailable")
        assert text(told) == "so it is"
        yield server, told


def text(response):
    return response["output"][0]["content"][0]["text"]


@pytest.mark.parametrize("method", ["GET", "POST"], ids=["read", "cancelled"])
async def test_the_response(failed, method):
    server, told = failed
    answer = await server.call(method, f"/v1/responses/{told['id']}" + ("/cancel" if method == "POST" else ""))
    assert (answer.json["status"], text(answer.json)) == ("failed", "so it is")
    assert answer.json["chatpager"]["state"] == "interrupted"


async def test_its_events(failed):
    server, told = failed
    answer = await server.get(f"/v1/responses/{told['id']}?stream=true")
    assert answer.refusal == (410, "response_events_expired", "response_id")


async def test_the_items_of_its_conversation(failed):
    server, told = failed
    path = f"/v1/conversations/{told['conversation']['id']}/items"
    question, answer = (await server.get(path + "?order=asc")).json["data"]
    assert question["content"][0]["text"] == "Hello"
    assert (answer["id"], answer["content"][0]["text"]) == (told["output"][0]["id"], "so it is")
    assert (answer["status"], answer["chatpager"]["state"]) == ("incomplete", "interrupted")
    assert (await server.get(f"{path}/{answer['id']}")).json == answer


async def test_a_turn_that_runs_is_left_alone_by_who_reads_another(failed):
    server, told = failed
    server.gate.hold()
    async with server.socket() as socket:
        await socket.create("Hello", **GREEDY)
        turn = await server.live_turn()
        assert (await server.get(f"/v1/responses/{told['id']}")).json["status"] == "failed"
        assert (await server.get(f"/v1/responses/{turn.id}")).json["status"] == "in_progress"
        server.gate.open()
        assert (await socket.rest())[-1]["type"] == "response.incomplete"


async def test_the_rest_of_the_conversation_while_the_store_still_refuses(failed, monkeypatch):
    server, told = failed

    async def refused(*_, **__):
        raise StoreError("the disk is full")

    monkeypatch.setattr(server.service.store, "recover", refused)
    [question] = await server.items(told["conversation"]["id"])
    assert question["content"][0]["text"] == "Hello"
    answer = await server.get(f"/v1/responses/{told['id']}")
    assert answer.refusal == (503, "storage_unavailable", None), "never that it still runs"
