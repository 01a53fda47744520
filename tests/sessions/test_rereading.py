"""What a journal keeps of an answer says again what was told of it, wherever it ends."""

import asyncio

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatpager.engine.messages import FinishReason, SamplingParams, StepOutput
from chatpager.engine.tokenizer import Tokenizer
from chatpager.engine.tool_calls import Tool
from chatpager.sessions.answers import ToolCall, answer_of, calls_of
from chatpager.sessions.rereading import READ_AS, Reading, Rereader
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import TurnRequest
from chatpager.store import Journaled, Turn, text_content, text_of
from tests.chat_models import (
    DEEPSEEK_LATER,
    DEEPSEEK_TOKENS,
    EOS,
    HARMONY,
    HARMONY_TOKENS,
    MISTRAL,
    MISTRAL_TOKENS,
    TOOLS_CHATML,
    save_tokenizer,
)
from tests.chat_models import thinking as thinking_first

TOOLS = [Tool("f", None, {"properties": {"a": {"type": "string"}}})]
OFFERED = [{"type": "function", "name": "f", "parameters": TOOLS[0].parameters}]
CALL = '{"name": "f", "arguments": {"a": "b c"}}'
FORMS = {
    "tags": (thinking_first(TOOLS_CHATML), (), ["<think>", "</think>", f"<tool_call>\n{CALL}\n</tool_call>"]),
    "mistral": (MISTRAL, MISTRAL_TOKENS, [f"[TOOL_CALLS] [{CALL}, {CALL}]"]),
    "deepseek": (
        DEEPSEEK_LATER,
        DEEPSEEK_TOKENS,
        [
            '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": "b c"}<｜tool▁call▁end｜>',
            "<｜tool▁calls▁end｜>",
            '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": "b c"}',
        ],
    ),
    "harmony": (
        HARMONY,
        HARMONY_TOKENS,
        [
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            '<|end|><|start|>assistant to=functions.f<|channel|>commentary<|message|>{"a": "b c"}<|call|>',
        ],
    ),
}


@pytest.fixture(scope="module", params=FORMS)
def form(request, tmp_path_factory):
    template, special, parts = FORMS[request.param]
    kind = "added" if special is DEEPSEEK_TOKENS else "special"
    return Tokenizer(save_tokenizer(tmp_path_factory.mktemp("form"), template, **{kind: special})), parts


def begin(tokenizer, reading):
    request = TurnRequest(
        id="resp_ab", tenant="t", kind="response", model="m", messages=[], params=SamplingParams(max_tokens=500)
    )
    return LiveTurn(
        request, [5], reading.text(tokenizer), parser=reading.parser(tokenizer, TOOLS), template="exact",
        eos=frozenset({EOS}), created_at=0, submitted=0.0,
    )  # fmt: skip


def row(tokenizer, reading, **other):
    fields = dict.fromkeys(Turn.__struct_fields__) | {"id": "resp_ab", "vocab": tokenizer.fingerprint}
    return Turn(**fields | {"request": {"tools": OFFERED, READ_AS: msgspec.to_builtins(reading)}} | other)


def reread(tokenizer, reading, ids, text, **other):
    return asyncio.run(Rereader(tokenizer).answer(row(tokenizer, reading, **other), ids, text))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), opened=st.booleans(), stop=st.sampled_from([(), ("o b",), ("c", "f")]))
def test_wherever_an_answer_is_cut(form, data, opened, stop):
    """Its text is what was told, and so are its thoughts and calls, but that they may go on by what was held back."""
    tokenizer, parts = form
    pieces = [*parts, *(part[: len(part) // 2] for part in parts), "so b", " ", "\n"]
    ids = [*tokenizer.encode("".join(data.draw(st.lists(st.sampled_from(pieces), max_size=6)))), EOS]
    reading = Reading.of(
        SamplingParams(stop=stop, min_tokens=2), templated=True, opened=opened, may_call=data.draw(st.booleans())
    )
    turn, told, kept, text = begin(tokenizer, reading), [], [], ""
    cuts = data.draw(st.sets(st.integers(0, len(ids) - 1), max_size=4)) | {len(ids) - 1}
    for i, token in enumerate(ids):
        last = i == len(ids) - 1
        output = StepOutput(request_id="resp_ab", token_ids=[token], finish_reason=FinishReason.STOP if last else None)
        events, entry = turn.take(output, 0.0)
        told += events
        kept += entry.token_ids if entry else []
        text += entry.text if entry else ""
        if i not in cuts:
            continue
        again, shown = reread(tokenizer, reading, kept, text), answer_of(told)
        assert (again.text, again.calls_before_text) == (shown.text, shown.calls_before_text)
        assert [(c.id, c.name) for c in again.calls] == [(c.id, c.name) for c in shown.calls]
        assert [r.place for r in again.reasoning][: len(shown.reasoning)] == [r.place for r in shown.reasoning]
        for found, was in [*zip(again.calls, shown.calls, strict=True)]:
            assert found.arguments.startswith(was.arguments)
        for found, was in zip(again.reasoning, shown.reasoning, strict=False):
            assert found.text.startswith(was.text)
    assert again == turn.answer()


def test_what_cannot_be_read_is_known_by_its_text(form):
    tokenizer, parts = form
    reading = Reading(may_call=True)
    ids = tokenizer.encode(parts[-1])
    assert reread(tokenizer, reading, ids, "") is not None
    assert reread(tokenizer, reading, ids, "something else") is None
    for other in ({"vocab": "another"}, {"request": {"tools": OFFERED}}):
        assert reread(tokenizer, reading, ids, "", **other) is None
    kept = Journaled(token_ids=tuple(ids), text="told")
    for unknown in ({"vocab": "another"}, {"request": {"tools": 5, READ_AS: {"stop": 1}}}):
        assert Rereader(tokenizer).content(row(tokenizer, reading, **unknown), kept) == text_content("told")


def test_the_content_of_a_call_that_was_cut(form):
    tokenizer, parts = form
    ids = tokenizer.encode(parts[-1][: parts[-1].index("b c")])
    turn, kept = row(tokenizer, Reading(may_call=True)), Journaled(token_ids=tuple(ids), text="")
    content = Rereader(tokenizer).content(turn, kept)
    assert (text_of(content), calls_of(content)) == ("", [ToolCall("call_ab_1", "f", '{"a": "')])


def test_a_bare_prompts_answer_is_text(form):
    tokenizer, parts = form
    plain = tokenizer.encode_plain(parts[-1])
    assert reread(tokenizer, Reading(templated=False), plain, parts[-1]).text == parts[-1]
