"""What a compiler says of a grammar, for an error's message: its own words, and little of the grammar."""

from __future__ import annotations

import json
import re
from itertools import groupby

from chatpager.engine.grammar import Grammar
from chatpager.errors import MAX_SHOWN

MAX_PROBLEM = 500
"""Characters."""
_ESCAPE = re.compile(r"\\(?:u\{?\w+\}?|.)")
"""In a grammar or in what is quoted of it, which may be escaped once more."""
_EXCERPT = re.compile(r"\s*+(?:\d+ \| |\^?\s*+$)")
"""A line of the grammar as the compiler shows it under its problem, or what points into it. Spaces are gone over once:
a line may have a quarter of a million, and nothing else of the process goes on meanwhile."""
_LONGEST_OWN = 24
"""Characters of the compiler's own words and of what is between them; what is longer is the grammar's, also where it
was cut already."""


def problem_shown(problem: str, grammar: Grammar) -> str:
    """The first line, which says where and what, and the last, where that says why; of what the grammar says itself
    ``MAX_SHOWN`` bytes in one place."""
    first, *rest = [line for line in problem.splitlines() if not _EXCERPT.match(line)] or [""]
    lines = [first, *(line for line in rest[-1:] if line.startswith("error: "))]
    theirs = set(re.findall(r"\w+", _ESCAPE.sub(" ", _text(grammar))))
    return " ".join(_cut(_ESCAPE.sub(" ", line), theirs) for line in lines)[:MAX_PROBLEM]


def _text(grammar: Grammar) -> str:
    """Of a schema as its words are without JSON's escapes, whoever wrote it."""
    if grammar.kind != "json_schema":
        return grammar.text
    return json.dumps(json.loads(grammar.text), ensure_ascii=False)


def _cut(line: str, theirs: set[str]) -> str:
    """Shorten what words of ``theirs``, with what is between them, make longer than may be shown."""
    pieces = re.split(r"(\w+)", line)
    made = []
    for of_them, run in groupby(enumerate(pieces), lambda each: _is_theirs(pieces, each[0], theirs)):
        said = "".join(piece for _, piece in run)
        sent = said.encode(errors="surrogatepass")
        if of_them and len(sent) > MAX_SHOWN:
            said = sent[: MAX_SHOWN - 3].decode(errors="ignore") + "..."
        made.append(said)
    return "".join(made)


def _is_theirs(pieces: list[str], at: int, theirs: set[str]) -> bool:
    """``pieces`` are a word at each odd place and what is between them; that belongs to who is on both of its sides."""
    if len(pieces[at]) > _LONGEST_OWN:
        return True
    if at % 2 == 0:
        return all(_is_theirs(pieces, side, theirs) for side in (at - 1, at + 1) if 0 <= side < len(pieces))
    return pieces[at] in theirs
