"""Grammars of calls: which answers they let through, and that what they let through is read as the calls it is."""

import json
import random

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatpager.engine.answer_forms import answer_form
from chatpager.engine.answer_marks import STRUCTURE, TAGS, marks_of
from chatpager.engine.call_forms import ASKS_FOR_BARE_CALLS, DEEPSEEKS
from chatpager.engine.call_grammar import CallRule, call_grammar
from chatpager.engine.call_writing import call_writing
from chatpager.engine.detokenizer import TextStream
from chatpager.engine.grammar import Grammar, schema_grammar
from chatpager.engine.grammar_compiler import GrammarCompiler
from chatpager.engine.tokenizer import Tokenizer
from chatpager.engine.tool_calls import CallDelta, CallEnd, CallStart, Thought, Tool
from chatpager.errors import InvalidRequest
from tests.chat_models import DEEPSEEK_TOKENS, EOS, HARMONY_TOKENS, MISTRAL_TOKENS, save_tokenizer

SCHEMA = {
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"type": "string", "maxLength": 5}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOLS = [Tool("f", None, SCHEMA), Tool("g")]
TEMPLATES = {
    "tags": "<tool_call>",
    "bare": ASKS_FOR_BARE_CALLS,
    "listed": "[TOOL_CALLS][{{ calls }}]",
    "spaced": "[TOOL_CALLS] [{{ calls }}]",
    "apart": "[TOOL_CALLS]{{ name }}[ARGS]",
    "fenced": "".join(DEEPSEEKS) + "```json",
    "separated": "".join(DEEPSEEKS),
    "channels": "<|channel|> <|message|>",
}
XML = "<tool_call>\n<function={{ name }}>"


def written(form, name, arguments):
    match form:
        case "tags":
            return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
        case "bare":
            return f'{{"name": "{name}", "parameters": {arguments}}}'
        case "listed" | "spaced":
            return f'{{"name": "{name}", "arguments": {arguments}}}'
        case "apart":
            return f"[TOOL_CALLS]{name}[ARGS]{arguments}"
        case "fenced":
            return f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"
        case "separated":
            return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>"
        case _:
            return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}"


AROUND = {"listed": ("[TOOL_CALLS][", "]"), "spaced": ("[TOOL_CALLS] [", "]")}
AROUND |= dict.fromkeys(["fenced", "separated"], DEEPSEEKS[:2])
APART = {"tags": "\n", "bare": "; ", "listed": ", ", "spaced": ", ", "apart": "", "fenced": "\n", "separated": ""}


def calling(form, *calls):
    """An answer that consists of these calls."""
    begins, ends = AROUND.get(form, ("", ""))
    return begins + APART.get(form, "").join(calls) + ends


def saying(form, text):
    return f"<|channel|>final<|message|>{text}" if form == "channels" else text


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    """Its vocabulary has every form's tokens, of which DeepSeek's are not special."""
    folder = tmp_path_factory.mktemp("calls")
    save_tokenizer(folder, special=(*MISTRAL_TOKENS, *HARMONY_TOKENS), added=DEEPSEEK_TOKENS)
    tokenizer = Tokenizer(folder)
    return GrammarCompiler(tokenizer, vocab_size=tokenizer.backend.get_vocab_size(), eos_token_ids={EOS})


def writing_of(compiler, template):
    marks = marks_of(compiler._model.backend, (*STRUCTURE, *TAGS))
    return call_writing(template, {mark: i for i, mark in marks.items()})


@pytest.fixture
def lets_through(compiler):
    def judge(form, text, answer=None, *, spelled=False, tools=TOOLS, **rule):
        writing = writing_of(compiler, TEMPLATES.get(form, form))
        constraint = compiler.compile(call_grammar(writing, CallRule(tools=tools, **rule), answer)).constraint()
        encode = compiler._model.encode_plain if spelled else compiler._model.encode
        ids = [*encode(text), EOS]
        return all(constraint.allowed(ids[:i], 0)[token] for i, token in enumerate(ids))

    return judge


F, G = {}, {}
for form in TEMPLATES:
    F[form], G[form] = written(form, "f", '{"a": 1, "b": "x"}'), written(form, "g", '{"any": [{}]}')
SEVERAL = [form for form in TEMPLATES if form != "channels"]
IN_TOKENS = [form for form in TEMPLATES if form not in ("tags", "bare")]


@pytest.mark.parametrize("form", TEMPLATES)
class TestCalls:
    def test_one_that_must_be(self, lets_through, form):
        f, g = calling(form, F[form]), calling(form, G[form])
        for text, through in [(f, True), (g, True), (saying(form, "Hi"), False), ("", False), (f + " so", False)]:
            assert lets_through(form, text, must=True) is through, text

    def test_several_or_one(self, lets_through, form):
        one, two = calling(form, F[form]), calling(form, F[form], G[form])
        for must in (True, False):
            assert lets_through(form, two, must=must) is (form in SEVERAL)
            assert not lets_through(form, two, must=must, many=False)
            assert lets_through(form, one, must=must, many=False)

    def test_text_or_calls(self, lets_through, form):
        for said in ("", "Hi, you.\nThe end", "a < b", "好"):
            text = saying(form, said)
            assert lets_through(form, text) and lets_through(form, text, many=False)

    def test_no_call_of_another_tool_nor_with_other_arguments(self, lets_through, form):
        for must in (True, False):
            for name, arguments in [
                ("h", "{}"), ("f", '{"a": "1"}'), ("f", '{"b": "x"}'), ("f", '{"a": 1, "c": 2}'), ("g", "[]"),
            ]:  # fmt: skip
                assert not lets_through(form, calling(form, written(form, name, arguments)), must=must)
        for name, arguments in [("f", '{"a": 1}'), ("g", "{}")]:
            assert lets_through(form, calling(form, written(form, name, arguments)))

    def test_an_answer_of_a_form_or_calls(self, lets_through, form):
        json_said, text, call = saying(form, '{"z": 1}'), saying(form, "Hi"), calling(form, F[form])
        for answer in (Grammar("json_object"), schema_grammar({"type": "object", "properties": {"z": {}}})):
            for said, through in [(json_said, True), (call, True), (text, False), ("", False)]:
                assert lets_through(form, said, answer) is through, said
            assert not lets_through(form, json_said, answer, must=True)

    def test_what_is_no_json_is_not_joined(self, lets_through, form):
        for answer in (Grammar("regex", "a"), Grammar("lark", 'start: "a"')):
            with pytest.raises(InvalidRequest) as refusal:
                lets_through(form, "a", answer)
            assert refusal.value.param == "chatpager.grammar"

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 2**32))
    def test_what_is_let_through_is_read_as_calls(self, compiler, form, seed):
        rule = CallRule(tools=TOOLS[:1], must=True, many=False)
        ids = walk(compiler, call_grammar(writing_of(compiler, TEMPLATES[form]), rule), seed, form)
        [(name, arguments)] = read_all(compiler, TEMPLATES[form], ids)
        assert name == "f"
        jsonschema.validate(json.loads(arguments), {**SCHEMA, "type": "object"})


def walk(compiler, grammar, seed, form=""):
    """Any token that is allowed, and the end where it may be; of thoughts, which have no end, none."""
    constraint, ids, draw = compiler.compile(grammar).constraint(), [], random.Random(seed)
    if form == "channels":
        ids = compiler._model.encode("<|channel|>commentary")
    while not ids or ids[-1] != EOS:
        allowed = constraint.allowed(ids, 0).nonzero()[0].tolist()
        ids.append(EOS if EOS in allowed else draw.choice(allowed))
    return ids[:-1]


def read_all(compiler, template, ids, tools=TOOLS):
    backend = compiler._model.backend
    text = TextStream(backend, marks=marks_of(backend, (*STRUCTURE, *TAGS)))
    said = "".join(map(text.push, ids)) + text.finish()
    parser, calls = answer_form(template).parser({tool.name: tool for tool in tools}), []
    for piece in [*parser.push(said), *parser.finish()]:
        match piece:
            case CallStart():
                calls.append((piece.name, ""))
            case CallDelta():
                calls[-1] = (calls[-1][0], calls[-1][1] + piece.arguments)
            case CallEnd() | Thought():
                pass
            case _:
                pytest.fail(f"text: {piece!r}")
    return calls


def test_text_around_calls_in_tags(lets_through):
    call = F["tags"]
    for text in (f"Let me see.\n{call}", f"{call}\nand {call} so"):
        assert lets_through("tags", text)
    assert lets_through("tags", f"Let me see.\n{call}", many=False)
    assert not lets_through("tags", f"Let me see.\n{call} so", many=False)
    assert not lets_through("tags", f"Let me see.\n{call} and {call}", many=False)
    assert not lets_through("tags", "Let me see. <tool_call> or not")


@pytest.mark.parametrize("form", [form for form in IN_TOKENS if form != "channels"])
def test_text_before_calls_between_tokens(lets_through, form):
    call = calling(form, F[form])
    for many in (True, False):
        assert lets_through(form, f"Let me see.\n{call}", many=many)
        assert not lets_through(form, f"{call} so", many=many)
        assert not lets_through(form, f"Let me see.\n{call[: call.index('f')]}", many=many)
    assert not lets_through(form, f"Let me see.\n{call}", must=True)


@pytest.mark.parametrize("form", IN_TOKENS)
def test_only_the_tokens_are_tokens(lets_through, form):
    """What merely spells them is text, where there may be text."""
    call = calling(form, F[form])
    assert not lets_through(form, call, spelled=True, must=True)
    assert lets_through(form, call, spelled=True) is (form != "channels")


def test_thoughts_before_an_answer_in_channels(lets_through):
    thought = "<|channel|>analysis<|message|>They\nask.<|end|><|start|>assistant"
    call, text = calling("channels", F["channels"]), saying("channels", "Hi")
    for must in (True, False):
        assert lets_through("channels", thought + call, must=must)
        assert lets_through("channels", thought + text, must=must) is not must
        assert not lets_through("channels", thought + thought + call, must=must)
    assert lets_through("channels", thought + saying("channels", '{"z": 1}'), Grammar("json_object"))


def test_forms_that_are_known(compiler):
    assert writing_of(compiler, "") is None
    for template in TEMPLATES.values():
        needs_tokens = bool(writing_of(compiler, template).tokens)
        assert (call_writing(template, {}) is None) is needs_tokens, "a vocabulary without the tokens"


def test_what_a_grammar_does_not_name_is_not_drawn(compiler):
    """Of control tokens: neither another form's, nor in a text."""
    special = compiler._model.special_ids - {EOS}
    constraint = compiler.compile(call_grammar(writing_of(compiler, TEMPLATES["apart"]), CallRule(tools=TOOLS)))
    allowed = set(constraint.constraint().allowed([], 0).nonzero()[0].tolist())
    assert allowed & special == {compiler._model.encode("[TOOL_CALLS]")[0]}
    stranger = f'start: <[{compiler._model.encode("[TOOL_CALLS]")[0]}]> | "a"'
    alone = compiler.compile(Grammar("lark", stranger)).constraint().allowed([], 0)
    assert not alone[sorted(special)].any()


# -- arguments that are no JSON ---------------------------------------------------------------------------------------

TEXT = {"type": "string", "description": "any"}
PARAMETERS = {
    "type": "object",
    "properties": {
        "t": TEXT,
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "e": {"type": "string", "enum": ["red", "dark red"]},
        "o": {"$ref": "#/$defs/pair"},
    },
    "required": ["n"],
    "additionalProperties": False,
    "$defs": {"pair": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}},
}
CODED = [Tool("f", None, PARAMETERS), Tool("g"), Tool("h", None, {"properties": {}, "additionalProperties": False})]


def coded(name="f", **arguments):
    given = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{given}</function>\n</tool_call>"


def test_arguments_in_tags(lets_through):
    for text, through in [
        (coded(n=7), True),
        (coded(t='a\n<b> "c"', n=7, e="dark red", o="[true, false]"), True),
        (coded(t="", n=0), True),
        (coded("g"), True),
        (coded("g", any="thing", else_="{}"), True),
        (coded("h"), True),
        (coded(), False),
        (coded(n="x"), False),
        (coded(n=100), False),
        (coded(n=7, t="after"), False),
        (coded(n=7, e="blue"), False),
        (coded(n=7, z="unknown"), False),
        (coded("h", any="thing"), False),
        (coded("i"), False),
        ("Hi", False),
    ]:
        assert lets_through(XML, text, must=True, tools=CODED) is through, text
    assert lets_through(XML, "Hi", tools=CODED)
    assert lets_through(XML, f"Hi {coded(n=7)}\n{coded('h')} so", tools=CODED)
    assert not lets_through(XML, f"Hi {coded(n=7)}\n{coded('h')}", tools=CODED, many=False)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_arguments_in_tags_are_read_as_what_they_are(compiler, seed):
    """But for any text, which a walk would not end."""
    bounded = {**PARAMETERS, "properties": {k: v for k, v in PARAMETERS["properties"].items() if k != "t"}}
    tools = [Tool("f", None, bounded)]
    grammar = call_grammar(writing_of(compiler, XML), CallRule(tools=tools, must=True, many=False))
    [(name, arguments)] = read_all(compiler, XML, walk(compiler, grammar, seed), tools)
    assert name == "f"
    jsonschema.validate(json.loads(arguments), bounded)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"t": {"type": "string", "maxLength": 3}}}, "maxLength"),
        ({"properties": {"t": {"type": "string", "enum": ["a</parameter>"]}}}, "enum"),
        ({"properties": {"t": {"type": "string", "enum": [1]}}}, "enum"),
        ({"properties": {"a\nb": {}}}, "name"),
        ({"properties": {"a": False}}, "schema of 'a'"),
        ({"properties": {"t": {"type": "string", "enum": "a"}}}, "enum"),
        ({"properties": {"t": {"type": "string", "const": 1}}}, "enum"),
        ({"properties": {}, "required": ["a"]}, "required 'a'"),
        ({"properties": {}, "required": 3}, "required cannot"),
        ({"properties": {}, "required": [{}]}, "required cannot"),
        ({"properties": []}, None),
        ({"properties": [1]}, "properties"),
        ({"anyOf": [{}]}, "anyOf"),
    ],
)
def test_arguments_that_cannot_be_followed_in_tags(compiler, schema, words):
    def make():
        return call_grammar(writing_of(compiler, XML), CallRule(tools=[Tool("f", None, schema)], must=True))

    if words is None:
        assert make().kind == "lark"
        return
    with pytest.raises(InvalidRequest, match=words) as refusal:
        make()
    assert refusal.value.param == "grammar"
