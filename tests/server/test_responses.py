"""POST and GET /v1/responses: one response after another, over real HTTP."""

import pytest
from openai.types.responses import Response

from tests.serving import GREEDY


def text(response):
    return "".join(part["text"] for item in response["output"] for part in item["content"])


async def test_a_response(serve):
    async with serve(lambda prompt: "ok, 你好") as server:
        answer = await server.post("/v1/responses", {"input": "Hello", "temprature": 1})
    response = answer.json
    Response.model_validate(response)
    assert (answer.status, response["status"], text(response)) == (200, "completed", "ok, 你好")
    assert response["chatpager"]["warnings"] == ["unknown field 'temprature' was passed over"]
    assert response["chatpager"]["cache"]["miss_reason"] == "cold"
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 0
    assert response["usage"]["output_tokens"] > 1


async def test_the_next_turn_computes_only_what_is_new(server):
    first = await server.respond("The quick brown fox jumps over the lazy dog.")
    second = await server.respond("And then?", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    cached = second["usage"]["input_tokens_details"]["cached_tokens"]
    whole = first["usage"]["total_tokens"] - 1
    assert cached == whole
    assert second["chatpager"]["cache"]["device_tokens"] == cached
    again = await server.respond("And then?", previous_response_id=first["id"])
    assert text(again) == text(second), "greedy, from the cache or not"


async def test_what_follows_what(serve):
    async with serve(lambda prompt: prompt[-60:]) as server:
        first = await server.respond("one", max_output_tokens=100)
        second = await server.respond("two", previous_response_id=first["id"], max_output_tokens=100)
        fork = await server.respond("three", previous_response_id=first["id"], instructions="Be brief.")
        assert "one" in text(first) and "two" in text(second)
        assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
        assert fork["instructions"] == "Be brief."
        assert (await server.respond("four", previous_response_id=fork["id"]))["instructions"] is None


async def test_a_turn_of_a_conversation(server):
    conversation = await server.conversation()
    first = await server.respond("Hello", conversation=conversation)
    assert first["conversation"] == {"id": conversation}
    await server.respond("And then?", conversation={"id": conversation})
    items = await server.items(conversation)
    assert [item["role"] for item in items] == ["user", "assistant", "user", "assistant"]
    assert items[1]["id"] == first["output"][0]["id"]
    assert items[1]["content"] == first["output"][0]["content"]


async def test_a_turn_without_input_answers_the_conversation(server):
    conversation = await server.conversation(items=[{"role": "user", "content": "Hello"}])
    await server.respond(None, conversation=conversation)
    assert [item["role"] for item in await server.items(conversation)] == ["user", "assistant"]


async def test_an_empty_conversation_needs_input(server):
    answer = await server.post("/v1/responses", {"conversation": await server.conversation()})
    assert answer.refusal == (400, "invalid_request", "input")


async def test_the_response_of_a_conversation_can_be_followed_beside_it(server):
    conversation = await server.conversation()
    first = await server.respond("Hello", conversation=conversation)
    beside = await server.respond("And then?", previous_response_id=first["id"])
    assert beside["conversation"] is None
    assert len(await server.items(conversation)) == 2


async def test_an_empty_answer_is_complete(server):
    ends_at_once = {"logit_bias": {"2": 100}, "temperature": 0}
    response = (await server.post("/v1/responses", {"input": "Hello", **ends_at_once})).json
    assert (response["status"], text(response), response["usage"]["output_tokens"]) == ("completed", "", 1)
    assert (await server.get("/v1/responses/" + response["id"])).json == response
    after = await server.respond("And then?", previous_response_id=response["id"])
    assert after["status"] == "incomplete"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_a_bias_on_a_token_that_the_model_lacks_is_refused_and_nothing_stored(server, path):
    size = server.hub.tokenizer.backend.get_vocab_size()
    conversation = await server.conversation()
    asked = {"messages": [{"role": "user", "content": "a"}]}
    if path == "/v1/responses":
        asked = {"input": "a", "conversation": conversation}
    answer = await server.post(path, {**asked, "logit_bias": {str(size): 1}})
    assert answer.refusal == (400, "invalid_request", "logit_bias")
    assert str(size) in answer.error["message"] and f"0..{size - 1}" in answer.error["message"]
    assert await server.items(conversation) == []
    body = {**asked, "logit_bias": {str(size - 1): 1}, "max_tokens": 1, "max_output_tokens": 1}
    assert (await server.post(path, body)).status == 200


async def test_a_stop_string_ends_the_answer(serve):
    async with serve(lambda prompt: "one two three") as server:
        response = (await server.post("/v1/responses", {"input": "a", "stop": [" tw"]})).json
    assert (response["status"], text(response)) == ("completed", "one")


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (
            {"input": "a", "previous_response_id": "resp_x"},
            (404, "previous_response_not_found", "previous_response_id"),
        ),
        ({"input": "a", "conversation": "conv_x"}, (404, "conversation_not_found", "conversation")),
        ({"input": "a", "model": "other"}, (404, "model_not_found", "model")),
        ({"input": "a", "tools": [{"type": "function"}]}, (400, "invalid_request", "tools")),
        ({"input": "a", "tools": [{"type": "function", "name": "f"}]}, (400, "invalid_request", "tools")),
        ({"input": "a" * 5000}, (400, "context_length_exceeded", "input")),
        ({"input": "a", "max_output_tokens": 513}, (400, "invalid_request", "max_output_tokens")),
        ({"input": "a", "min_tokens": 600}, (400, "context_length_exceeded", "input")),
        ({"input": "a", "stream_options": {}}, (400, "invalid_request", "stream_options")),
        ({}, (400, "invalid_request", "input")),
        (b"{", (400, "invalid_json", None)),
        (b"", (400, "invalid_json", None)),
        (b"\xff", (400, "invalid_json", None)),
        (b"[" * 10_000, (400, "invalid_json", None)),
    ],
)
async def test_refusals(server, body, refusal):
    answer = await server.post("/v1/responses", body)
    assert answer.refusal == refusal
    assert not server.hub.turns


async def test_a_request_that_fits_no_cache(serve):
    async with serve(lambda prompt: "ok", blocks=8) as server:
        answer = await server.post("/v1/responses", {"input": "word " * 60})
        assert (answer.status, answer.json["status"]) == (200, "failed")
        assert answer.json["error"]["code"] == "kv_capacity_exceeded"


async def test_a_body_that_is_too_large(serve):
    async with serve(max_message_bytes=2000) as server:
        answer = await server.post("/v1/responses", {"input": "a" * 3000})
        assert answer.refusal == (413, "request_too_large", None)
        assert "2000 bytes" in answer.error["message"]
        assert (await server.respond("short"))["status"] == "incomplete"


async def test_a_body_that_is_packed_in_no_known_way(server):
    for packed in ("foo", "gzip, gzip"):
        answer = await server.post("/v1/responses", {"input": "Hello"}, headers={"Content-Encoding": packed})
        assert answer.refusal == (415, "unsupported_content_encoding", None)
    answer = await server.post("/v1/conversations", {}, headers={"Content-Encoding": "identity"})
    assert answer.status == 200
    answer = await server.post("/v1/responses", b"nonsense", headers={"Content-Encoding": "gzip"})
    assert answer.refusal == (400, "invalid_request", None)


# -- read again, delete -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["completed", "incomplete"])
async def test_what_is_read_again_is_what_was_told(serve, status):
    limit = {} if status == "completed" else {"max_output_tokens": 2}
    async with serve(lambda prompt: "one two three") as server:
        told = (await server.post("/v1/responses", {"input": "a", **limit})).json
        assert told["status"] == status
        assert (await server.get("/v1/responses/" + told["id"])).json == told
    async with serve() as server:
        assert (await server.get("/v1/responses/" + told["id"])).json == told


async def test_a_response_that_was_not_stored_is_nowhere(server):
    told = await server.respond("Hello", store=False)
    assert told["store"] is False
    assert (await server.get("/v1/responses/" + told["id"])).refusal == (404, "response_not_found", None)
    following = await server.post("/v1/responses", {"input": "a", "previous_response_id": told["id"]})
    assert following.refusal == (404, "previous_response_not_found", "previous_response_id")


async def test_delete(server):
    told = await server.respond("Hello")
    path = "/v1/responses/" + told["id"]
    assert (await server.delete(path)).json == {"id": told["id"], "object": "response", "deleted": True}
    assert (await server.delete(path)).refusal == (404, "response_not_found", None)
    assert (await server.get(path)).refusal == (404, "response_not_found", None)
    assert (await server.post(path + "/cancel")).refusal == (404, "response_not_found", None)


async def test_a_chat_is_no_response(server):
    chat = await server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2})
    path = "/v1/responses/" + chat.json["id"]
    for answer in (
        await server.get(path),
        await server.delete(path),
        await server.post(path + "/cancel"),
        await server.get(path + "/input_items"),
    ):
        assert answer.refusal == (404, "response_not_found", None)


async def test_what_a_response_was_asked(server):
    first = await server.respond([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}])
    second = await server.respond("two", previous_response_id=first["id"])
    pages = [(await server.get(f"/v1/responses/{told['id']}/input_items")).json for told in (first, second)]
    assert [[item["content"][0]["text"] for item in page["data"]] for page in pages] == [["one", "Be brief."], ["two"]]
    path = f"/v1/responses/{first['id']}/input_items?order=asc&limit=1"
    page = (await server.get(path)).json
    assert page["has_more"] is True and text({"output": page["data"]}) == "Be brief."
    assert text({"output": (await server.get(f"{path}&after={page['last_id']}")).json["data"]}) == "one"
    assert (await server.get("/v1/responses/resp_x/input_items")).refusal == (404, "response_not_found", None)


async def test_cancelling_what_has_ended_changes_nothing(server):
    told = await server.respond("Hello")
    answer = await server.post(f"/v1/responses/{told['id']}/cancel")
    assert (answer.status, answer.json) == (200, told)


async def test_a_mistake_of_the_engine_fails_the_response(serve):
    def broken(prompt):
        raise ZeroDivisionError

    async with serve(broken) as server:
        response = (await server.post("/v1/responses", {"input": "Hello", **GREEDY})).json
        assert (response["status"], response["error"]["code"]) == ("failed", "engine_step_failed")
        assert (await server.get("/v1/responses/" + response["id"])).json == response
