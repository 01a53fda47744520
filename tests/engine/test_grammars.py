"""Answers under a grammar, against what reads them independently: jsonschema, ``re``, and the same answer alone."""

import json
import re

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatpager import LLM, Grammar, SamplingParams
from chatpager.engine.grammar import MAX_CHARS, schema_grammar
from chatpager.engine.grammar_compiler import GrammarCompiler
from chatpager.errors import InvalidRequest
from tests.chat_models import EOS

PROMPT = "the quick brown fox"
WORD = Grammar("regex", "[a-z]{60}")


@pytest.fixture(scope="module")
def llm(chat_model):
    return LLM(chat_model, num_kv_blocks=400, max_model_len=512, num_threads=1, swap_space=0, disk_space=0)


@pytest.fixture(scope="module")
def closing(llm):
    """A bias that draws the random model towards an end: it closes what it may close."""
    ids = {llm.tokenizer.encode_plain(text)[0] for text in ('"', "]", "}")}
    return dict.fromkeys(ids, 30.0) | {EOS: 100.0}


def answers(llm, *params, prompts=None):
    outputs = llm.generate(prompts or [PROMPT] * len(params), list(params), use_tqdm=False)
    return [answer for output in outputs for answer in output.outputs]


def one(llm, grammar, **params):
    (answer,) = answers(llm, SamplingParams(grammar=grammar, **{"max_tokens": 200, "seed": 1, **params}))
    return answer


# -- what is drawn follows the grammar --------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "name", "äöü", 'q"uote', "x y"])
LEAVES = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": {"a": [1, None]}}, {"type": "number"}]),
    st.lists(st.one_of(st.integers(-9, 9), st.text(max_size=4), st.none()), min_size=1, max_size=4, unique_by=repr).map(
        lambda values: {"enum": values}
    ),
    st.tuples(st.integers(-300, 300), st.integers(0, 500)).map(
        lambda ends: {"type": "integer", "minimum": ends[0], "maximum": ends[0] + ends[1]}
    ),
    st.tuples(st.integers(0, 3), st.integers(0, 6)).map(
        lambda ends: {"type": "string", "minLength": ends[0], "maxLength": ends[0] + ends[1]}
    ),
    st.sampled_from(["^[a-c]{2,4}$", "^\\d+-x?$", "^z?"]).map(lambda p: {"type": "string", "pattern": p}),
    st.sampled_from(["date", "time", "date-time", "uuid", "ipv4"]).map(lambda f: {"type": "string", "format": f}),
)


@st.composite
def objects(draw, inner):
    properties = draw(st.dictionaries(NAMES, inner, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    more = draw(st.sampled_from([False, {"type": "boolean"}]))
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": more}


def larger(inner):
    lists = st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
        lambda of: {"type": "array", "items": of[0], "minItems": of[1], "maxItems": of[1] + of[2]}
    )
    return st.one_of(objects(inner), lists, st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some}))


SCHEMAS = st.recursive(LEAVES, larger, max_leaves=8)
FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER


@settings(max_examples=60, deadline=None)
@given(SCHEMAS, st.integers(0, 2**32), st.sampled_from([0.0, 0.7, 2.0]))
def test_a_finished_answer_is_valid_json_of_its_schema(llm, closing, schema, seed, temperature):
    params = SamplingParams(
        grammar=schema_grammar(schema), n=3, seed=seed, temperature=temperature, max_tokens=200, logit_bias=closing
    )
    found = answers(llm, params)
    assert any(answer.finish_reason == "stop" for answer in found)
    for answer in found:
        if answer.finish_reason == "stop":
            jsonschema.validate(json.loads(answer.text), schema, format_checker=FORMATS)
        else:
            assert answer.finish_reason == "length", answer.error


PIECES = st.recursive(
    st.sampled_from(["a", "[b-d]", "\\d", "é", "[^a-z]", "(?:xy|z)", "\\.", " ", "好"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["?", "{2}", "{1,3}"])).map(lambda p: f"(?:{p[0]}){p[1]}"),
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: f"(?:{'|'.join(some)})"),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(PIECES, st.integers(0, 2**32))
def test_a_finished_answer_matches_its_expression(llm, closing, regex, seed):
    for answer in answers(llm, SamplingParams(grammar=Grammar("regex", regex), n=2, seed=seed, max_tokens=100)):
        assert answer.finish_reason == "stop"
        assert re.fullmatch(regex, answer.text, re.ASCII), (regex, answer.text)


def test_any_object(llm, closing):
    for seed in range(8):
        answer = one(llm, Grammar("json_object"), seed=seed, logit_bias=closing)
        assert answer.finish_reason == "stop" and isinstance(json.loads(answer.text), dict)


def test_a_lark_grammar(llm):
    grammar = Grammar("lark", 'start: pair ("," pair)*\npair: WORD "=" NUMBER\nWORD: /[a-z]{2}/\nNUMBER: /[0-9]/\n')
    for seed in range(8):
        answer = one(llm, grammar, seed=seed, logit_bias={EOS: 3.0})
        assert re.fullmatch("[a-z]{2}=[0-9](,[a-z]{2}=[0-9])*", answer.text), answer.text


def test_nothing_may_be_all_there_is_to_say(llm):
    answer = one(llm, Grammar("regex", ""))
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("", [EOS], "stop")


# -- ends -------------------------------------------------------------------------------------------------------------


def test_it_ends_where_the_grammar_does_and_not_before(llm):
    answer = one(llm, WORD, logit_bias={EOS: 100.0})
    assert re.fullmatch(WORD.text, answer.text) and answer.finish_reason == "stop"
    assert answer.token_ids[-1] == EOS and EOS not in answer.token_ids[:-1]


def test_a_limit_cuts_it(llm):
    answer = one(llm, WORD, max_tokens=5)
    assert answer.finish_reason == "length" and re.fullmatch("[a-z]{5,59}", answer.text)


def test_no_end_before_min_tokens_unless_the_grammar_is_over(llm):
    free = one(llm, Grammar("regex", "[a-z]*"), min_tokens=30, logit_bias={EOS: 100.0})
    assert len(free.token_ids) == 31 and free.finish_reason == "stop"
    over = one(llm, Grammar("regex", "yes"), min_tokens=30)
    assert over.text == "yes" and over.finish_reason == "stop"


def test_ignoring_the_end_goes_on_as_far_as_the_grammar(llm):
    answer = one(llm, Grammar("regex", "[a-z]{1,60}"), ignore_eos=True, logit_bias={EOS: 100.0})
    assert len(answer.text) == 60 and answer.finish_reason == "stop"


def test_stop_strings_and_stop_tokens_end_it_early(llm):
    whole = one(llm, WORD)
    cut = one(llm, WORD, stop=(whole.text[10:13],))
    assert cut.finish_reason == "stop" and cut.text == whole.text[: whole.text.index(whole.text[10:13])]
    token = whole.token_ids[4]
    ended = one(llm, WORD, stop_token_ids=(token,))
    assert ended.token_ids == whole.token_ids[: whole.token_ids.index(token) + 1] and ended.finish_reason == "stop"


def test_a_bias_moves_what_is_allowed_and_nothing_else(llm):
    y, z = (llm.tokenizer.encode_plain(text)[0] for text in "yz")
    pushed = one(llm, Grammar("regex", "[ab]{3}"), logit_bias={z: 100.0})
    assert re.fullmatch("[ab]{3}", pushed.text)
    chosen = one(llm, Grammar("regex", "[a-z]{3}"), logit_bias={y: 100.0}, temperature=0.0)
    assert chosen.text == "yyy"
    against = one(llm, Grammar("regex", "y{3}"), logit_bias={y: -100.0}, repetition_penalty=2.0)
    assert against.text == "yyy"


# -- the same in any company ------------------------------------------------------------------------------------------

CROWD = [
    SamplingParams(grammar=WORD, seed=1, max_tokens=70),
    SamplingParams(seed=2, max_tokens=40, ignore_eos=True),
    SamplingParams(grammar=Grammar("regex", "([a-z]+ ){12}"), seed=3, max_tokens=70, temperature=0.0),
    SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True),
    SamplingParams(grammar=Grammar("json_object"), seed=4, max_tokens=70, top_p=0.9, presence_penalty=0.5),
    SamplingParams(grammar=WORD, seed=5, max_tokens=70, n=3, repetition_penalty=1.2),
]
PROMPTS = [f"{PROMPT} {i} " * 6 for i in range(len(CROWD))]


def told(found):
    return [(a.token_ids, a.finish_reason) for a in found]


@pytest.fixture(scope="module")
def alone(llm):
    return [told(answers(llm, p, prompts=[prompt])) for p, prompt in zip(CROWD, PROMPTS, strict=True)]


def test_the_same_answers_alone_and_together(llm, alone):
    assert told(answers(llm, *CROWD, prompts=PROMPTS)) == [answer for each in alone for answer in each]


def test_the_same_answers_after_preemption(chat_model, alone):
    tight = LLM(chat_model, num_kv_blocks=32, max_model_len=256, num_threads=1, swap_space=0, disk_space=0)
    outputs = tight.generate(PROMPTS, CROWD, use_tqdm=False)
    assert sum(output.usage.preemptions for output in outputs) > 0
    assert [told(output.outputs) for output in outputs] == alone


def test_siblings_go_their_own_ways(llm):
    found = answers(llm, SamplingParams(grammar=WORD, n=4, seed=9, max_tokens=100))
    assert len({a.text for a in found}) == 4
    assert all(re.fullmatch(WORD.text, a.text) for a in found)


def test_without_a_grammar_nothing_of_it_is_loaded(llm):
    llm.engine.add(_request("plain"), 0.0)
    (seq,) = llm.engine.scheduler.waiting
    assert seq.constraint is None
    llm.engine.cancel("plain")
    llm.engine.step(lambda: 0.0)


def _request(name):
    from chatpager.engine.messages import AddRequest

    return AddRequest(request_id=name, prompt_token_ids=[5], params=SamplingParams())


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_grammar_that_cannot_go_on_fails_its_own_answer_only(llm):
    dead_end = Grammar("lark", 'start: "ab" <|im_start|> "c"')
    stuck, fine = answers(llm, SamplingParams(grammar=dead_end, seed=1), SamplingParams(grammar=WORD, max_tokens=99))
    assert (stuck.finish_reason, stuck.text) == ("error", "ab") and "allows none" in stuck.error
    assert re.fullmatch(WORD.text, fine.text)


def test_one_answer_of_several_that_cannot_go_on_fails_alone(llm):
    forked = Grammar("lark", 'start: "1" <|im_start|> "c" | WORD\nWORD: /[a-z]{9}/')
    (one_token,) = llm.tokenizer.encode_plain("1")
    found = answers(llm, SamplingParams(grammar=forked, n=8, seed=1, max_tokens=30, logit_bias={one_token: 3.0}))
    stuck = [answer for answer in found if answer.finish_reason == "error"]
    fine = [answer for answer in found if answer.finish_reason == "stop"]
    assert stuck and fine and len(stuck) + len(fine) == 8
    assert all(answer.text == "1" and "allows none" in answer.error for answer in stuck)
    assert all(re.fullmatch("[a-z]{9}", answer.text) for answer in fine)
    llm.engine.audit()


def test_answers_that_cannot_begin_all_fail(llm):
    found = answers(llm, SamplingParams(grammar=Grammar("lark", 'start: "ab" <|im_start|>'), n=3, seed=1))
    assert [(answer.text, answer.finish_reason) for answer in found] == [("ab", "error")] * 3
    llm.engine.audit()


REFUSED = [
    (Grammar("regex", "(a"), "unclosed group"),
    (Grammar("regex", "(?=a)b"), "look-ahead"),
    (Grammar("regex", r"(?P<x>a)\1"), "backreferences"),
    (Grammar("lark", "start: nowhere"), "nowhere"),
    (Grammar("lark", ""), "Empty grammar"),
    (Grammar("lark", "start: <|im_start|>"), "no text satisfies it"),
    (Grammar("lark", "start: X0\n" + "".join(f"X{i}: X{i + 1} X{i + 1}\n" for i in range(40)) + 'X40: "a"'), "too big"),
    (Grammar("lark", 'start: a\na: a "x"'), "refers to itself without end"),
    (schema_grammar({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "refers to itself"),
    (schema_grammar({"type": "what"}), "Invalid type"),
    (schema_grammar({"type": "array", "uniqueItems": True}), "uniqueItems"),
    (schema_grammar({"not": {"type": "null"}}), "not"),
    (schema_grammar({"oneOf": [{"type": "number"}, {"type": "integer"}]}), "oneOf"),
    (schema_grammar({"$ref": "https://example.com/schema"}), "not present"),
    (schema_grammar({"$ref": "#/nowhere"}), "nowhere"),
    (schema_grammar({"type": "string", "pattern": "(?!a)"}), "look-ahead"),
    (schema_grammar({"type": "string", "format": "haiku"}), "haiku"),
    (schema_grammar({"type": "integer", "minimum": 3, "maximum": 2}), "minimum"),
    (schema_grammar({"type": "string", "uniqueItems": True, "x-guidance": {"lenient": True}}), "uniqueItems"),
]


@pytest.mark.parametrize(("grammar", "problem"), REFUSED, ids=[f"{g.kind}-{p}" for g, p in REFUSED])
def test_what_cannot_be_followed_is_refused_with_the_cause(llm, grammar, problem):
    with pytest.raises(InvalidRequest, match=problem) as refusal:
        one(llm, grammar)
    assert refusal.value.param == "grammar" and not llm.engine.has_work


R = "red fox, " * 400
LONG = [
    *(Grammar("regex", part + "(" * 300) for part in (R, "red" * 1000, "")),
    *(Grammar("lark", text) for text in (f'start: "{R}', "start: " + "r" * 3000, f"start: x\n# {R}\n# {R}\nx: (")),
    *(schema_grammar({"type": "string", name: R + "(("}) for name in ("pattern", "format", "minLength")),
    *(schema_grammar(schema) for schema in ({"type": R}, {"$ref": R}, {"$ref": f"#/{R}"}, {"type": '"r\n"' * 300})),
]


@pytest.mark.parametrize("grammar", LONG, ids=lambda grammar: f"{grammar.kind}-{grammar.text[:24]}")
def test_of_a_grammar_that_is_refused_little_is_shown(llm, grammar):
    with pytest.raises(InvalidRequest) as refusal:
        one(llm, grammar)
    said = str(refusal.value)
    places = re.findall(r"(?:[(\s]|red|fox|,|r\b)+|r{2,}", said)
    assert max(len(place) for place in places) <= 64 and len(said) <= 400, said
    assert "(" * 65 not in said and said.count("r ") < 70


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("yaml", ""),
        ("regex", 3),
        ("regex", "a" * (MAX_CHARS + 1)),
        ("json_object", "{}"),
        ("json_schema", "{"),
        ("json_schema", "[]"),
        ("json_schema", "true"),
        ("json_schema", '{"a":' * 70 + "1" + "}" * 70),
        ("json_schema", "[" * 9000),
    ],
)
def test_what_is_no_grammar_is_none(kind, text):
    with pytest.raises(InvalidRequest, match="grammar"):
        Grammar(kind, text)


def test_a_schema_too_deep_to_be_written_is_refused():
    schema = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest, match="too deeply"):
        schema_grammar(schema)


def test_a_model_without_a_tokenizer_has_no_grammars(tiny_model):
    llm = LLM(tiny_model("llama"), num_kv_blocks=8, max_model_len=64, num_threads=1)
    with pytest.raises(InvalidRequest, match="tokenizer"):
        llm.generate([[5, 6]], SamplingParams(grammar=WORD), use_tqdm=False)


# -- what is kept of compiled grammars --------------------------------------------------------------------------------


def compiler(llm, **more):
    return GrammarCompiler(llm.tokenizer, **{"vocab_size": 400, "eos_token_ids": {EOS}, **more})


def test_compiled_grammars_are_kept_the_latest_and_those_that_somebody_holds(llm):
    grammars = [Grammar("regex", f"a{{{i}}}") for i in range(3)]
    compile = compiler(llm, capacity=2).compile
    held = compile(grammars[0])
    second = id(compile(grammars[1]))
    compile(grammars[2])
    assert compile(grammars[0]) is held, "it is held"
    assert compile(grammars[0]) is compile(Grammar("regex", "a{0}"))
    assert id(compile(grammars[2])) != second and compile(grammars[1]) is compile(grammars[1])


def test_tenants_share_no_compiled_grammar(llm):
    compile = compiler(llm).compile
    assert compile(WORD, b"a") is compile(WORD, b"a") is not compile(WORD, b"b")


def test_a_model_that_never_ends_has_no_grammars(llm):
    with pytest.raises(InvalidRequest, match="no token that ends"):
        compiler(llm, eos_token_ids=()).compile(WORD)


def test_logits_narrower_and_wider_than_the_tokenizer(llm):
    for width in (390, 450):
        allowed = compiler(llm, vocab_size=width).compile(Grammar("regex", "(.|\n)+")).constraint().allowed([], 0)
        assert allowed[:width].any() and not allowed[width:].any() and not allowed[400:].any()
