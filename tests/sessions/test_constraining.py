"""Which grammar a turn gets, for a model whose calls can be restricted and for one whose cannot."""

import asyncio
import threading
import time
from dataclasses import replace

import msgspec
import pytest

from chatpager.engine.grammar import Grammar, schema_grammar
from chatpager.engine.grammar_compiler import GrammarCompiler
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import InvalidRequest, Overloaded, RateLimited
from chatpager.sessions.constraining import MAX_WAITING, UNRESTRICTED, Constraining
from tests.chat_models import CHATML, EOS, MISTRAL, MISTRAL_TOKENS, TOOLS_CHATML, save_tokenizer
from tests.engine.test_grammar_probe import SHAPES
from tests.gate import DEADLINE
from tests.server.reading import respond

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
STRICT = {**TOOL, "strict": True}


def constraining(folder, template, special=()):
    tokenizer = Tokenizer(save_tokenizer(folder, template, special=special))
    made = Constraining(tokenizer)
    made._compiler = GrammarCompiler(tokenizer, vocab_size=400, eos_token_ids={EOS})
    return made


@pytest.fixture
def in_tags(tmp_path):
    made = constraining(tmp_path, TOOLS_CHATML)
    yield made
    made.close()


@pytest.fixture
def unknown(tmp_path):
    made = constraining(tmp_path, CHATML)
    yield made
    made.close()


async def test_tools_alone_ask_for_no_grammar(in_tags):
    for request in (
        respond(input="a"),
        respond(input="a", tools=[TOOL]),
        respond(input="a", tools=[STRICT], tool_choice="none"),
    ):
        assert await in_tags.prepare(request, b"") == (request, None)


@pytest.mark.parametrize("more", [{"tools": [STRICT]}, {"tools": [TOOL], "parallel_tool_calls": False}])
async def test_a_wish_is_followed_where_it_can_be_and_else_the_response_says_so(in_tags, unknown, more):
    asked = respond(input="a", unheard_of=1, **more)
    request, compiled = await in_tags.prepare(asked, b"")
    assert request.params.grammar.kind == "lark" and compiled is in_tags.compiler.compile(request.params.grammar, b"")
    assert request.parameters == asked.parameters
    request, compiled = await unknown.prepare(asked, b"")
    assert request.params.grammar is compiled is None
    assert request.parameters["warnings"][0] == asked.parameters["warnings"][0]
    assert UNRESTRICTED in request.parameters["warnings"][1]


async def test_who_leaves_while_its_grammar_is_compiled_keeps_others_waiting_until_it_is(in_tags, monkeypatch):
    asked = respond(input="a", chatpager={"grammar": {"regex": "a"}})
    slow, going_on = threading.Event(), threading.Event()
    compile = in_tags.compiler.compile

    def compiles(grammar, whose):
        slow.set()
        assert going_on.wait(DEADLINE)
        return compile(grammar, whose)

    monkeypatch.setattr(in_tags.compiler, "compile", compiles)
    first = asyncio.ensure_future(in_tags.prepare(asked, b""))
    assert await asyncio.to_thread(slow.wait, DEADLINE)
    first.cancel()
    second = asyncio.ensure_future(in_tags.prepare(asked, b""))
    await asyncio.gather(first, return_exceptions=True)
    assert not second.done()
    going_on.set()
    assert (await asyncio.wait_for(second, DEADLINE))[1] is not None


def with_regex(regex):
    return respond(input="a", chatpager={"grammar": {"regex": regex}})


async def test_too_many_grammars_of_one_tenant_are_refused_and_others_are_not(in_tags, monkeypatch):
    going_on = threading.Event()
    compile = in_tags.compiler.compile
    known = with_regex("b")
    await in_tags.prepare(known, b"")
    monkeypatch.setattr(in_tags.compiler, "compile", lambda *named: going_on.wait(DEADLINE) and compile(*named))
    asked = [with_regex("a" * number) for number in range(1, MAX_WAITING + 3)]
    mine = [asyncio.ensure_future(in_tags.prepare(one, b"")) for one in asked]
    theirs = asyncio.ensure_future(in_tags.prepare(replace(asked[0], tenant="bob"), b""))
    refused, _ = await asyncio.wait(mine, return_when=asyncio.FIRST_COMPLETED)
    assert [type(task.exception()) for task in refused] == [RateLimited]
    assert (await asyncio.wait_for(in_tags.prepare(known, b""), DEADLINE))[1] is not None, "it waits for none"
    going_on.set()
    for task in (theirs, *(set(mine) - refused)):
        assert (await asyncio.wait_for(task, DEADLINE))[1] is not None


async def test_many_requests_with_the_same_grammar_share_it(in_tags, monkeypatch):
    compiled = []
    compile = in_tags.compiler.compile
    monkeypatch.setattr(in_tags.compiler, "compile", lambda *named: compiled.append(named) or compile(*named))
    wishes = [
        {"chatpager": {"grammar": {"regex": "c+"}}, "max_output_tokens": 7},
        {"tools": [TOOL], "tool_choice": "required"},
        {"text": {"format": {"type": "json_object"}}, "tools": [STRICT]},
    ]
    for wish in wishes:
        asked = [respond(input=f"{number}", **wish) for number in range(2 * MAX_WAITING)]
        compiled.clear()
        made = await asyncio.gather(*(in_tags.prepare(one, b"") for one in asked))
        assert len(compiled) == 1 and len({id(compiled) for _, compiled in made}) == 1
        alone, again = await in_tags.prepare(asked[0], b"")
        assert [request for request, _ in made] == [replace(alone, id=one.id, messages=one.messages) for one in asked]
        assert again is made[0][1] and len(compiled) == 1


async def test_each_who_shares_hears_why_it_is_refused(in_tags):
    made = await asyncio.gather(*(in_tags.prepare(with_regex("("), b"") for _ in range(3)), return_exceptions=True)
    assert {(type(error), error.param) for error in made} == {(InvalidRequest, "chatpager.grammar")}


async def test_who_waits_too_long_for_others_is_told_so(tmp_path):
    made = constraining(tmp_path, TOOLS_CHATML)
    made._seconds = 0.05
    await made._queue.enter("bob")
    with pytest.raises(Overloaded, match="other requests"):
        await made.prepare(respond(input="a", chatpager={"grammar": {"regex": "a"}}), b"")
    made._queue.leave()
    made.close()


@pytest.mark.parametrize(("special", "free"), [(("<think>", "</think>"), True), ((), False)])
async def test_thoughts_that_a_grammar_could_not_end_are_left_alone(tmp_path, special, free):
    made = constraining(tmp_path, TOOLS_CHATML + "{# <think> #}", special)
    request, compiled = await made.prepare(respond(input="a", tools=[STRICT]), b"")
    assert (compiled is None) is free and request.may_think
    assert (UNRESTRICTED in str(request.parameters.get("warnings"))) is free
    request, compiled = await made.prepare(respond(input="a", tools=[STRICT], tool_choice="required"), b"")
    assert compiled is not None and not request.may_think
    made.close()


@pytest.mark.parametrize(
    ("more", "param"),
    [({"tool_choice": "required"}, "tool_choice"), ({"text": {"format": {"type": "json_object"}}}, "text.format")],
)
async def test_what_cannot_be_passed_over_is_refused(in_tags, unknown, more, param):
    asked = respond(input="a", tools=[TOOL], **more)
    assert (await in_tags.prepare(asked, b""))[1] is not None
    with pytest.raises(InvalidRequest, match=UNRESTRICTED) as refusal:
        await unknown.prepare(asked, b"")
    assert refusal.value.param == param
    alone = respond(input="a", text={"format": {"type": "json_object"}})
    assert (await unknown.prepare(alone, b""))[1] is not None


async def test_a_schema_that_this_models_form_cannot_follow(tmp_path):
    """Of a strict tool that is refused, of another any arguments are let through."""
    made = constraining(tmp_path, TOOLS_CHATML + "{# <function= #}")
    bounded = {"type": "object", "properties": {"q": {"type": "string", "maxLength": 3}}}
    for tool in (TOOL, {**TOOL, "parameters": bounded}):
        request, compiled = await made.prepare(respond(input="a", tools=[tool], tool_choice="required"), b"")
        assert compiled is not None and "other*" in request.params.grammar.text
    with pytest.raises(InvalidRequest, match=r"parameters of f are strict .* maxLength") as refusal:
        await made.prepare(respond(input="a", tools=[{**STRICT, "parameters": bounded}]), b"")
    assert refusal.value.param == "tools"
    made.close()


async def test_a_form_whose_tokens_the_vocabulary_lacks(tmp_path):
    made = constraining(tmp_path / "a", MISTRAL)
    with pytest.raises(InvalidRequest, match=UNRESTRICTED):
        await made.prepare(respond(input="a", tools=[TOOL], tool_choice="required"), b"")
    made.close()
    made = constraining(tmp_path / "b", MISTRAL, MISTRAL_TOKENS)
    assert (await made.prepare(respond(input="a", tools=[TOOL], tool_choice="required"), b""))[1] is not None
    made.close()


# -- the event loop, whatever is compiled beside it -------------------------------------------------------------------

DOUBLED = "start: X0\n" + "".join(f"X{i}: X{i + 1} X{i + 1}\n" for i in range(40)) + 'X40: "a"'
BAD = {
    **{f"chain of {name}": SHAPES[name](3000) for name in ("properties", "rules", "and")},
    "alternatives": Grammar("regex", "|".join(f"w{i}x*" for i in range(9000))),
    "long": Grammar("regex", "a" * 60_000),
    "spaces": Grammar("regex", " " * 60_000 + "("),
    "counted": Grammar("regex", "(((a{1,100}){1,100}){1,100})"),
    "backtracking": Grammar("regex", "(x+x+)+y" * 300 + "(a|b|.*c)*" * 200),
    "choices": schema_grammar({"enum": [f"v{i}" for i in range(20_000)]}),
    "fields": schema_grammar({"properties": {f"p{i}": {"type": "integer", "minimum": i} for i in range(500)}}),
    "alike": schema_grammar({"anyOf": [{"properties": {"a": {"enum": [i]}}} for i in range(600)]}),
}
TAKES_LONG = {
    "doubled": Grammar("lark", DOUBLED),
    "together": Grammar("lark", "start: X\nX: " + " & ".join(f"/.*a.{{{i}}}/" for i in range(12))),
    "longest": Grammar("regex", "a" * 250_000),
    "many fields": schema_grammar({"properties": {f"p{i}": {"type": "null"} for i in range(3000)}}),
}
MOST_SECONDS = 0.05


async def longest_gap(work):
    """Seconds for which the loop did not come while ``work`` went on: of this process's time on the processors, of
    which whoever keeps the loop from coming takes as much, and which others on a busy machine take nothing of."""
    task, longest, last = asyncio.ensure_future(work), 0.0, time.process_time()
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.process_time()
        longest, last = max(longest, now - last), now
    if task.exception() is not None:
        assert isinstance(task.exception(), InvalidRequest)
    return longest


@pytest.mark.parametrize("bad", [BAD, pytest.param(TAKES_LONG, marks=pytest.mark.slow)], ids=["a second", "long"])
async def test_the_loop_goes_on_while_what_is_bad_is_compiled(tmp_path, bad):
    """What holds it up does so each time; a machine that is busy does not."""
    tokenizer = Tokenizer(save_tokenizer(tmp_path, TOOLS_CHATML))
    made = Constraining(tokenizer)
    made.open(400, {EOS})
    asked = respond(input="a", chatpager={"grammar": {"regex": "a"}})
    for name, grammar in bad.items():
        request = replace(asked, params=msgspec.structs.replace(asked.params, grammar=grammar))
        gaps = []
        for domain in (b"1", b"2", b"3"):  # nothing of one is remembered for another
            gaps.append(await longest_gap(made.prepare(request, domain)))
            if gaps[-1] < MOST_SECONDS:
                break
        assert min(gaps) < MOST_SECONDS, (name, gaps)
    made.close()
