"""How the answers of a model are to be read: what its chat template says about thoughts, calls and channels."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import dataclass

from chatpager.engine.answer_marks import TAGS
from chatpager.engine.call_forms import DEEPSEEKS, FENCE, MISTRALS, call_parser
from chatpager.engine.call_parser import AnswerParser
from chatpager.engine.control_tokens import SLOT_CLOSE, SLOT_OPEN
from chatpager.engine.harmony import ASKS_IN_CHANNELS, TOKENS, HarmonyParser
from chatpager.engine.reasoning import Tags, ThinkParser, tags_of

_SLOT = rf'\{{"({SLOT_OPEN}\d+{SLOT_CLOSE})": ""\}}'
"""The arguments of a call in whose place an answer's ids are to stand."""
MISTRAL_CALLS = re.compile(rf'\[TOOL_CALLS\](?:(?!\[TOOL_CALLS\]).)*?{_SLOT}(?:(?:, "id": "\w*")?\}}\])?', re.DOTALL)
HARMONY_CALLS = re.compile(rf"(?<=<\|start\|>assistant)(?:(?!<\|start\|>).)*?{_SLOT}", re.DOTALL)
_BEGIN, _ALL_END, _, _END, _ = DEEPSEEKS
DEEPSEEK_CALLS = re.compile(rf"{_BEGIN}(?:(?!{_BEGIN}).)*?{_SLOT}(?:\s*{FENCE})?\s*{_END}(?:\s*{_ALL_END})?", re.DOTALL)
RENDERED = ((MISTRALS[0], MISTRAL_CALLS), (DEEPSEEKS[0], DEEPSEEK_CALLS))


@dataclass(frozen=True)
class AnswerForm:
    """``tokens``: what the parser must see of the tokens that give an answer its parts. ``rendered_calls``: how the
    template writes calls, where they do not stand in the place of the answer's text; its group is a slot."""

    tags: Tags | None = None
    calls: Callable[[Container[str] | None], AnswerParser] | None = None
    in_channels: bool = False
    rendered_calls: re.Pattern[str] | None = None
    tokens: tuple[str, ...] = ()

    @property
    def thinks(self) -> bool:
        return self.tags is not None or self.in_channels

    @property
    def reads_calls(self) -> bool:
        return self.calls is not None or self.in_channels

    def parser(self, names: Container[str] | None, *, opened: bool = False) -> AnswerParser | None:
        """None: all of an answer is text. ``names``: of the tools that may be called; None: none at all. ``opened``:
        the prompt ends with what opens the thoughts."""
        if self.in_channels:
            return HarmonyParser(names or ())
        calls = self.calls(names) if self.calls and names is not None else None
        return ThinkParser(self.tags, calls, opened=opened) if self.tags else calls


def answer_form(template: str) -> AnswerForm:
    if all(token in template for token in ASKS_IN_CHANNELS):
        return AnswerForm(in_channels=True, rendered_calls=HARMONY_CALLS, tokens=TOKENS)
    calls = call_parser(template)
    rendered = next((pattern for token, pattern in RENDERED if token in template), None)
    return AnswerForm(tags_of(template), calls, rendered_calls=rendered, tokens=(*TAGS, *MISTRALS, *DEEPSEEKS))
