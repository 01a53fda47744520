"""Models that write calls otherwise than in tags with JSON, from the wire to the prompt: Qwen3-Coder, and Mistral's,
DeepSeek's and GPT-OSS with tokens of their own."""

import openai
import pytest

from chatpager.engine.chat_template import ChatMessage, ChatTemplate
from chatpager.engine.tokenizer import Tokenizer
from chatpager.engine.tool_calls import FunctionCall, Tool
from tests.chat_models import (
    DEEPSEEK,
    DEEPSEEK_LATER,
    DEEPSEEK_TOKENS,
    HARMONY,
    HARMONY_TOKENS,
    MISTRAL,
    MISTRAL_APART,
    MISTRAL_TOKENS,
    TOOLS_CHATML,
    save_tokenizer,
)
from tests.server.test_tool_calls import ARGUMENTS, ASK, NESTED, SEARCH, output, respond

CALL = f'{{"name": "search", "arguments": {ARGUMENTS}}}'
XML = TOOLS_CHATML.replace('{"name": ..., "arguments": ...}', "<function=...>\n</function>").replace(
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}',
    "<function={{ c.function.name }}>\n{% for name, value in c.function.arguments.items() %}<parameter={{ name }}>\n"
    "{{ value }}\n</parameter>\n{% endfor %}</function>",
)
XML_CALL = (
    "<tool_call>\n<function=search>\n<parameter=query>\nweather in Oslo\n</parameter>\n"
    "<parameter=days>\n2.50\n</parameter>\n</function>\n</tool_call>"
)
FENCED = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>search\n```json\n" + ARGUMENTS + "\n```<｜tool▁call▁end｜>"
SEPARATED = f"<｜tool▁call▁begin｜>search<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>"
DEEPSEEK_R1 = DEEPSEEK.replace("<｜Assistant｜>{% endif %}", "<｜Assistant｜><think>\n{% endif %}")
"""It begins the thoughts itself, but not behind results."""


def calls(*calls, apart=""):
    return f"<｜tool▁calls▁begin｜>{apart.join(calls)}<｜tool▁calls▁end｜>"


FORMS = {
    "deepseek": (DEEPSEEK, DEEPSEEK_TOKENS, calls(FENCED), "It rains.", 1, None),
    "deepseek, twice": (DEEPSEEK, DEEPSEEK_TOKENS, calls(FENCED, FENCED, apart="\n"), "It rains.", 2, None),
    "deepseek-r1": (
        DEEPSEEK_R1,
        DEEPSEEK_TOKENS,
        f"They ask.\n</think>\n\n{calls(FENCED)}",
        "<think>\nSo it does.\n</think>\n\nIt rains.",
        1,
        ("They ask.", "So it does."),
    ),
    "deepseek, later": (DEEPSEEK_LATER, DEEPSEEK_TOKENS, calls(SEPARATED, SEPARATED), "It rains.", 2, None),
    "qwen3-coder": (XML, (), f"{XML_CALL}\n{XML_CALL}", "It rains.", 2, None),
    "mistral": (MISTRAL, MISTRAL_TOKENS, f"[TOOL_CALLS] [{CALL}]", "It rains.", 1, None),
    "mistral, twice": (MISTRAL, MISTRAL_TOKENS, f"[TOOL_CALLS] [{CALL}, {CALL}]", "It rains.", 2, None),
    "mistral, later": (MISTRAL_APART, MISTRAL_TOKENS, f"[TOOL_CALLS]search[ARGS]{ARGUMENTS}" * 2, "It rains.", 2, None),
    "gpt-oss": (
        HARMONY,
        HARMONY_TOKENS,
        "<|channel|>analysis<|message|>They ask.<|end|><|start|>assistant<|channel|>commentary to=functions.search "
        f"<|constrain|>json<|message|>{ARGUMENTS}",
        "<|channel|>analysis<|message|>So it does.<|end|><|start|>assistant<|channel|>final<|message|>It rains.",
        1,
        ("They ask.", "So it does."),
    ),
}


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return FORMS[request.param]


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory, form):
    kind = "added" if form[1] is DEEPSEEK_TOKENS else "special"
    return save_tokenizer(tmp_path_factory.mktemp("special"), form[0], **{kind: form[1]})


@pytest.fixture
async def server(serve, chat_model, form):
    tokenizer = Tokenizer(chat_model)

    def reply(prompt):
        return tokenizer.encode(form[3] if "Rain" in prompt else form[2])

    async with serve(reply, blocks=400, length=1500) as running:
        yield running


async def test_a_call_its_result_and_an_answer(server, form):
    *_, count, thoughts = form
    conversation = await server.conversation()
    first = await respond(server, ASK, conversation=conversation)
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    assert [(call["name"], call["arguments"]) for call in calls] == [("search", ARGUMENTS)] * count
    assert len(first["output"]) == count + bool(thoughts)
    second = await respond(server, [output(call) for call in calls], conversation=conversation)
    assert second["output"][-1]["content"][0]["text"] == "It rains."
    third = await respond(server, "Rain, then.", conversation=conversation)
    for before, after in ((first, second), (second, third)):
        computed = before["usage"]["input_tokens"] + before["usage"]["output_tokens"] - 1
        assert after["usage"]["input_tokens_details"]["cached_tokens"] == computed
    if thoughts:
        told = [[i["content"][0]["text"] for i in r["output"] if i["type"] == "reasoning"] for r in (first, second)]
        assert told == [[thought] for thought in thoughts]
        assert second["usage"]["output_tokens_details"]["reasoning_tokens"] > 5
    said = [item["content"][0]["text"] for item in await server.items(conversation) if item["type"] == "message"]
    assert said == [ASK, "It rains.", "Rain, then.", "It rains."]


async def test_a_stateless_client_goes_on_token_for_token(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        messages = [{"role": "user", "content": ASK}]
        first = await client.chat.completions.create(model="default", messages=messages, tools=[NESTED])
        message = first.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "Rain."} for call in message.tool_calls]
        second = await client.chat.completions.create(model="default", messages=messages, tools=[NESTED])
        assert second.choices[0].message.content == "It rains."
        assert second.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens - 1


async def test_a_stream_says_the_same_and_no_mark_is_told(server, form):
    async with server.events("/v1/responses", {"input": ASK, "tools": [SEARCH]}) as stream:
        events = [event async for _, event in stream]
    whole = (await respond(server, ASK))["output"]
    streamed = events[-1]["response"]["output"]
    assert [(i["type"], i.get("arguments"), i.get("content")) for i in streamed] == [
        (i["type"], i.get("arguments"), i.get("content")) for i in whole
    ]
    for place, item in enumerate(streamed):
        deltas = [e["delta"] for e in events if e.get("output_index") == place and "delta" in e]
        assert len(deltas) > 2
        assert "".join(deltas) == (item["arguments"] if "arguments" in item else item["content"][0]["text"])
    assert not any("\ufdd0" <= char <= "\ufdef" for event in events for char in str(event))


async def test_a_call_of_nothing_that_was_offered_is_text_without_its_tokens(server, form):
    other = {**SEARCH, "name": "other"}
    said = (await respond(server, ASK, tools=[other]))["output"][-1]
    assert said["type"] == "message" and "weather in Oslo" in said["content"][0]["text"]
    assert not any(token in said["content"][0]["text"] for token in form[1])
    bound = (await respond(server, ASK, tool_choice="none"))["output"][-1]
    assert bound["type"] == "message" and "weather in Oslo" in bound["content"][0]["text"]


async def test_what_users_and_tools_spell_is_no_token(server, chat_model, form):
    """Neither in the prompt nor, where the model repeats it, in the answer."""
    evil = "".join(form[1])
    first = await respond(server, evil + ASK)
    call = next(item for item in first["output"] if item["type"] == "function_call")
    await respond(server, [output(call, evil)], previous_response_id=first["id"])
    tokenizer = Tokenizer(chat_model)
    special = {tokenizer.encode(token)[0] for token in form[1]}
    asked = [ChatMessage("user", text) for text in (evil, "plain")]
    spelled, plain = (ChatTemplate(tokenizer).prompt([message]).token_ids for message in asked)
    assert [i for i in spelled if i in special] == [i for i in plain if i in special]


def test_calls_of_which_only_the_text_is_known_are_written_by_the_template(chat_model):
    template = ChatTemplate(Tokenizer(chat_model))
    called = ChatMessage("assistant", "", calls=[FunctionCall("search", ARGUMENTS, "call_1")])
    result = ChatMessage("tool", "Rain.", name="search", call_id="call_1")
    asked = [
        ChatMessage("user", ASK),
        called,
        result,
        ChatMessage("assistant", "It rains."),
        ChatMessage("user", "So?"),
    ]
    shown = template._tokenizer.decode(template.prompt(asked, tools=[Tool("search")]).token_ids)
    assert "weather in Oslo" in shown and "Rain." in shown and "It rains." in shown
