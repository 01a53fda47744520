"""/v1/conversations/{id}/items: what was said, with the account of every answer."""

import asyncio

import pytest

from chatpager.errors import StoreError
from tests.serving import GREEDY, eventually


def user(text):
    return {"role": "user", "content": text}


def texts(items):
    return ["".join(part["text"] for part in item["content"]) for item in items]


async def test_items_as_they_were_sent(server):
    sent = [
        {"role": "system", "content": "Be brief."},
        user([{"type": "input_text", "text": "Hel"}, {"type": "text", "text": "lo 你好"}]),
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]},
    ]
    items = await server.items(await server.conversation(items=sent))
    assert [(item["role"], item["type"], item["status"]) for item in items] == [
        ("system", "message", "completed"), ("user", "message", "completed"), ("assistant", "message", "completed"),
    ]  # fmt: skip
    assert [item["content"][0]["type"] for item in items] == ["input_text", "input_text", "output_text"]
    assert items[1]["content"] == [{"type": "input_text", "text": "Hello 你好"}]
    assert items[2]["content"] == [{"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": []}]
    assert texts(items) == ["Be brief.", "Hello 你好", "Hi."]
    assert len({item["id"] for item in items}) == 3 and all(item["id"].startswith("msg_") for item in items)


async def test_an_answer_s_item_has_its_account(server):
    conversation = await server.conversation()
    told = await server.respond("Hello", conversation=conversation)
    question, answer = await server.items(conversation)
    assert "chatpager" not in question
    assert answer["id"] == told["output"][0]["id"] and answer["status"] == "incomplete"
    assert answer["chatpager"] == {
        "response_id": told["id"], "state": "incomplete", "usage": told["usage"],
        "cache": told["chatpager"]["cache"], "timings": told["chatpager"]["timings"],
        "error": None,
    }  # fmt: skip


async def test_pages(server):
    conversation = await server.conversation(items=[user(str(n)) for n in range(5)])
    path = f"/v1/conversations/{conversation}/items"
    assert texts((await server.get(path)).json["data"]) == ["4", "3", "2", "1", "0"]
    seen, after = [], ""
    while True:
        page = (await server.get(f"{path}?order=asc&limit=2{after}")).json
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        seen.append(texts(page["data"]))
        if not page["has_more"]:
            break
        after = "&after=" + page["last_id"]
    assert seen == [["0", "1"], ["2", "3"], ["4"]]
    newest = (await server.get(f"{path}?limit=2")).json
    assert texts((await server.get(f"{path}?after={newest['last_id']}")).json["data"]) == ["2", "1", "0"]


@pytest.mark.parametrize(("query", "param"), [("after=msg_x", "after"), ("order=up", "order"), ("limit=0", "limit")])
async def test_pages_that_make_no_sense(server, query, param):
    path = f"/v1/conversations/{await server.conversation()}/items?{query}"
    assert (await server.get(path)).refusal == (400, "invalid_request", param)


async def test_one_item(server):
    conversation = await server.conversation(items=[user("a"), user("b")])
    for item in await server.items(conversation):
        assert (await server.get(f"/v1/conversations/{conversation}/items/{item['id']}")).json == item
    missing = await server.get(f"/v1/conversations/{conversation}/items/msg_x")
    assert missing.refusal == (404, "item_not_found", None)


async def test_items_are_added(server):
    conversation = await server.conversation()
    path = f"/v1/conversations/{conversation}/items"
    await server.respond("Hello", conversation=conversation)
    added = (await server.post(path, {"items": [user("a"), {"role": "assistant", "content": "b"}]})).json
    assert texts(added["data"]) == ["a", "b"] and added["has_more"] is False
    items = await server.items(conversation)
    assert items[2:] == added["data"]
    turn = await server.respond("And then?", conversation=conversation)
    assert turn["usage"]["input_tokens_details"]["cached_tokens"] > 0
    assert len(await server.items(conversation)) == 6


async def test_the_same_words_twice_are_two_items(server):
    conversation = await server.conversation(items=[user("a"), user("a")])
    assert len({item["id"] for item in await server.items(conversation)}) == 2


@pytest.mark.parametrize("body", [{}, {"items": []}, {"items": None}, {"items": {}}])
async def test_nothing_to_add(server, body):
    answer = await server.post(f"/v1/conversations/{await server.conversation()}/items", body)
    assert answer.refusal == (400, "invalid_request", "items")


async def test_a_field_beside_the_items_that_is_unknown_is_refused(server):
    body = {"items": [user("a")], "bar": 1}
    answer = await server.post(f"/v1/conversations/{await server.conversation()}/items", body)
    assert answer.refusal == (400, "invalid_request", "bar")


async def test_while_a_turn_runs_its_answer_is_an_item_and_nothing_can_be_added(server):
    conversation = await server.conversation()
    server.gate.hold(after=3)
    body = {"input": "Hello", "conversation": conversation, **GREEDY}
    asking = asyncio.create_task(server.post("/v1/responses", body))
    turn = await server.live_turn()
    await server.held()
    await eventually(lambda: turn.stream.text == turn.text)
    question, answer = await server.items(conversation)
    assert texts([question]) == ["Hello"] and answer["status"] == "in_progress"
    assert answer["content"][0]["text"] == turn.text
    assert answer["chatpager"]["response_id"] == turn.id and answer["chatpager"]["usage"] is None
    added = await server.post(f"/v1/conversations/{conversation}/items", {"items": [user("a")]})
    assert added.refusal == (409, "session_busy", None)
    server.gate.open()
    told = (await asking).json
    assert (await server.items(conversation))[1]["id"] == told["output"][0]["id"] == answer["id"]


async def test_an_answer_that_ends_while_items_are_read_is_among_them_once(server, monkeypatch):
    conversation = await server.conversation()
    server.gate.hold(after=3)
    body = {"input": "Hello", "conversation": conversation, **GREEDY}
    asking = asyncio.create_task(server.post("/v1/responses", body))
    turn = await server.live_turn()
    await server.held()
    load_chain = server.service.store.load_chain

    async def then_the_turn_ends(*args):
        chain = await load_chain(*args)
        monkeypatch.setattr(server.service.store, "load_chain", load_chain)
        server.gate.open()
        await server.turn_ended(turn)
        return chain

    monkeypatch.setattr(server.service.store, "load_chain", then_the_turn_ends)
    found = await server.items(conversation)
    assert [item["role"] for item in found] == ["user", "assistant"]
    assert found[1]["id"] == (await asking).json["output"][0]["id"]


async def test_an_answer_that_failed_says_why_as_its_response_does(serve, monkeypatch):
    async with serve(lambda prompt: "on and on") as server:
        conversation = await server.conversation()
        journal = server.service.store.journal

        async def full(entries):
            if any(entry.first_index + len(entry.token_ids) > 1 for entry in entries):
                raise StoreError("the disk is full")
            return await journal(entries)

        monkeypatch.setattr(server.service.store, "journal", full)
        told = (await server.post("/v1/responses", {"input": "Hello", "conversation": conversation})).json
        assert (told["status"], told["error"]["code"]) == ("failed", "storage_unavailable")
        _, answer = await server.items(conversation)
        assert answer["chatpager"]["state"] == "failed"
        assert answer["chatpager"]["error"] == told["error"]


async def test_items_are_added_behind_an_answer_whose_end_the_store_refused(serve, monkeypatch):
    """The turn has given up, but its row still says that it runs; that must not keep the conversation shut."""
    async with serve(lambda prompt: "on and on", hub={"pauses": ()}) as server:
        conversation = await server.conversation()
        finish_turn = server.service.store.finish_turn

        async def refused(done):
            monkeypatch.setattr(server.service.store, "finish_turn", finish_turn)
            raise StoreError("the database is locked")

        monkeypatch.setattr(server.service.store, "finish_turn", refused)
        told = (await server.post("/v1/responses", {"input": "Hello", "conversation": conversation})).json
        assert (told["status"], told["error"]["code"]) == ("failed", "storage_unavailable")
        assert (await server.service.store.turn("default", told["id"])).status == "in_progress"
        added = await server.post(f"/v1/conversations/{conversation}/items", {"items": [user("a")]})
        assert (added.status, texts(added.json["data"])) == (200, ["a"])
        items = await server.items(conversation)
        assert texts(items) == ["Hello", "on and on", "a"]
        assert (items[1]["status"], items[1]["chatpager"]["state"]) == ("incomplete", "interrupted")


async def test_an_answer_whose_response_was_deleted_stays_said(server):
    conversation = await server.conversation()
    told = await server.respond("Hello", conversation=conversation)
    await server.delete("/v1/responses/" + told["id"])
    _, answer = await server.items(conversation)
    assert texts([answer]) == [told["output"][0]["content"][0]["text"]]
    assert answer["status"] == "incomplete" and "chatpager" not in answer


async def take_out(server, conversation, item):
    answer = await server.delete(f"/v1/conversations/{conversation}/items/{item['id']}")
    assert (answer.status, answer.json["id"], answer.json["object"]) == (200, conversation, "conversation")


async def test_an_item_is_taken_out_and_the_others_stay(server):
    conversation = await server.conversation()
    for text in ("One.", "Two.", "Three."):
        told = await server.respond(text, conversation=conversation)
    before = await server.items(conversation)
    await take_out(server, conversation, before[2])
    after = await server.items(conversation)
    assert texts(after) == texts([*before[:2], *before[3:]])
    assert after[:2] == before[:2], "what stands before it is the same"
    await take_out(server, conversation, after[-1])
    assert await server.items(conversation) == after[:-1]
    again = await server.respond("And then?", conversation=conversation)
    assert again["usage"]["input_tokens_details"]["cached_tokens"] > 0
    assert (await server.get(f"/v1/responses/{told['id']}")).json["output"] == told["output"], "a response is its own"
    while left := await server.items(conversation):
        await take_out(server, conversation, left[0])
    assert (await server.respond("Hello", conversation=conversation))["status"] == "incomplete"


async def test_an_item_that_is_not_there_or_still_grows_is_not_taken_out(server):
    conversation = await server.conversation(items=[user("a")])
    path = f"/v1/conversations/{conversation}/items"
    assert (await server.delete(f"{path}/msg_never")).refusal == (404, "item_not_found", None)
    assert (await server.delete("/v1/conversations/conv_never/items/x")).refusal[1] == "conversation_not_found"
    server.gate.hold(after=3)
    running = asyncio.create_task(server.respond("Hold", conversation=conversation))
    await server.held()
    for item in await server.items(conversation):
        assert (await server.delete(f"{path}/{item['id']}")).refusal == (409, "session_busy", None)
    server.gate.open()
    await running
    assert len(await server.items(conversation)) == 3


async def test_of_a_message_with_several_items_the_others_stay(server):
    calls = [{"type": "function_call", "call_id": f"call_{n}", "name": "f", "arguments": "{}"} for n in "ab"]
    sent = [user("Look."), {"role": "assistant", "content": "I look."}, *calls]
    conversation = await server.conversation(items=sent)

    async def kinds():
        return [item.get("call_id", item["type"]) for item in await server.items(conversation)]

    assert await kinds() == ["message", "message", "call_a", "call_b"]
    for place, left in ((2, ["message", "message", "call_b"]), (1, ["message", "call_b"]), (1, ["message"])):
        await take_out(server, conversation, (await server.items(conversation))[place])
        assert await kinds() == left
