"""Grammars of answers that call tools: that must, that may call only some, or only one, or with arguments of a schema.

They are made of the form in which the model writes calls anyway (``call_writing``) and change nothing of the prompt:
with any choice of tools a conversation keeps its prefix.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from chatpager.engine.call_writing import CallWriting
from chatpager.engine.grammar import Grammar, followed_schema
from chatpager.engine.parameter_grammar import PARAMETER_RULES, parameters
from chatpager.engine.tool_calls import Tool
from chatpager.errors import InvalidRequest


class CallRule(msgspec.Struct, frozen=True, kw_only=True):
    """``tools`` may be called: one at least ``must`` be, or else the answer may be text; more than one only if
    ``many``. ``chosen``: the request says which, so that the rule cannot be passed over."""

    tools: Sequence[Tool]
    must: bool = False
    many: bool = True
    chosen: bool = False
    strict: frozenset[str] = frozenset()
    """Names of those whose arguments follow their schema whatever is in it; others' do where it can be followed."""

    @property
    def asks(self) -> bool:
        """Whether any answer in which these tools are called or not would not do."""
        return self.chosen or not self.many or bool(self.strict)


def call_grammar(writing: CallWriting, rule: CallRule, answer: Grammar | None = None) -> Grammar:
    """``answer``: what is said where nothing is called, instead of any text.

    Raises:
        InvalidRequest: it is no JSON, so that it cannot be joined with tools; or all is too much for a grammar, or
            arguments cannot be followed in this form.
    """
    written = _Written(writing, rule)
    as_json = answer is not None and not rule.must and not writing.mark
    calls = [written.as_json(tool) if as_json else written.literally(tool) for tool in rule.tools]
    named = [f"of_{i}: {call[0]}" for i, call in enumerate(calls)]
    rules = [
        *written.start(answer, as_json=as_json),
        f"named: {' | '.join(f'of_{i}' for i in range(len(named)))}",
        *named,
        *(line for call in calls for line in call[1:]),
        *(PARAMETER_RULES if writing.parameters else ()),
    ]
    return Grammar("lark", "\n".join(rules), tokens=tuple(sorted(writing.tokens.values())))


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """Of the object that a tool is called with."""
    return {**(tool.parameters or {}), "type": "object"}


class _Written:
    """The rules of a grammar, as lines."""

    def __init__(self, writing: CallWriting, rule: CallRule) -> None:
        self._writing = writing
        self._rule = rule

    def start(self, answer: Grammar | None, *, as_json: bool) -> list[str]:
        w, rule = self._writing, self._rule
        call = f"call: {'' if as_json else w.quoted(w.opening)} named"
        if rule.must:
            return [f"start: {self._thought} {self._calls}", call, *self._thinking]
        if answer is not None:
            said = f"said: {w.quoted(w.saying)} {_said(answer)}"
            return [f"start: {self._thought} ({self._calls} | said)", said, call, *self._thinking]
        said, text = f"said: {w.quoted(w.saying)} TEXT", f"TEXT: /{w.text}/"
        if not w.mark:
            return [f"start: {self._calls} | said", said, text, call]
        if w.saying:
            return [f"start: {self._thought} ({self._calls} | said)", said, text, call, *self._thinking]
        if w.mark in w.tokens:  # which no text holds
            return [f"start: said? block?\nblock: {self._calls}", said, text.replace("*/", "+/"), call]
        # A lazy lexeme ends where it may: behind text up to the first mark there is a call.
        marked = f"marked[lazy]: TEXT {w.quoted(w.mark)}"
        call = f"call: marked {w.quoted(w.opening.removeprefix(w.mark))} named"
        return [f"start: {'call* said' if rule.many else 'call | said'}", said, text, marked, call]

    @property
    def _calls(self) -> str:
        w = self._writing
        many = self._rule.many and not w.alone
        calls = f"call ({w.quoted(w.apart)} call)*" if many else "call"
        return f"{w.quoted(w.begins)} {calls} {w.quoted(w.ends)}"

    @property
    def _thought(self) -> str:
        return "thought?" if self._writing.thought else ""

    @property
    def _thinking(self) -> list[str]:
        w = self._writing
        if not w.thought:
            return []
        opens, closes = map(w.quoted, w.thought)
        return [f"thought: {opens} THOUGHT {closes}", "THOUGHT: /(.|\\n)*/"]

    def literally(self, tool: Tool) -> list[str]:
        """A call from the tool's name on, and the rules that this needs."""
        w = self._writing
        schema = arguments_schema(tool)
        arguments, *more = parameters(tool.name, schema) if w.parameters else [_json(schema)]
        return [f"{w.quoted(tool.name + w.between)} {arguments} {w.quoted(w.closing)}", *more]

    def as_json(self, tool: Tool) -> list[str]:
        """The whole call as an object: beside other JSON only the same lexemes tell the two apart."""
        schema = arguments_schema(tool)
        arguments = self._writing.between.split('"')[-2]
        whole: dict[str, Any] = {
            **{name: schema.pop(name) for name in ("$defs", "definitions") if name in schema},
            "type": "object",
            "properties": {"name": {"const": tool.name}, arguments: schema},
            "required": ["name", arguments],
            "additionalProperties": False,
        }
        return [_json(whole)]


def _said(answer: Grammar) -> str:
    if answer.kind == "json_object":
        return _json({"type": "object"})
    if answer.kind != "json_schema":
        problem = "cannot be joined with tools; leave them out, or say tool_choice: none"
        raise InvalidRequest(f"chatpager.grammar: {problem}", param="chatpager.grammar")
    return _json(json.loads(answer.text))


def _json(schema: dict[str, Any]) -> str:
    return f"%json {followed_schema(schema)}"
