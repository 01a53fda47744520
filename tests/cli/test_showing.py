"""Thoughts, answers and calls in the terminal and in a pipe, and the history of a conversation that an agent had."""

import asyncio
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from chatpager.cli.showing import SHOWN_RESULT, Showing, history, visible
from chatpager.client import AsyncClient
from chatpager.client.events import Call, Created, Ended, Lease, Prefill, Text, Thought
from tests.chat_models import TOOLS_CHATML, save_tokenizer, thinking
from tests.processes import clean_env, traced
from tests.serving import empty_database, serve  # noqa: F401

FRAMES = [Created("resp_1"), Prefill(1, 2, 0), Lease("revoked", "soft", 3, "r"), Ended("completed")]
CALLS = [Call("c1", "f", '{"a": 1}'), Call("c2", "g", "{}")]
ANSWER = [Thought("Hm.\n"), Thought("\nYes."), Text("It ra"), Text("ins."), *CALLS]


def plain():
    return Console(file=io.StringIO(), highlight=False, soft_wrap=True)


def at_terminal(events, thoughts=True):
    console = plain()
    told = Showing(console, console, who="assistant", thoughts=thoughts)
    return play(told, events) or console.file.getvalue()


def in_pipe(events, thoughts=True):
    """What goes to standard output and what to standard error."""
    answers, about = plain(), plain()
    play(Showing(answers, about, who="", thoughts=thoughts), events)
    return answers.file.getvalue(), about.file.getvalue()


def play(showing, events):
    showing.begin()
    for event in events:
        showing.show(event)
    showing.end()


@pytest.mark.parametrize(
    ("events", "thoughts", "shown"),
    [
        (
            ANSWER, True,
            "assistant thinks: Hm.\n\nYes.\nassistant It rains.\n"
            'assistant calls f({"a": 1})\nassistant calls g({})\n',
        ),
        (ANSWER, False, 'assistant It rains.\nassistant calls f({"a": 1})\nassistant calls g({})\n'),
        (CALLS, True, 'assistant calls f({"a": 1})\nassistant calls g({})\n'),
        (ANSWER[:2], True, "assistant thinks: Hm.\n\nYes.\n"),
        (ANSWER[:2], False, "assistant \n"),
        ([], True, "assistant \n"),
    ],
    ids=["all", "without thoughts", "calls", "only thoughts", "nothing that is shown", "nothing"],
)  # fmt: skip
def test_at_a_terminal_everything_stands_on_lines_of_its_own(events, thoughts, shown):
    assert at_terminal(events, thoughts) == shown
    assert at_terminal([*FRAMES[:-1], *events, FRAMES[-1]], thoughts) == shown


def test_in_a_pipe_only_answers_go_to_standard_output():
    assert in_pipe(ANSWER) == ("It rains.\n", 'thinks: Hm.\n\nYes.\ncalls f({"a": 1})\ncalls g({})\n')
    assert in_pipe(ANSWER, thoughts=False) == ("It rains.\n", 'calls f({"a": 1})\ncalls g({})\n')
    assert in_pipe(CALLS) == ("\n", 'calls f({"a": 1})\ncalls g({})\n')
    assert in_pipe([]) == ("\n", "")
    assert in_pipe([Text("a\tb\n"), Text("\tc [/d] :smile:")]) == ("a\tb\n\tc [/d] :smile:\n", "")


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
events = st.lists(st.builds(Thought, texts) | st.builds(Text, texts) | st.builds(Call, texts, texts, texts), max_size=8)


@given(events)
def test_whatever_comes_the_answer_is_whole_and_thoughts_can_be_left_out(events):
    answers, _ = in_pipe(events)
    said = visible("".join(event.text for event in events if isinstance(event, Text)))
    assert answers.replace("\n", "") == said.replace("\n", "")
    without = [event for event in events if not isinstance(event, Thought)]
    assert at_terminal(events, thoughts=False) == at_terminal(without)
    for shown in (at_terminal(events), *in_pipe(events)):
        assert shown.endswith("\n") or not shown
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown), "a terminal obeys nothing of it"


def test_thoughts_and_calls_are_dimmed():
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", soft_wrap=True, _environ={})
    play(Showing(console, console, who="assistant", thoughts=True), ANSWER)
    shown = console.file.getvalue()
    assert "\x1b[2mthinks: \x1b[0m\x1b[2mHm." in shown
    assert "\nassistant" not in shown and "\x1b[1massistant \x1b[0mIt ra" in shown
    assert '\x1b[2mcalls f({"a": 1})\x1b[0m' in shown


CONVERSATION = [
    {"type": "message", "role": "user", "content": [{"text": "Rain?"}, {"text": " [/b]"}]},
    {"type": "function_call", "call_id": "c", "name": "search", "arguments": '{"q": "a\x1bb"}'},
    {"type": "function_call_output", "call_id": "c", "output": "Two\nlines. " + "x" * SHOWN_RESULT},
    {"type": "function_call_output", "call_id": "d", "output": "Whose?"},
    {"type": "later"},
    {"type": "message", "role": "assistant", "content": [{"text": "Yes.\n\x1b"}]},
]


def test_a_history_shows_calls_and_what_came_of_them():
    assert [text.plain for text in history(CONVERSATION)] == [
        "you Rain? [/b]",
        'assistant calls search({"q": "a\N{REPLACEMENT CHARACTER}b"})',
        "search gave Two lines. " + "x" * (SHOWN_RESULT - 11) + "...",
        "tool gave Whose?",
        "assistant Yes.\n\N{REPLACEMENT CHARACTER}",
    ]


# -- with a server ----------------------------------------------------------------------------------------------------

THOUGHT = "They ask about Oslo.\n\nI shall say it."
SEARCH = {"type": "function", "name": "search", "parameters": {"type": "object"}}


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("thinking"), thinking(TOOLS_CHATML))


def thinker(prompt):
    if "<tools>" in prompt and "Rain" not in prompt:
        return '<tool_call>\n{"name": "search", "arguments": {}}\n</tool_call>'
    return f"<think>\n{THOUGHT}\n</think>\n\nIt rains."


async def test_a_pipe_and_a_person_see_thoughts_unless_they_do_not_want_to(
    serve, chatpager, fork_server, home  # noqa: F811
):  # fmt: skip
    async with serve(thinker, blocks=400, length=1500) as server:

        def pipe(*flags):
            return chatpager("chat", "--url", server.url, *flags, typed="Oslo?\n")

        told = await asyncio.to_thread(pipe)
        assert (told.code, told.out) == (0, "It rains.\n")
        assert told.err.startswith(f"thinks: {THOUGHT}\ncached ")
        told = await asyncio.to_thread(pipe, "--no-thoughts")
        assert (told.code, told.out) == (0, "It rains.\n")
        assert told.err.startswith("cached ")

        def person():
            process = fork_server("chat", "--url", server.url, env=clean_env(home, **traced()), cwd=home, tty=True)
            process.out.wait_for("(?m)^you ")
            process.say("Oslo?\r")
            process.out.wait_for(r"(?s)cached .*\nyou ")  # a terminal that nobody reads loses what is typed
            process.say("\x04")
            code = process.wait()
            process.end()
            return code, process.out.whole().replace("\r", "")

        code, shown = await asyncio.to_thread(person)
        assert code == 0
        assert f"assistant thinks: {THOUGHT}\nassistant It rains.\ncached " in shown


async def test_a_conversation_that_an_agent_had_is_shown_with_its_calls(
    serve, fork_server, home  # noqa: F811
):  # fmt: skip
    async with serve(thinker, blocks=400, length=1500) as server, AsyncClient(server.url) as client:
        session = await client.session()
        [call] = (await session.ask("Oslo?", tools=[SEARCH])).calls
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Rain."}
        assert (await session.ask([output], tools=[SEARCH])).text == "It rains."

        def opened():
            argv = ("chat", "--url", server.url, "--session", session.id)
            process = fork_server(*argv, env=clean_env(home, **traced()), cwd=home, tty=True)
            process.out.wait_for(r"It rains\.\r\n.*you ")
            process.say("\x04")
            code = process.wait()
            process.end()
            return code, process.out.whole().replace("\r", "")

        code, shown = await asyncio.to_thread(opened)
        assert code == 0
        assert "you Oslo?\nassistant calls search({})\nsearch gave Rain.\nassistant It rains.\n" in shown
