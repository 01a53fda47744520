"""Tokens that are counted and shown, of which nothing is computed."""

import pytest

from tests.serving import GREEDY

TEXT = "naïve 你好 <|im_end|> and more"


async def test_text_there_and_back(server):
    answer = (await server.post("/tokenize", {"prompt": TEXT, "return_token_strs": True})).json
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == server.hub.max_model_len
    assert (await server.post("/detokenize", {"tokens": answer["tokens"]})).json == {"prompt": TEXT}


async def test_what_is_passed_over_is_named(server):
    answer = (await server.post("/tokenize", {"prompt": "a", "add_generation_prompt": False})).json
    assert answer["chatpager"] == {"warnings": ["unknown field 'add_generation_prompt' was passed over"]}
    assert (await server.post("/tokenize", {"prompt": "a"})).json["chatpager"] is None
    for path, body in {
        "/detokenize": {"tokens": [1]},
        "/v1/responses/input_tokens": {"input": "a"},
        "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "a"}]},
    }.items():
        assert "chatpager" not in (await server.post(path, body)).json
        told = (await server.post(path, {**body, "foo": 1})).json["chatpager"]
        assert told == {"warnings": ["unknown field 'foo' was passed over"]}


async def test_messages_are_counted_as_they_ask_the_model(server):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    counted = (await server.post("/tokenize", {"messages": messages})).json
    done = (await server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})).json
    assert counted["count"] == done["usage"]["prompt_tokens"]
    assert counted["token_strs"] is None


async def test_input_tokens_are_those_of_the_turn_to_come(server):
    first = await server.respond("Hello")
    body = {"input": "And then?", "previous_response_id": first["id"], "instructions": "Be brief."}
    counted = (await server.post("/v1/responses/input_tokens", body)).json
    told = await server.respond(**body)
    assert counted == {"object": "response.input_tokens", "input_tokens": told["usage"]["input_tokens"]}
    assert len(server.hub.turns) == 0


@pytest.mark.parametrize(
    ("path", "body", "refusal"),
    [
        ("/tokenize", {}, (400, "invalid_request", "prompt")),
        ("/tokenize", {"prompt": "a", "messages": []}, (400, "invalid_request", "prompt")),
        ("/tokenize", {"prompt": "a\0"}, (400, "invalid_request", "prompt")),
        ("/tokenize", {"prompt": "word " * 100_000}, (400, "context_length_exceeded", "prompt")),
        (
            "/tokenize", {"messages": [{"role": "user", "content": "word " * 100_000}]},
            (400, "context_length_exceeded", "messages"),
        ),
        ("/tokenize", {"prompt": "a", "model": "x"}, (404, "model_not_found", "model")),
        ("/tokenize", {"messages": []}, (400, "invalid_request", "messages")),
        ("/detokenize", {"tokens": ["a"]}, (400, "invalid_request", "tokens[0]")),
        ("/detokenize", {"tokens": [-1]}, (400, "invalid_request", "tokens[0]")),
        ("/detokenize", {"tokens": [1] * 513}, (400, "invalid_request", "tokens")),
        ("/detokenize", {"tokens": [2**40]}, (400, "invalid_request", "tokens[0]")),
        ("/v1/responses/input_tokens", {}, (400, "invalid_request", "input")),
        (
            "/v1/responses/input_tokens", {"input": "a", "conversation": "c"},
            (404, "conversation_not_found", "conversation"),
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_counted(server, path, body, refusal):
    assert (await server.post(path, body)).refusal == refusal


async def test_ids_beyond_the_vocabulary_are_refused_by_name(server):
    last = server.hub.num_tokens - 1
    assert (await server.post("/detokenize", {"tokens": [last, 0]})).status == 200
    for beyond in (last + 1, 2**32, 2**64 - 1):
        refused = await server.post("/detokenize", {"tokens": [0, beyond]})
        assert refused.refusal == (400, "invalid_request", "tokens[1]")
        assert refused.error["message"] == f"tokens[1] is {beyond}, outside 0..{last}"


async def test_a_prompt_that_does_not_fit_is_counted(server):
    long = {"input": "words " * 200}
    count = (await server.post("/v1/responses/input_tokens", long)).json["input_tokens"]
    assert count > server.hub.max_model_len
    assert (await server.post("/v1/responses", {**long, **GREEDY})).status == 400
