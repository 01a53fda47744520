"""Refusing what is far too long before the whole of it is tokenised: all turns share one tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from chatpager.engine.chat_template import ChatMessage
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import InputTooLong

USUAL_CHARACTERS = 4
"""A text of at most so many characters for each token of the context is tokenised as it is."""
THOUGHT = "</think>"
PIECE = 1 << 14
"""Characters that are tokenised at once while they are only counted."""


def check_bytes(messages: Sequence[ChatMessage], tokenizer: Tokenizer, limit: int) -> None:
    """Without the tokenizer: not even the vocabulary's longest token brings so many bytes into ``limit`` tokens.

    Raises:
        InputTooLong
    """
    longest = tokenizer.longest_token_bytes
    size = sum(len(text.encode(errors="surrogatepass")) for text in _written(messages))
    if longest is not None and size > limit * longest:
        raise InputTooLong(size, limit)


def check_tokens(messages: Sequence[ChatMessage], tokenizer: Tokenizer, limit: int) -> None:
    """Counts the tokens of a long input piece by piece, and stops at twice ``limit``: cutting a text into pieces
    changes its tokens a little, never so much. What passes is counted exactly afterwards.

    Raises:
        InputTooLong
    """
    texts = _written(messages)
    if sum(map(len, texts)) <= limit * USUAL_CHARACTERS:
        return
    count = 0
    for text in texts:
        for start in range(0, len(text), PIECE):
            count += len(tokenizer.encode_plain(text[start : start + PIECE]))
            if count > 2 * limit:
                raise InputTooLong(sum(len(t.encode(errors="surrogatepass")) for t in texts), limit)


def _written(messages: Sequence[ChatMessage]) -> list[str]:
    """What a template may trim, or drop, does not count: the ends of a text, and what an answer thought first. Nor do
    answers of ours, whose ids are known."""
    return [m.text.rpartition(THOUGHT)[2].strip() if m.role == "assistant" else m.text.strip()
            for m in messages if m.token_ids is None]  # fmt: skip
