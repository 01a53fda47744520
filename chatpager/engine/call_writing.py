"""How models write calls, for the grammars that have them written: as ``call_forms`` and ``harmony`` read them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from chatpager.engine import call_forms as forms
from chatpager.engine import harmony
from chatpager.engine.answer_marks import is_mark


class CallWriting(NamedTuple):
    """``begins``, and for each call ``opening``, its name, ``between``, its arguments, ``closing``; ``apart`` stands
    between two, and ``ends`` behind all. By ``mark``, with which calls begin, they are known in the middle of text;
    without it an answer is calls, or ``text``: an expression of what begins as none. Tokens stand in all this as their
    marks, whose ids ``tokens`` has. ``alone``: there is one call at the most. ``saying``: what text begins with.
    ``thought``: what stands around thoughts before all else. ``parameters``: arguments are no JSON (``xml_calls``)."""

    opening: str
    between: str
    closing: str
    apart: str
    mark: str = ""
    text: str = "(.|\\n)*"
    begins: str = ""
    ends: str = ""
    alone: bool = False
    saying: str = ""
    thought: tuple[str, str] | None = None
    parameters: bool = False
    tokens: Mapping[str, int] = {}

    def quoted(self, text: str) -> str:
        """As an expression of Lark's; nothing for no text."""
        pieces = filter(None, re.split(f"({'|'.join(self.tokens) or '(?!)'})", text))
        return " ".join(f"<[{self.tokens[p]}]>" if p in self.tokens else json.dumps(p) for p in pieces)

    def with_tokens(self, ids: Mapping[str, int]) -> CallWriting | None:
        """``ids``: of the marks whose tokens the vocabulary has. None: it lacks one that is written."""
        written = {char for part in (*self[:5], self.begins, self.ends) for char in part if is_mark(char)}
        written |= {char for part in (self.saying, *(self.thought or ())) for char in part if is_mark(char)}
        return self._replace(tokens={m: ids[m] for m in written}) if written <= ids.keys() else None


TAGS = CallWriting(f'{forms.OPEN}\n{{"name": "', '", "arguments": ', f"}}\n{forms.CLOSE}", "\n", mark=forms.OPEN)
XML = CallWriting(
    f"{forms.OPEN}\n<function=", ">\n", f"</function>\n{forms.CLOSE}", "\n", mark=forms.OPEN, parameters=True
)
BARE = CallWriting('{"name": "', '", "parameters": ', "}", "; ", text="(\\s*[^{\\s](.|\\n)*)?")
LISTED = CallWriting('{"name": "', '", "arguments": ', "}", ", ", mark=forms.LISTS, begins=f"{forms.LISTS}[", ends="]")
SPACED = f"{forms.MISTRALS[0]} ["
"""Templates that have this put a space there."""
NAMED_APART = CallWriting(forms.LISTS, forms.ARGS, "", "", mark=forms.LISTS)
SEPARATED = CallWriting(
    forms.CALL_BEGIN, forms.SEP, forms.CALL_END, "", mark=forms.CALLS_BEGIN,
    begins=forms.CALLS_BEGIN, ends=forms.CALLS_END,
)  # fmt: skip
FENCED = SEPARATED._replace(
    opening=f"{forms.CALL_BEGIN}function{forms.SEP}",
    between=f"\n{forms.FENCES_ARGUMENTS}\n",
    closing=f"\n{forms.FENCE}{forms.CALL_END}",
    apart="\n",
)
CHANNELS = CallWriting(
    f"{harmony.CHANNEL}commentary to=functions.",
    f" {harmony.CONSTRAIN}json{harmony.MESSAGE}",
    "",
    "",
    mark=harmony.CHANNEL,
    alone=True,
    saying=f"{harmony.CHANNEL}final{harmony.MESSAGE}",
    thought=(f"{harmony.CHANNEL}analysis{harmony.MESSAGE}", f"{harmony.END}{harmony.START}assistant"),
)


def call_writing(template: str, ids: Mapping[str, int]) -> CallWriting | None:
    """As ``answer_forms.answer_form`` and ``call_forms.call_parser`` tell the forms apart. ``ids``: of marks. None:
    calls cannot be forced."""
    found = _writing(template)
    return found and found.with_tokens(ids)


def _writing(template: str) -> CallWriting | None:
    if all(token in template for token in harmony.ASKS_IN_CHANNELS):
        return CHANNELS
    if forms.OPEN in template:
        return XML if any(form in template for form in forms.OTHERS_IN_TAGS) else TAGS
    if forms.MISTRALS[0] in template:
        if forms.MISTRALS[1] in template:
            return NAMED_APART
        return LISTED._replace(begins=f"{forms.LISTS} [") if SPACED in template else LISTED
    if forms.DEEPSEEKS[0] in template:
        return FENCED if forms.FENCES_ARGUMENTS in template else SEPARATED
    return BARE if forms.ASKS_FOR_BARE_CALLS in template else None
