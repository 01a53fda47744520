"""The tools of a request: which are offered to the model, and how the others are refused."""

import json

import pytest

from chatpager.engine.call_grammar import CallRule
from chatpager.engine.tool_calls import Tool
from chatpager.errors import InvalidRequest
from chatpager.server.tools import MAX_TOOLS
from tests.server.reading import chat, refused, respond

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}
FLAT = {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA}


def nested_lists(depth):
    return {"a": json.loads("[" * depth + "]" * depth)}


def nested(tool):
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def test_a_function_of_either_form():
    for turn in (respond(input="a", tools=[FLAT]), chat(tools=[nested(FLAT)])):
        assert turn.tools == [Tool("f", "d", SCHEMA)] and turn.may_call
        assert turn.parameters["tools"] == [{**FLAT, "strict": None}]
        assert turn.parameters["tool_choice"] == "auto" and "warnings" not in turn.parameters
    bare = {"type": "function", "name": "f"}
    assert respond(input="a", tools=[bare]).tools == chat(tools=[nested(bare)]).tools == [Tool("f")]


def test_without_tools_nothing_is_said_of_them():
    for more in ({}, {"tools": []}, {"tools": None}, {"tool_choice": "auto"}, {"tool_choice": "none"}):
        for turn in (respond(input="a", **more), chat(**more)):
            assert not turn.may_call and not turn.tools and "tools" not in turn.parameters


def test_tools_that_may_not_be_called_are_offered_all_the_same():
    turn = respond(input="a", tools=[FLAT], tool_choice="none")
    assert (turn.tools, turn.may_call, turn.parameters["tool_choice"]) == ([Tool("f", "d", SCHEMA)], False, "none")
    assert turn.call_rule is None


def allowed(mode, *tools):
    return {"type": "allowed_tools", "mode": mode, "tools": list(tools)}


OTHER = {"type": "function", "name": "g"}
F = {"type": "function", "name": "f"}
ALL = [Tool("f", "d", SCHEMA), Tool("g")]


@pytest.mark.parametrize(
    ("choice", "echo", "rule"),
    [
        (None, "auto", CallRule(tools=ALL)),
        ("auto", "auto", CallRule(tools=ALL)),
        ("required", "required", CallRule(tools=ALL, must=True, chosen=True)),
        (F, F, CallRule(tools=ALL[:1], must=True, many=False, chosen=True)),
        (nested(OTHER), OTHER, CallRule(tools=ALL[1:], must=True, many=False, chosen=True)),
        (allowed("auto", F), allowed("auto", F), CallRule(tools=ALL[:1], chosen=True)),
        (allowed("auto", F, OTHER), allowed("auto", F, OTHER), CallRule(tools=ALL)),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [nested(F)]}},
            allowed("required", F),
            CallRule(tools=ALL[:1], must=True, chosen=True),
        ),
    ],
)
def test_which_tools_are_to_be_called(choice, echo, rule):
    for turn in (
        respond(input="a", tools=[FLAT, OTHER], tool_choice=choice),
        chat(tools=[nested(FLAT), nested(OTHER)], tool_choice=choice),
    ):
        assert turn.call_rule == rule and turn.may_call
        assert turn.tools == ALL, "the prompt is the same"
        assert turn.parameters["tool_choice"] == echo and "warnings" not in turn.parameters


@pytest.mark.parametrize(
    "choice",
    [
        "any", "", {}, {"type": "web_search"}, {"type": "function"}, {"type": "function", "name": 3},
        {"type": "function", "name": "h"}, {"type": "allowed_tools"},
        {"type": "allowed_tools", "mode": "auto", "tools": []},
        {"type": "allowed_tools", "mode": "none", "tools": [F]},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]},
    ],
)  # fmt: skip
def test_a_choice_has_a_form_and_a_tool(choice):
    assert refused(respond, input="a", tools=[FLAT], tool_choice=choice) == "tool_choice"
    assert refused(chat, tools=[nested(FLAT)], tool_choice=choice) == "tool_choice"


@pytest.mark.parametrize("choice", ["required", F, {"type": "allowed_tools", "mode": "auto", "tools": [F]}, "any"])
def test_no_call_is_forced_without_tools(choice):
    assert refused(respond, input="a", tool_choice=choice) == "tool_choice"


@pytest.mark.parametrize(
    "tool",
    [
        {},
        {"type": "web_search"},
        {"type": ["function"], "name": "f"},
        {"type": "custom", "name": "f"},
        {"type": "function"},
        {"type": "function", "name": ""},
        {"type": "function", "name": "a b"},
        {"type": "function", "name": "x" * 65},
        {"type": "function", "name": "f\n"},
        {"type": "function", "name": "f", "parameters": []},
        {"type": "function", "name": "f", "description": 3},
        {"type": "function", "name": "f", "strict": "yes"},
        {"type": "function", "name": "f", "parameters": nested_lists(63)},
        {"type": "function", "name": "f", "parameters": nested_lists(900)},
    ],
)
def test_what_is_no_function_is_refused(tool):
    assert refused(respond, input="a", tools=[FLAT, tool]) == "tools"
    assert refused(chat, tools=[nested(FLAT), nested(tool) | {"type": tool.get("type")}]) == "tools"


def test_a_schema_that_is_deep_and_not_too_deep():
    assert respond(input="a", tools=[{**FLAT, "parameters": nested_lists(50)}]).may_call


def test_the_other_wires_form_is_refused():
    with pytest.raises(InvalidRequest, match="tools\\[0\\]"):
        respond(input="a", tools=[nested(FLAT)])
    assert refused(chat, tools=[FLAT]) == "tools"


def test_more_tools_than_openai_takes():
    assert len(respond(input="a", tools=MAX_TOOLS * [FLAT]).tools) == MAX_TOOLS
    assert refused(respond, input="a", tools=(MAX_TOOLS + 1) * [FLAT]) == "tools"


def test_one_call_at_most_and_strict_arguments():
    turn = respond(input="a", tools=[{**FLAT, "strict": True}], parallel_tool_calls=False)
    assert turn.call_rule == CallRule(tools=ALL[:1], many=False, strict=frozenset("f")) and turn.call_rule.asks
    assert turn.parameters["tools"][0]["strict"] is True and turn.parameters["parallel_tool_calls"] is False
    lax = respond(input="a", tools=[{**FLAT, "strict": False}], parallel_tool_calls=True)
    assert not lax.call_rule.asks and "parallel_tool_calls" not in lax.parameters
