"""The tools of a request: which are offered to the model, and how the others are refused."""

import json

import pytest

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


@pytest.mark.parametrize("choice", ["required", "any", "", {"type": "function", "name": "f"}, {}])
@pytest.mark.parametrize("tools", [[], [FLAT]])
def test_a_call_cannot_be_forced(choice, tools):
    assert refused(respond, input="a", tools=tools, tool_choice=choice) == "tool_choice"


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


def test_what_is_not_enforced_is_said():
    turn = respond(input="a", tools=[{**FLAT, "strict": True}], parallel_tool_calls=False)
    assert [warning.partition(" is not enforced")[0] for warning in turn.parameters["warnings"]] == [
        "parallel_tool_calls: false", "strict",
    ]  # fmt: skip
    assert turn.parameters["tools"][0]["strict"] is True
    lax = respond(input="a", tools=[{**FLAT, "strict": False}], parallel_tool_calls=True)
    assert "warnings" not in lax.parameters
