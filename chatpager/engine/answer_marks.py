"""Tokens that give an answer its parts, as single characters of its text.

A tokenizer does not show special tokens, and a parser must see them: so each stands in the raw text as a noncharacter,
which nothing that a model says can spell. Nobody else sees these: what is told has none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer as Backend

STRUCTURE = (
    "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>",
    "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]",
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
)  # fmt: skip
"""Only the tokens have this meaning: a text that spells one is text."""
TAGS = ("<think>", "</think>", "[THINK]", "[/THINK]", "<tool_call>", "</tool_call>")
"""These are read where they are spelled, too: in most vocabularies they are ordinary text."""
_FIRST, _LAST = 0xFDD4, 0xFDEF
"""U+FDD0 to U+FDD3 are the prompt's, see ``control_tokens``."""
_MARKS = {token: chr(_FIRST + i) for i, token in enumerate((*STRUCTURE, *TAGS))}
_UNMARKED = dict.fromkeys(range(_FIRST, _LAST + 1))
_SAID = dict.fromkeys(range(_FIRST, _LAST + 1), "\N{REPLACEMENT CHARACTER}")
_SPELLED = {ord(_MARKS[tag]): tag for tag in TAGS}


def is_mark(char: str) -> bool:
    return _FIRST <= ord(char) <= _LAST


def mark(token: str) -> str:
    return _MARKS[token]


def marks_of(backend: Backend, tokens: Iterable[str]) -> Mapping[int, str]:
    """Those of ``tokens`` that the vocabulary has, by id. Tags need none that are shown anyway."""
    added = backend.get_added_tokens_decoder()
    found = {token.content: (i, token.special) for i, token in added.items()}
    return {
        found[token][0]: _MARKS[token] for token in tokens if token in found and (token in STRUCTURE or found[token][1])
    }


def unmarked(text: str) -> str:
    """``text`` as it may be told."""
    return text if text.isascii() else text.translate(_UNMARKED)


def without_marks_of_its_own(text: str) -> str:
    """What a model says, in which nothing is a mark."""
    return text if text.isascii() else text.translate(_SAID)


def with_tags_spelled(text: str) -> str:
    return text.translate(_SPELLED)
