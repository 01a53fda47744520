"""From a grammar to what says which tokens may come next: llguidance's work.

Of the libraries that do this llguidance and xgrammar are well kept. llguidance reads all that is needed here (JSON
schemas, regular expressions, Lark), refuses the parts of a schema that it cannot enforce instead of passing them over,
bounds its own work at compiling and in each step, and is one wheel without dependencies; xgrammar brings its own
requirements on torch and transformers, and a compiler's runtime. It is imported where the first grammar is compiled.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection
from functools import cached_property
from hashlib import blake2b
from threading import Lock
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

import msgspec
import numpy as np

from chatpager.engine.constraint import Constraint
from chatpager.engine.grammar import Grammar, followed_schema
from chatpager.engine.grammar_child import matcher, vocabulary
from chatpager.engine.grammar_probe import Probe
from chatpager.engine.grammar_problem import MAX_PROBLEM, problem_shown
from chatpager.errors import GrammarFailed, InvalidRequest, Overloaded

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from chatpager.engine.tokenizer import Tokenizer

K = TypeVar("K")
V = TypeVar("V")

CACHED = 64
"""Compiled grammars that are kept though nobody holds them, of all tenants together."""
VERDICTS = 4096
"""On grammars that were compiled or refused, of all tenants together."""


class Compiled:
    """A grammar over one vocabulary. Whoever holds it can be sure that the engine finds it compiled."""

    def __init__(self, matcher: LLMatcher, drawable: np.ndarray) -> None:
        self._matcher = matcher
        self._drawable = drawable

    def constraint(self) -> Constraint:
        """A new answer's place in the grammar: its beginning."""
        return Constraint(self._matcher, self._drawable)


class GrammarCompiler:
    """For one model: its tokenizer, the width of its logits, and the tokens that end its answers, the only special
    ones that are drawn. Any thread may use it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        eos_token_ids: Collection[int],
        capacity: int = CACHED,
        probe: Probe | None = None,
    ) -> None:
        """``probe``: tries grammars of strangers first, of which some would end this process."""
        self._model = tokenizer
        self._ends = sorted(eos_token_ids)
        width = max(vocab_size, tokenizer.backend.get_vocab_size(with_added_tokens=True))
        self._drawable = np.ones(width, dtype=bool)
        self._drawable[sorted(tokenizer.special_ids.difference(eos_token_ids))] = False
        self._drawable[vocab_size:] = False
        self._capacity = capacity
        self._probe = probe
        self._lock = Lock()
        self._kept: OrderedDict[tuple[bytes, Grammar], Compiled] = OrderedDict()
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()
        """Why it was refused, or nothing; by tenant, as the others."""
        self._alive: WeakValueDictionary[tuple[bytes, Grammar], Compiled] = WeakValueDictionary()

    def compile(self, grammar: Grammar, whose: bytes = b"") -> Compiled:
        """``whose``: what one tenant compiled is not found by another, who could tell by the time that it was.

        Raises:
            InvalidRequest: it is no grammar, has parts that are not supported, is too large, or nothing satisfies it;
                or the model has no token that ends an answer, or a tokenizer that llguidance does not know.
        """
        name = (whose, grammar)
        found = self._found(name)
        if found is not None:
            return found
        made = self._judge(grammar, whose)
        with self._lock:
            self._alive[name] = made
            self._keep(name, made)
        return made

    def check(self, grammar: Grammar, whose: bytes = b"") -> None:
        """Whether it can be compiled: once found, remembered as ``compile`` remembers it. Raises what that does."""
        if self._verdict(_digest(grammar, whose)) is None:
            self._judge(grammar, whose)

    def _found(self, name: tuple[bytes, Grammar]) -> Compiled | None:
        with self._lock:
            found = self._alive.get(name)
            if found is not None:
                self._keep(name, found)
        return found

    def _keep(self, name: tuple[bytes, Grammar], compiled: Compiled) -> None:
        _put(self._kept, name, compiled, self._capacity)

    def _verdict(self, digest: bytes) -> str | None:
        """None: it was never seen. Raises InvalidRequest: it was refused."""
        with self._lock:
            problem = self._verdicts.get(digest)
            if problem is not None:
                self._verdicts.move_to_end(digest)
        if problem:
            raise InvalidRequest(problem, param="grammar")
        return problem

    def _judge(self, grammar: Grammar, whose: bytes) -> Compiled:
        digest = _digest(grammar, whose)
        self._verdict(digest)
        try:
            made = self._make(grammar)
        except InvalidRequest as error:
            self._remember(digest, error.message)
            raise
        self._remember(digest, "")
        return made

    def _remember(self, digest: bytes, problem: str) -> None:
        with self._lock:
            _put(self._verdicts, digest, problem, VERDICTS)

    def _make(self, grammar: Grammar) -> Compiled:
        source = _source(grammar)
        if self._probe is not None and not self._probe.survives(self._vocabulary_source, *source):
            problem = "it takes too much to compile, or its references, rules or terminals make too long a chain"
            raise _invalid(grammar, f"{problem}; make it smaller")
        try:
            made = matcher(self._vocabulary, *source)
        except (ValueError, RecursionError) as error:
            raise _invalid(grammar, str(error)) from error
        if made.is_error():
            raise _invalid(grammar, made.get_error())
        drawable = self._drawable
        if grammar.tokens:
            drawable = drawable.copy()
            drawable[list(grammar.tokens)] = True
        compiled = Compiled(made, drawable)
        try:
            begins = compiled.constraint().has_beginning()
        except GrammarFailed as error:
            raise _invalid(grammar, str(error)) from error
        if not begins:
            raise _invalid(grammar, "no text satisfies it")
        return compiled

    @cached_property
    def _vocabulary_source(self) -> tuple[str, int, list[int]]:
        if not self._ends:
            raise _unusable("this model has no token that ends an answer")
        # Truncation and padding, which llguidance refuses, are no matter of what tokens there are.
        plain = {**json.loads(self._model.backend.to_str()), "truncation": None, "padding": None}
        for token in plain["added_tokens"]:  # what gives an answer its parts is no text
            token["special"] = token["special"] or token["id"] in self._model.structure_ids
        return json.dumps(plain), len(self._drawable), self._ends

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        """Made when first needed: it takes a second for a large one."""
        source = self._vocabulary_source
        try:
            return vocabulary(*source)
        except (OSError, ImportError) as error:  # what it needs of the system is not there for now
            raise Overloaded("the grammar cannot be compiled just now; try again later") from error
        except Exception as error:  # it may not know a tokenizer in any way
            raise _unusable(f"it cannot be followed with this model's tokenizer: {error}"[:MAX_PROBLEM]) from error


def _put(kept: OrderedDict[K, V], name: K, value: V, capacity: int) -> None:
    kept[name] = value
    kept.move_to_end(name)
    while len(kept) > capacity:
        kept.popitem(last=False)


class Known:
    """Of what a compiler did only what it remembers: nothing is compiled."""

    def __init__(self, compiler: GrammarCompiler) -> None:
        self._compiler = compiler

    def compile(self, grammar: Grammar, whose: bytes = b"") -> Compiled:
        """Raises InvalidRequest: it was refused; LookupError: it is not known."""
        found = self._compiler._found((whose, grammar))
        if found is None:
            self.check(grammar, whose)
            raise LookupError
        return found

    def check(self, grammar: Grammar, whose: bytes = b"") -> None:
        """Raises as ``compile`` does."""
        if self._compiler._verdict(_digest(grammar, whose)) is None:
            raise LookupError


def _digest(grammar: Grammar, whose: bytes) -> bytes:
    """Many verdicts are kept, and their grammars may be long."""
    return blake2b(msgspec.msgpack.encode((whose, grammar.kind, grammar.text)), digest_size=16).digest()


def _source(grammar: Grammar) -> tuple[str, str]:
    """As ``grammar_child.matcher`` takes it."""
    match grammar.kind:
        case "json_schema":
            return "json_schema", followed_schema(json.loads(grammar.text))
        case "json_object":
            return "json_schema", followed_schema({"type": "object"})
        case _:
            return grammar.kind, grammar.text


ENDLESS = "NoExtensionBias"
"""All that llguidance says of a rule whose every way leads back to itself."""


def _invalid(grammar: Grammar, problem: str) -> InvalidRequest:
    if ENDLESS in problem:
        problem = "it refers to itself without end; give it a way that does not"
    return _unusable(f"this {grammar.kind} cannot be used: {problem_shown(problem, grammar)}")


def _unusable(problem: str) -> InvalidRequest:
    return InvalidRequest(f"grammar: {problem}", param="grammar")
