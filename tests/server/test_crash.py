"""What a server finds that was killed in the middle of an answer."""

import shutil
from contextlib import asynccontextmanager

from tests.serving import GREEDY, eventually, open_serving


@asynccontextmanager
async def after_a_crash(server, model, tmp_path):
    """A server on the other one's database as it stands now, which is what kill -9 would leave."""
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in tmp_path.glob("chat.db*"):
        shutil.copy(file, crashed / file.name)
    async with open_serving(model, f"sqlite+aiosqlite:///{crashed / 'chat.db'}") as restarted:
        yield restarted


async def test_an_answer_that_was_cut_off_is_kept_as_far_as_it_was_told(server, chat_model, tmp_path):
    conversation = await server.conversation()
    server.gate.hold(after=4)
    async with server.socket() as socket:
        await socket.create("Hello", conversation=conversation, instructions="Be brief.", **GREEDY | {"temperature": 0})
        turn = await server.live_turn()
        await server.held()
        await eventually(lambda: any(getattr(e, "text", "") for e in turn.stream.events))
        told = "".join(getattr(event, "text", "") for event in turn.stream.events)
        async with after_a_crash(server, chat_model, tmp_path) as restarted:
            found = (await restarted.get("/v1/responses/" + turn.id)).json
            assert (found["status"], found["error"]["code"]) == ("failed", "server_restarted")
            assert found["chatpager"]["state"] == "interrupted"
            assert (found["conversation"], found["instructions"]) == ({"id": conversation}, "Be brief.")
            [item] = found["output"]
            assert item["status"] == "incomplete" and item["content"][0]["text"].startswith(told)
            assert found["usage"] is None and found["completed_at"] is None
            _, answer = await restarted.items(conversation)
            assert answer["id"] == item["id"] and answer["content"] == item["content"]
            assert (answer["chatpager"]["state"], answer["chatpager"]["error"]) == ("interrupted", found["error"])
            again = await restarted.respond("And then?", conversation=conversation)
            assert again["status"] == "incomplete"
            follow = await restarted.respond("And then?", previous_response_id=turn.id)
            assert follow["usage"]["input_tokens"] >= again["usage"]["input_tokens"]
        server.gate.open()
        await socket.rest()


async def test_one_that_had_not_begun_to_answer_has_its_question(server, chat_model, tmp_path):
    conversation = await server.conversation()
    server.gate.hold()
    async with server.socket() as socket:
        await socket.create("Hello", conversation=conversation)
        turn = await server.live_turn()
        async with after_a_crash(server, chat_model, tmp_path) as restarted:
            found = (await restarted.get("/v1/responses/" + turn.id)).json
            assert (found["status"], found["output"]) == ("failed", [])
            [question] = await restarted.items(conversation)
            assert question["content"][0]["text"] == "Hello"
            cancelled = await restarted.post(f"/v1/responses/{turn.id}/cancel")
            assert cancelled.json == found
        server.gate.open()
        await socket.rest()
