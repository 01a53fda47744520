"""Refusing what is far too long before the whole of it is tokenised: all turns share one tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from chatpager.engine.chat_template import ChatMessage
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import InputTooLong

USUAL_CHARACTERS = 4
"""A text of at most so many characters for each token of the context is tokenised as it is."""
THOUGHT = "</think>"
THOUGHTS = 8
"""Contexts' worth of tokens that answers may have thought."""
PIECE = 1 << 14
"""Characters that are tokenised at once while they are only counted."""


def check_bytes(messages: Sequence[ChatMessage], tokenizer: Tokenizer, limit: int) -> None:
    """Without the tokenizer: not even the vocabulary's longest token brings so many bytes into ``limit`` tokens; or
    there is more space around the texts than anybody means. A template may trim it, and may as well not: megabytes of
    it held up the process for half a minute.

    Raises:
        InputTooLong
    """
    longest = tokenizer.longest_token_bytes
    size = sum(len(text.encode(errors="surrogatepass")) for text in _written(messages))
    if longest is not None and size > limit * longest:
        raise InputTooLong(size, limit)
    around = [m.text for m in messages if m.token_ids is None]
    whole = sum(map(len, around))
    if whole - sum(len(text.strip()) for text in around) > USUAL_CHARACTERS * max(limit, PIECE):
        raise InputTooLong(whole, limit)


def check_tokens(messages: Sequence[ChatMessage], tokenizer: Tokenizer, limit: int) -> None:
    """Counts the tokens of a long input piece by piece, and stops at twice ``limit``: cutting a text into pieces
    changes its tokens a little, never so much. What passes is counted exactly afterwards. What answers thought first,
    which a template may drop, counts only where it is far more than the rest may be.

    Raises:
        InputTooLong
    """
    texts, thoughts = _written(messages), _thought(messages)
    if sum(map(len, [*texts, *thoughts])) <= limit * USUAL_CHARACTERS:
        return
    left = _count(texts, tokenizer, 2 * limit)
    if left < 0 or _count(thoughts, tokenizer, THOUGHTS * limit) < 0:
        raise InputTooLong(sum(len(t.encode(errors="surrogatepass")) for t in [*texts, *thoughts]), limit)


def _count(texts: Sequence[str], tokenizer: Tokenizer, most: int) -> int:
    """What is left of ``most`` tokens, or less than nothing."""
    for text in texts:
        for start in range(0, len(text), PIECE):
            most -= len(tokenizer.encode_plain(text[start : start + PIECE]))
            if most < 0:
                return most
    return most


def _written(messages: Sequence[ChatMessage]) -> list[str]:
    """What a template may trim, or drop, does not count: the ends of a text, and what an answer thought first. Nor do
    answers of ours, whose ids are known."""
    unknown = [m for m in messages if m.token_ids is None]
    texts = [m.text.rpartition(THOUGHT)[2].strip() if m.role == "assistant" else m.text.strip() for m in unknown]
    return texts + [call.arguments for m in unknown for call in m.calls]


def _thought(messages: Sequence[ChatMessage]) -> list[str]:
    return [m.text.rpartition(THOUGHT)[0] for m in messages if m.role == "assistant" and m.token_ids is None]
