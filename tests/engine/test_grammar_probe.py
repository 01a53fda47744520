"""Grammars that end the process that compiles them: flat as text, walked by recursion."""

import json
import threading

import pytest

from chatpager.engine.grammar import Grammar
from chatpager.engine.grammar_compiler import GrammarCompiler
from chatpager.engine.grammar_probe import Probe, deep_stacks
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import InvalidRequest
from tests.chat_models import CHATML, EOS, save_tokenizer

SMALL = Grammar("regex", "[a-z]{3}")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer(save_tokenizer(tmp_path_factory.mktemp("words"), CHATML))


@pytest.fixture(scope="module")
def probe():
    made = Probe()
    yield made
    made.close()


@pytest.fixture(scope="module")
def compile(tokenizer, probe):
    return GrammarCompiler(tokenizer, vocab_size=400, eos_token_ids={EOS}, probe=probe).compile


def links(count, link):
    chain = {f"a{i}": link({"$ref": f"#/$defs/a{i + 1}"}) for i in range(count)}
    return json.dumps({"$ref": "#/$defs/a0", "$defs": {**chain, f"a{count}": {"type": "null"}}})


def chain(count, line, last='"b"'):
    return "\n".join([*(line(i, i + 1) for i in range(count)), line(count, count).split(":")[0] + f": {last}"])


def rules(count):
    return "start: x0\n" + chain(count, lambda i, j: f'x{i}: "a" x{j}')


SHAPES = {
    "$ref": lambda n: Grammar("json_schema", links(n, lambda ref: ref)),
    "anyOf": lambda n: Grammar("json_schema", links(n, lambda ref: {"anyOf": [ref, {"type": "boolean"}]})),
    "properties": lambda n: Grammar("json_schema", links(n, lambda ref: {"properties": {"a": ref}, "required": ["a"]})),
    "rules": lambda n: Grammar("lark", rules(n)),
    "terminals": lambda n: Grammar("lark", "start: X0\n" + chain(n, lambda i, j: f'X{i}: "a" X{j}')),
    "and": lambda n: Grammar("lark", "start: X0\n" + chain(n, lambda i, j: f"X{i}: /[ab]+/ & X{j}")),
    "not": lambda n: Grammar("lark", "start: X0\n" + chain(n, lambda i, j: f"X{i}: ~X{j}")),
    "%json": lambda n: Grammar("lark", f"start: %json {links(n, lambda ref: ref)}"),
    "later": lambda n: Grammar("lark", 'start: "c" X0\n' + chain(n, lambda i, j: f'X{i}: "a" X{j}')),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_chain_that_is_too_long_is_refused_and_the_next_grammar_is_compiled(compile, shape):
    with pytest.raises(InvalidRequest, match="too long a chain"):
        compile(SHAPES[shape](3000))
    assert compile(SHAPES[shape](50)) and compile(Grammar("regex", f"[a-z]{{3}}{shape[1]}"))


def test_a_chain_of_some_hundreds_is_followed(compile):
    compiled = []
    with deep_stacks():
        thread = threading.Thread(target=lambda: compiled.append(compile(Grammar("lark", rules(300)))))
        thread.start()
    thread.join()
    constraint = compiled[0].constraint()
    said: list[int] = []
    while (allowed := constraint.allowed(said, 0)).nonzero()[0].tolist() != [EOS]:
        said.append(int(allowed.argmax()))
    assert said


def test_what_takes_too_long_is_refused(tokenizer):
    probe = Probe(seconds=0.3)
    compiler = GrammarCompiler(tokenizer, vocab_size=400, eos_token_ids={EOS}, probe=probe)
    slow = {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(3000)}}
    with pytest.raises(InvalidRequest, match="takes too much"):
        compiler.compile(Grammar("json_schema", json.dumps(slow)))
    probe.close()


def test_a_closed_probe_has_no_child_and_lets_nothing_pass(tokenizer):
    probe = Probe()
    compiler = GrammarCompiler(tokenizer, vocab_size=400, eos_token_ids={EOS}, probe=probe)
    compiler.compile(SMALL)
    probe.close()
    with pytest.raises(InvalidRequest):
        compiler.compile(Grammar("regex", "b"))


def test_what_is_refused_anyway_ends_no_child(compile, probe):
    compile(Grammar("regex", "c"))
    child = probe._child
    for bad in (Grammar("regex", "(" * 5000), Grammar("lark", "start: " + "(" * 5000), Grammar("lark", "start: x")):
        with pytest.raises(InvalidRequest, match="cannot be used"):
            compile(bad)
    assert probe._child is child and child.poll() is None


def test_verdicts_are_remembered_by_tenant(tokenizer):
    probe = Probe(seconds=0.3)
    compiler = GrammarCompiler(tokenizer, vocab_size=400, eos_token_ids={EOS}, probe=probe)
    refused = Grammar("lark", rules(3000))
    for remembered in (False, True):
        with pytest.raises(InvalidRequest, match="too long a chain") as refusal:
            compiler.compile(refused, b"a")
        assert refusal.value.param == "grammar"
        compiler.check(SMALL, b"a")
        if not remembered:
            probe.close()  # from here on nothing can be found out
    with pytest.raises(InvalidRequest):
        compiler.check(SMALL, b"b")


def test_threads_get_their_usual_stacks_again():
    before = threading.stack_size()
    with deep_stacks():
        assert threading.stack_size() != before
    assert threading.stack_size() == before
