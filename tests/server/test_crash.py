"""What a server finds that was killed in the middle of an answer."""

import shutil
from contextlib import asynccontextmanager

import pytest

from chatpager.sessions.answers import answer_of
from tests.chat_models import TOOLS_CHATML, save_tokenizer, thinking
from tests.server.test_tool_calls import CALL, SEARCH
from tests.serving import GREEDY, eventually, open_serving


@asynccontextmanager
async def after_a_crash(server, model, tmp_path, reply=None):
    """A server on the other one's database as it stands now, which is what kill -9 would leave."""
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in tmp_path.glob("chat.db*"):
        shutil.copy(file, crashed / file.name)
    async with open_serving(model, f"sqlite+aiosqlite:///{crashed / 'chat.db'}", reply) as restarted:
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
            account = question["chatpager"]
            assert (account["response_id"], account["state"]) == (turn.id, "interrupted")
            cancelled = await restarted.post(f"/v1/responses/{turn.id}/cancel")
            assert cancelled.json == found
        server.gate.open()
        await socket.rest()


THOUGHT = "They ask about Oslo."
OPENED = f"{THOUGHT}\n</think>\n\nI look it up.\n{CALL}"


@pytest.fixture(scope="module", params=[False, True], ids=["thinks", "is opened"])
def thinker(request, tmp_path_factory):
    template = thinking(TOOLS_CHATML, opens=request.param)
    return save_tokenizer(tmp_path_factory.mktemp("thinker"), template), ("" if request.param else "<think>") + OPENED


def said(items):
    """What items say, in order: thoughts, text, calls."""
    kinds = {"reasoning": lambda i: i["content"][0]["text"], "message": lambda i: i["content"][0]["text"]}
    return [(i["type"], kinds.get(i["type"], lambda i: (i["name"], i["arguments"]))(i)) for i in items]


@pytest.mark.parametrize("cut", [THOUGHT, "I look", '"query": "weath', "2.50}}"])
async def test_thoughts_and_calls_that_were_cut_off_are_kept_as_far_as_they_were_told(serve, thinker, tmp_path, cut):
    """And the conversation goes on from every token that was journalled."""
    model, reply = thinker
    async with serve(lambda prompt: reply, model=model, step=1000, length=1000) as server:
        told = reply[: reply.index(cut) + len(cut)]
        server.gate.hold(after=len(server.hub.tokenizer.encode_plain(told)))
        conversation = await server.conversation()
        async with server.socket() as socket:
            await socket.send(type="response.create", input="Hello", conversation=conversation, tools=[SEARCH])
            turn = await server.live_turn()
            await server.held()
            await eventually(lambda: turn.stream.answer == answer_of(turn._said))
            shown = (await server.get("/v1/responses/" + turn.id)).json["output"]
            assert shown
            async with after_a_crash(server, model, tmp_path, lambda prompt: "Yes.") as restarted:
                found = (await restarted.get("/v1/responses/" + turn.id)).json
                assert (found["status"], said(found["output"])) == ("failed", said(shown))
                assert [i["id"] for i in found["output"]] == [i["id"] for i in shown]
                ended = [i["status"] for i in found["output"]]
                assert ended == ["incomplete" if i["status"] == "in_progress" else "completed" for i in shown]
                items = said(await restarted.items(conversation))[1:]
                assert items == said(shown) or items == [*said(shown), ("message", "")]
                body = {"input": "Go on", "conversation": conversation, "tools": [SEARCH]}
                again = (await restarted.post("/v1/responses", body)).json
                assert again["usage"]["input_tokens"] > len(turn.prompt) + len(turn.token_ids)
            server.gate.open()
            await socket.rest()
