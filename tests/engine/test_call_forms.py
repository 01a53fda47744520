"""Which form of calls a template asks for, and Llama's: an answer that is nothing but calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.answer_marks import STRUCTURE, mark, unmarked
from chatpager.engine.call_forms import (
    ASKS_FOR_BARE_CALLS,
    DEEPSEEKS,
    FENCED,
    LISTED,
    NAMED_APART,
    SEPARATED,
    BareParser,
    TagParser,
    call_parser,
)
from chatpager.engine.call_parser import FormParser
from chatpager.engine.tool_calls import CallDelta, CallEnd, CallStart, FunctionCall, is_object
from chatpager.engine.xml_calls import XmlParser
from tests.engine import call_pieces as pieces

CALL = '{"name": "f", "parameters": {"a": "}{", "b": 2.50}}'
READ = FunctionCall("f", '{"a": "}{", "b": 2.50}')


def read(text, cuts=(), names=None):
    return pieces.read(BareParser(names), text, cuts)


@pytest.mark.parametrize(
    ("template", "parser"),
    [
        ("... <tool_call>\n{{ call }} ...", TagParser),
        (f"Respond in the format {ASKS_FOR_BARE_CALLS}...}}", BareParser),
        ("<tool_call>\n<function={{ name }}>", XmlParser),
        ("", None),
    ],
)
def test_forms_that_are_known(template, parser):
    assert call_parser(template) is parser


def test_mistrals_forms_are_known():
    assert call_parser("[TOOL_CALLS] [{{ call }}]")().form is LISTED
    assert call_parser("[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}")().form is NAMED_APART


def test_deepseeks_forms_are_known():
    separated = "".join(DEEPSEEKS)
    assert call_parser(separated)().form is SEPARATED
    assert call_parser(separated + "```json")().form is FENCED


MISTRAL = '{"name": "f", "arguments": {"a": "]}"}}'
FOUND = FunctionCall("f", '{"a": "]}"}')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"[TOOL_CALLS] [{MISTRAL}]", [FOUND]),
        (f"So: [TOOL_CALLS][{MISTRAL},\n{MISTRAL}] ", ["So:", FOUND, FOUND]),
        (f'[TOOL_CALLS] [{MISTRAL[:-1]}, "id": "abcdefghi"}}, {MISTRAL}]', [FOUND, FOUND]),
        (f"[TOOL_CALLS] [{MISTRAL}", [FOUND]),
        (f"[TOOL_CALLS] [{MISTRAL[:-4]}", [FunctionCall("f", '{"a": "]')]),
        (f"[TOOL_CALLS] [{MISTRAL}, {MISTRAL[:9]}", [FOUND, ", " + MISTRAL[:9]]),
        ('[TOOL_CALLS] [{"arguments": {}, "name": "f"}]', [' [{"arguments": {}, "name": "f"}]']),
        ("[TOOL_CALLS] none", [" none"]),
        (f"{MISTRAL} is text", [f"{MISTRAL} is text"]),
    ],
)
def test_mistrals_calls_in_a_list(text, found):
    assert read_marked(LISTED, text) == read_marked(LISTED, text, True) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[TOOL_CALLS]f[ARGS]{"a": "]}"}', [FOUND]),
        ('So: [TOOL_CALLS]f[CALL_ID]abc[ARGS]{"a": "]}"}\n[TOOL_CALLS]f[ARGS] {"a": "]}"}', ["So:", FOUND, FOUND]),
        ('[TOOL_CALLS]f[ARGS]{"a": }[TOOL_CALLS]f[ARGS]{"a": "]}"}', [FunctionCall("f", '{"a": }'), FOUND]),
        ('[TOOL_CALLS]f[ARGS]{"a"', [FunctionCall("f", '{"a"')]),
        ("[TOOL_CALLS]f[ARGS]", ["f"]), ("[TOOL_CALLS]a b[ARGS]{}", ["a b{}"]), ("f[ARGS]{}", ["f{}"]),
    ],
)  # fmt: skip
def test_mistrals_calls_one_by_one(text, found):
    assert read_marked(NAMED_APART, text) == read_marked(NAMED_APART, text, True) == found


def fenced(arguments, name="f", kind="function"):
    return f"<｜tool▁call▁begin｜>{kind}<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"


def separated(arguments, name="f"):
    return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>"


BEGIN, END = DEEPSEEKS[:2]


@pytest.mark.parametrize(("form", "call"), [(FENCED, fenced), (SEPARATED, separated)], ids=["fenced", "separated"])
def test_deepseeks_calls(form, call):
    one, cut = call('{"a": "]}"}'), FunctionCall("f", '{"a": "]')
    for text, found in [
        (BEGIN + one + END, [FOUND]),
        (f"So: {BEGIN}{one}\n{one}{END} ", ["So:", FOUND, FOUND]),
        (f"{BEGIN}\n{one}{one}\n{END}So.", [FOUND, FOUND, "So."]),
        (BEGIN + one, [FOUND]),
        (BEGIN + one[: one.index("}")], [cut]),
        (BEGIN + call('{"a": }') + call('{"a": "]}"}') + END, [FunctionCall("f", '{"a": }'), FOUND]),
        (BEGIN + call("{}", "a b") + END, [unmarked(marked(call("{}", "a b")))]),
        (BEGIN + call("[]") + END, [unmarked(marked(call("[]")))]),
        (f"{BEGIN}None.{END}", ["None."]),
        (f"{END}{one}", [unmarked(marked(one))]),
    ]:
        assert read_marked(form, text) == read_marked(form, text, True) == found, text


def test_what_follows_deepseeks_separator_may_be_apart():
    text = f"{BEGIN}<｜tool▁call▁begin｜>f\n<｜tool▁sep｜>\n" + '{"a": "]}"}' + f"\n<｜tool▁call▁end｜>{END}"
    assert read_marked(SEPARATED, text) == read_marked(SEPARATED, text, True) == [FOUND]
    assert read_marked(FENCED, BEGIN + fenced('{"a": "]}"}', kind="") + END) == [FOUND]


PARTS = {
    LISTED: ["[TOOL_CALLS]", f" [{MISTRAL}", MISTRAL, ", ", "]"],
    NAMED_APART: ["[TOOL_CALLS]", "f[ARGS]", '{"a": "]}"}', "[CALL_ID]"],
    FENCED: [BEGIN, END, fenced("{}"), fenced('{"a": "]}"}'), fenced("{}")[:40], "\n```<｜tool▁call▁end｜>"],
    SEPARATED: [BEGIN, END, separated("{}"), separated('{"a": "]}"}'), separated("{}")[:25], "<｜tool▁call▁end｜>"],
}


@pytest.mark.parametrize("form", PARTS, ids=["listed", "apart", "fenced", "separated"])
@given(data=st.data())
def test_where_a_text_with_tokens_is_cut_makes_no_difference(form, data):
    text = "".join(data.draw(st.lists(st.sampled_from([*PARTS[form], "{", '"', " ", "a"]), max_size=6)))
    cuts = data.draw(st.lists(st.integers(0, 200), max_size=20))
    assert read_marked(form, text, cuts=cuts) == read_marked(form, text)


def marked(text):
    for token in STRUCTURE:
        text = text.replace(token, mark(token))
    return text


def read_marked(form, text, in_pieces=False, cuts=()):
    """``text`` with the form's tokens in it; texts that are told have none."""
    text = marked(text)
    cuts = range(len(text)) if in_pieces else [cut for cut in cuts if cut < len(text)]
    found = pieces.read(FormParser(form), text, cuts)
    told = [unmarked(piece) if isinstance(piece, str) else piece for piece in found]
    return [piece for piece in told if piece != ""]


@pytest.mark.parametrize(
    "text", [f"[TOOL_CALLS] [{MISTRAL}]", BEGIN + fenced("{}") + END, BEGIN + separated("{}") + END]
)
def test_a_text_that_spells_a_forms_tokens_calls_nothing(text):
    for form in (LISTED, NAMED_APART, FENCED, SEPARATED):
        assert pieces.read(FormParser(form), text) == [text]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (CALL, [READ]),
        (f"\n{CALL}; {CALL}\n{CALL} ", 3 * [READ]),
        ('{"name": "f"}', [FunctionCall("f", "{}")]),
        ('{"name": "f", "id": 3, "parameters": {"a": 1}};' + CALL, [FunctionCall("f", '{"a": 1}'), READ]),
        ("", []),
        (f"{CALL} so", [READ, " so"]),
        (f"{CALL};{CALL[:19]}", [READ, ";" + CALL[:19]]),
        ('{"name": "f", "parameters": ' + "{" + "[" * 9, [FunctionCall("f", "{" + "[" * 9)]),
    ],
)
def test_calls(text, found):
    assert read(text) == read(text, range(len(text))) == found


@pytest.mark.parametrize(
    "text",
    [
        "a", " \n", "{", '{"name', '{"nam": 1}', f"So: {CALL}", CALL[:27], " " * 99 + "a", "{}",
        '{"name": "f", "parameters": "x"}', '{"name": "Ada", "x": NaN, "parameters": {}}',
        '{"name": "f", "parameters": ' + "[" * 5000,
    ],
)  # fmt: skip
def test_what_is_more_or_less_than_calls_is_text(text):
    assert read(text) == read(text, range(len(text))) == [text]


@given(
    st.lists(st.sampled_from([CALL, CALL[:9], CALL[9:], "{", "}", '"', " ", ";", "a"]), max_size=6).map("".join),
    st.lists(st.integers(0, 200), max_size=20),
)
def test_where_the_text_is_cut_makes_no_difference(text, cuts):
    assert read(text, [cut for cut in cuts if cut < len(text)]) == read(text)


def test_an_answer_that_only_looks_like_a_call_of_a_tool_is_text_at_once():
    person = '{"name": "Ada", "parameters": {"born": 1815}}'
    parser = BareParser({"f"})
    assert "".join(parser.push(person)) == person
    assert read(person, range(len(person)), {"f"}) == [person]
    assert read('{"name": "g"}', names={"f"}) == ['{"name": "g"}'] and read(CALL, names={"f"}) == [READ]


def test_arguments_are_told_as_they_come():
    parser = BareParser()
    assert parser.push(CALL[:28]) == []
    assert parser.push(CALL[28:34]) == [CallStart("f"), CallDelta("{"), CallDelta(CALL[29:34])]
    assert parser.push(CALL[34:]) == [CallDelta(CALL[34:-1]), CallEnd()]


@given(st.integers(0, 2 * len(CALL)))
def test_a_call_that_is_cut_is_not_whole(end):
    text = CALL + CALL
    first, *others = [piece for piece in read(text[:end]) if isinstance(piece, FunctionCall)] or [READ]
    for call in (first, *others):
        assert READ.arguments.startswith(call.arguments) and is_object(call.arguments) == (call == READ)


def test_text_does_not_wait():
    parser = BareParser()
    assert parser.push("{") == [] and parser.push("\n") == [] and parser.push("x") == ["{\nx"]
    assert parser.push(CALL) == [CALL] and parser.finish() == []
