"""Answers of a form and calls that are forced, on both wires, from a random model that would say anything else."""

import asyncio
import json
import re
import shutil
from typing import Literal

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from chatpager.engine.call_forms import ASKS_FOR_BARE_CALLS
from chatpager.engine.grammar import Grammar
from chatpager.errors import InvalidRequest, Overloaded
from chatpager.server.chat_requests import chat_request
from tests.chat_models import (
    DEEPSEEK,
    DEEPSEEK_LATER,
    DEEPSEEK_TOKENS,
    EOS,
    HARMONY,
    HARMONY_TOKENS,
    MISTRAL,
    MISTRAL_APART,
    MISTRAL_TOKENS,
    TOOLS_CHATML,
    save_model,
    save_tokenizer,
)
from tests.server.test_call_forms import XML
from tests.serving import DEADLINE, open_serving

ASK = "What is the weather like in Oslo?"
CHAT = {"messages": [{"role": "user", "content": ASK}]}
BIAS = {"temperature": 0.7, "seed": 5}


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=8)
    days: int = Field(ge=1, le=14)


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["rain", "sun"]
    cities: list[City] = Field(max_length=2)


SCHEMA = City.model_json_schema()
FORMAT = {"type": "json_schema", "name": "weather", "schema": Weather.model_json_schema(), "strict": True}
SEARCH = {"type": "function", "name": "search", "parameters": SCHEMA}
CLOCK = {"type": "function", "name": "clock", "parameters": {"type": "object", "additionalProperties": False}}
NESTED = [{"type": "function", "function": {k: v for k, v in t.items() if k != "type"}} for t in (SEARCH, CLOCK)]


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return save_tokenizer(save_model(tmp_path_factory.mktemp("structured"), max_positions=2048), TOOLS_CHATML)


@pytest.fixture
async def server(serve):
    async with serve(blocks=500, length=1500) as running:
        yield running


@pytest.fixture
async def client(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        yield client


async def respond(server, input=ASK, **more):
    answer = await server.post("/v1/responses", {"input": input, "max_output_tokens": 200, **BIAS, **more})
    assert answer.status == 200, answer.body
    # OpenAI's types know OpenAI's codes of errors only.
    Response.model_validate({k: v for k, v in answer.json.items() if k not in ("chatpager", "error")})
    return answer.json


async def complete(server, **more):
    answer = await server.post("/v1/chat/completions", {**CHAT, "max_tokens": 200, **BIAS, **more})
    assert answer.status == 200, answer.body
    return answer.json


def called(response):
    assert all(item["type"] == "function_call" for item in response["output"]), response["output"]
    return [(item["name"], json.loads(item["arguments"])) for item in response["output"]]


# -- answers of a form ------------------------------------------------------------------------------------------------


async def test_pydantic_models_through_the_openai_package(client):
    chat = await client.chat.completions.parse(model="tiny", response_format=Weather, max_tokens=200, **CHAT, **BIAS)
    assert isinstance(chat.choices[0].message.parsed, Weather) and chat.choices[0].finish_reason == "stop"
    response = await client.responses.parse(
        model="tiny", input=ASK, text_format=Weather, max_output_tokens=200, temperature=0.7, extra_body={"seed": 5}
    )
    assert isinstance(response.output_parsed, Weather) and response.status == "completed"
    assert response.text.format.name == "Weather" and response.text.format.strict
    assert await client.responses.retrieve(response.id) is not None


async def test_every_choice_follows_it(server):
    made = await complete(server, response_format={"type": "json_schema", "json_schema": FORMAT | {"type": None}}, n=3)
    texts = [choice["message"]["content"] for choice in made["choices"]]
    assert len(set(texts)) > 1 and all(Weather.model_validate_json(text) for text in texts)


async def test_the_response_says_what_was_asked(server):
    made = await respond(server, text={"format": FORMAT})
    assert made["text"] == {"format": FORMAT}
    assert (await server.get(f"/v1/responses/{made['id']}")).json == made
    assert (await respond(server))["text"] == {"format": {"type": "text"}}


async def test_an_object_and_our_own_grammars(server):
    made = await respond(server, text={"format": {"type": "json_object"}}, logit_bias={str(EOS): 100}, seed=1)
    assert made["status"] == "incomplete" or isinstance(json.loads(said(made)), dict)
    assert said(made).startswith("{")
    made = await respond(server, chatpager={"grammar": {"regex": "(yes|no), [a-z]{3}"}})
    assert re.fullmatch("(yes|no), [a-z]{3}", said(made)) and made["status"] == "completed"
    made = await complete(server, chatpager={"grammar": {"lark": 'start: "<" /[0-9]{2}/ ">"'}})
    assert re.fullmatch("<[0-9]{2}>", made["choices"][0]["message"]["content"])


def said(response):
    return response["output"][0]["content"][0]["text"]


async def test_our_own_grammars_on_the_other_wires(server):
    ours = {"chatpager": {"grammar": {"regex": "(yes|no), [a-z]{3}"}}, "max_tokens": 20}
    made = (await server.post("/v1/completions", {"prompt": ["Yes?", "No?"], **ours})).json
    assert all(re.fullmatch("(yes|no), [a-z]{3}", choice["text"]) for choice in made["choices"])
    made = (await server.post("/v1/messages", {**CHAT, **ours})).json
    assert re.fullmatch("(yes|no), [a-z]{3}", made["content"][0]["text"])
    for path, body in (("/v1/completions", {"prompt": "a"}), ("/v1/messages", CHAT)):
        answer = await server.post(path, {**body, **ours, "chatpager": {"grammar": {"regex": "(a"}}})
        assert answer.status == 400 and "chatpager.grammar" in answer.body.decode()


async def test_what_is_cut_is_incomplete(server):
    made = await respond(server, text={"format": FORMAT}, max_output_tokens=4)
    assert (made["status"], made["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    cut = await complete(server, chatpager={"grammar": {"regex": "[a-z]{60}"}}, max_tokens=4)
    assert cut["choices"][0]["finish_reason"] == "length"


async def test_on_the_websocket(server):
    async with server.socket() as socket:
        await socket.send(type="response.create", input=ASK, text={"format": FORMAT}, max_output_tokens=200, **BIAS)
        frames = await socket.rest()
        text = "".join(f["delta"] for f in frames if f["type"] == "response.output_text.delta")
        assert Weather.model_validate_json(text) and frames[-1]["type"] == "response.completed"
        await socket.send(type="response.create", input=ASK, text={"format": {"type": "json_schema"}})
        assert (await socket.receive())["error"]["param"] == "text.format"


async def test_the_next_turn_goes_on_token_for_token(server):
    first = await respond(server, text={"format": FORMAT})
    second = await respond(server, "And tomorrow?", previous_response_id=first["id"], max_output_tokens=4)
    before = first["usage"]["input_tokens"] + first["usage"]["output_tokens"] - 1
    assert second["usage"]["input_tokens_details"]["cached_tokens"] == before


async def test_a_prompt_without_an_answer_needs_no_grammar(server):
    made = await respond(server, text={"format": FORMAT}, generate=False)
    assert made["status"] == "completed" and not made["output"]


# -- forced calls -----------------------------------------------------------------------------------------------------

ALLOWED = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "search"}]}
CHOICES = [
    ("required", "required", {"search", "clock"}),
    ({"type": "function", "name": "clock"}, {"type": "function", "name": "clock"}, {"clock"}),
    ({"type": "function", "function": {"name": "search"}}, {"type": "function", "name": "search"}, {"search"}),
    (ALLOWED, ALLOWED, {"search"}),
]


@pytest.mark.parametrize(("choice", "echo", "names"), CHOICES, ids=["required", "flat", "nested", "allowed"])
async def test_a_call_is_forced_on_both_wires(server, choice, echo, names):
    made = await respond(server, tools=[SEARCH, CLOCK], tool_choice=choice, parallel_tool_calls=False)
    [(name, arguments)] = called(made)
    assert name in names and (arguments == {} if name == "clock" else City.model_validate(arguments))
    assert made["tool_choice"] == echo and made["parallel_tool_calls"] is False and made["status"] == "completed"
    [answer] = (await complete(server, tools=NESTED, tool_choice=choice, parallel_tool_calls=False))["choices"]
    assert answer["finish_reason"] == "tool_calls" and answer["message"].get("content") is None
    [call] = answer["message"]["tool_calls"]
    assert call["function"]["name"] in names and isinstance(json.loads(call["function"]["arguments"]), dict)


async def test_forced_calls_through_the_openai_package(client):
    tool = openai.pydantic_function_tool(City, name="search")
    chat = await client.chat.completions.parse(
        model="tiny", tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=200, **CHAT, **BIAS
    )
    [call] = chat.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, City)
    async with client.responses.stream(
        model="tiny", input=ASK, tools=[{**SEARCH, "strict": True}], tool_choice="required",
        parallel_tool_calls=False, max_output_tokens=200, temperature=0.7,
    ) as stream:  # fmt: skip
        types = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert "response.function_call_arguments.done" in types
    [item] = final.output
    assert item.type == "function_call" and City.model_validate_json(item.arguments)


async def test_a_schema_on_anthropics_wire(server):
    format = {"type": "json_schema", "schema": Weather.model_json_schema()}
    for effort in ({}, {"effort": "low"}):
        asked = {**CHAT, "max_tokens": 200, "temperature": 0.7, "output_config": {"format": format, **effort}}
        made = (await server.post("/v1/messages", asked)).json
        assert Weather.model_validate_json(made["content"][0]["text"]) and made["stop_reason"] == "end_turn"


async def test_a_call_is_forced_on_anthropics_wire(server):
    tool = {"name": "search", "input_schema": SCHEMA}
    asked = {**CHAT, "tools": [tool], "temperature": 0.7, "max_tokens": 200}
    for choice in ({"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "search"}):
        made = (await server.post("/v1/messages", {**asked, "tool_choice": choice})).json
        [block] = made["content"]
        assert (block["type"], block["name"]) == ("tool_use", "search") and City.model_validate(block["input"])
        assert made["stop_reason"] == "tool_use"


async def test_a_choice_of_tools_leaves_the_prompt_as_it_is(server):
    free = await respond(server, tools=[SEARCH, CLOCK], max_output_tokens=1)
    for choice, _, _ in CHOICES:
        forced = await respond(server, tools=[SEARCH, CLOCK], tool_choice=choice)
        assert forced["usage"]["input_tokens"] == free["usage"]["input_tokens"]
        assert forced["usage"]["input_tokens_details"]["cached_tokens"] == free["usage"]["input_tokens"] - 1


async def test_a_schema_that_cannot_be_followed_is_passed_over_unless_it_is_strict(server):
    odd = {**SEARCH, "name": "odd", "parameters": {"type": "object", "minProperties": 1, "not": {"required": ["x"]}}}
    choice = {"type": "function", "name": "odd"}
    close = {str(i): 8 for i in server.hub.tokenizer.encode_plain('"}')} | {str(EOS): 100}
    [(name, _)] = called(await respond(server, tools=[odd], tool_choice=choice, logit_bias=close))
    assert name == "odd"
    body = {"input": ASK, "tools": [SEARCH, {**odd, "strict": True}], "tool_choice": choice}
    refused = await server.post("/v1/responses", body)
    assert refused.refusal == (400, "invalid_request", "tools") and "parameters of odd" in refused.error["message"]


async def test_calls_or_an_answer_of_the_form(server):
    for seed in range(4):
        made = await respond(server, tools=[SEARCH], text={"format": FORMAT}, seed=seed)
        for item in made["output"]:
            if item["type"] == "function_call":
                assert City.model_validate_json(item["arguments"])
            else:
                assert Weather.model_validate_json(item["content"][0]["text"])
    body = {"input": ASK, "tools": [SEARCH], "chatpager": {"grammar": {"regex": "a"}}}
    assert (await server.post("/v1/responses", body)).refusal == (400, "invalid_request", "chatpager.grammar")
    assert said(await respond(server, **{**body, "tool_choice": "none"})) == "a"


async def test_a_model_that_calls_as_llama_does(tmp_path, empty_database):
    llama = TOOLS_CHATML.replace(
        'Call as <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>', f"Call as {ASKS_FOR_BARE_CALLS}...}}"
    ).replace("tool_call>", "called>")
    model = save_tokenizer(save_model(tmp_path, max_positions=2048), llama)
    database = shutil.copy(empty_database, tmp_path / "llama.db")
    async with open_serving(model, f"sqlite+aiosqlite:///{database}", blocks=500, length=1500) as server:
        made = await respond(server, tools=[SEARCH], tool_choice="required", parallel_tool_calls=False)
        [(name, arguments)] = called(made)
        assert name == "search" and City.model_validate(arguments)


PICK = {
    "type": "object",
    "properties": {
        "kind": {"type": "string", "enum": ["rain", "sun"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["kind", "days"],
    "additionalProperties": False,
}
OTHERS = {
    "qwen3-coder": (XML, ()),
    "mistral": (MISTRAL, MISTRAL_TOKENS),
    "mistral, later": (MISTRAL_APART, MISTRAL_TOKENS),
    "deepseek": (DEEPSEEK, DEEPSEEK_TOKENS),
    "deepseek, later": (DEEPSEEK_LATER, DEEPSEEK_TOKENS),
    "gpt-oss": (HARMONY, HARMONY_TOKENS),
}


@pytest.mark.parametrize("form", OTHERS)
async def test_a_model_that_calls_in_another_form(tmp_path, empty_database, form):
    """And the next turn goes on from what it called, token for token."""
    template, special = OTHERS[form]
    model = save_tokenizer(save_model(tmp_path, max_positions=2048), template, special=special)
    database = shutil.copy(empty_database, tmp_path / "others.db")
    async with open_serving(model, f"sqlite+aiosqlite:///{database}", blocks=500, length=1500) as server:
        calls = {str(server.hub.tokenizer.encode_plain("commentary")[0]): 100}  # GPT-OSS may also think
        tools = [{**SEARCH, "parameters": PICK, "strict": True}, CLOCK]
        asked = {"tools": tools, "parallel_tool_calls": False, "logit_bias": calls}
        for choice, names in (("required", {"search", "clock"}), ({"type": "function", "name": "search"}, {"search"})):
            made = await respond(server, tool_choice=choice, **asked)
            [(name, arguments)] = called(made)
            assert name in names and made["status"] == "completed" and "warnings" not in made["chatpager"]
            assert arguments == {} if name == "clock" else (arguments["kind"] in "rain sun" and arguments["days"] < 15)
        [call] = [item for item in made["output"] if item["type"] == "function_call"]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "Rain."}
        second = await respond(server, [result], previous_response_id=made["id"], tools=tools, max_output_tokens=1)
        before = made["usage"]["input_tokens"] + made["usage"]["output_tokens"] - 1
        assert second["usage"]["input_tokens_details"]["cached_tokens"] == before


OPENED = TOOLS_CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


@pytest.mark.parametrize(("template", "special"), [(OPENED, ()), (HARMONY, HARMONY_TOKENS)], ids=["think", "harmony"])
async def test_an_answer_of_a_form_is_no_thought(tmp_path, empty_database, template, special):
    model = save_tokenizer(save_model(tmp_path, max_positions=2048), template, special=special)
    database = shutil.copy(empty_database, tmp_path / "thinks.db")
    async with open_serving(model, f"sqlite+aiosqlite:///{database}", blocks=500, length=1500) as server:
        assert Weather.model_validate_json(said(await respond(server, text={"format": FORMAT})))
        if template is OPENED:
            made = await respond(server, tools=[SEARCH], tool_choice="required", parallel_tool_calls=False)
            assert [name for name, _ in called(made)] == ["search"]


# -- what goes wrong --------------------------------------------------------------------------------------------------

ENDS_A_PROCESS = "start: x0\n" + "".join(f'x{i}: "a" x{i + 1}\n' for i in range(3000)) + 'x3000: "b"'
UNUSABLE = [
    ({"text": {"format": FORMAT | {"schema": {"type": "string", "pattern": "(?=a)"}}}}, "text.format"),
    ({"text": {"format": FORMAT | {"schema": {"uniqueItems": True}}}, "tools": [SEARCH]}, "text.format"),
    ({"chatpager": {"grammar": {"regex": "(a"}}}, "chatpager.grammar"),
    ({"chatpager": {"grammar": {"lark": "start: nowhere"}}}, "chatpager.grammar"),
    ({"chatpager": {"grammar": {"lark": ENDS_A_PROCESS}}}, "chatpager.grammar"),
]


@pytest.mark.parametrize(("asked", "param"), UNUSABLE)
async def test_what_cannot_be_followed_is_refused_before_anything_is_stored(server, asked, param):
    conversation = await server.conversation()
    answer = await server.post("/v1/responses", {"input": ASK, "conversation": conversation, **asked})
    assert answer.refusal == (400, "invalid_request", param) and "cannot be used" in answer.error["message"]
    assert await server.items(conversation) == [] and not server.hub.turns
    assert (await respond(server, conversation=conversation, max_output_tokens=2))["output"]


async def test_a_grammar_that_cannot_go_on_fails_its_turn_only(server):
    stuck = {"grammar": {"lark": 'start: "ab" <|im_start|> "c"'}}
    failed, fine = await asyncio.gather(
        respond(server, chatpager=stuck), respond(server, chatpager={"grammar": {"regex": "[a-z]{9}"}})
    )
    assert (failed["status"], failed["error"]["code"], said(failed)) == ("failed", "grammar_failed", "ab")
    assert fine["status"] == "completed"
    answer = await server.post("/v1/chat/completions", {**CHAT, "chatpager": stuck})
    assert (answer.status, answer.error["code"]) == (400, "grammar_failed")


async def test_a_grammar_that_takes_too_long_is_refused_and_what_waits_behind_it_told_to_come_again(server):
    constraining, salt = server.hub._constraining, b""
    request, _ = chat_request({**CHAT, "chatpager": {"grammar": {"regex": "a"}}}, server.service.served, "t")
    constraining._seconds = 0.01
    await constraining._queue.enter("another tenant")
    with pytest.raises(Overloaded):
        await constraining.prepare(request, salt)
    constraining._queue.leave()
    slow = "start: X0\n" + "".join(f"X{i}: X{i + 1} X{i + 1}\n" for i in range(40)) + 'X40: "a"'
    request, _ = chat_request({**CHAT, "chatpager": {"grammar": {"lark": slow}}}, server.service.served, "t")
    with pytest.raises(InvalidRequest, match=r"more than 0\.01 s"):
        await constraining.prepare(request, salt)
    constraining._seconds = DEADLINE
    assert said(await respond(server, chatpager={"grammar": {"regex": "a"}})) == "a"


async def test_a_grammar_is_held_until_its_turn_has_ended(server):
    server.hub._constraining.compiler._capacity = 0
    made = await asyncio.gather(*(respond(server, chatpager={"grammar": {"regex": f"a{{{i}}}b"}}) for i in range(3)))
    assert sorted(map(said, made)) == ["aab", "ab", "b"]
    assert Grammar("regex", "a{1}b") not in {grammar for _, grammar in server.hub._constraining.compiler._alive}
