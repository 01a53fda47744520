"""What a conversation is called until somebody names it: its first words."""

from __future__ import annotations

from collections.abc import Sequence

from chatpager.store import NewMessage, text_of

TITLE_CHARS = 80


def first_words(messages: Sequence[NewMessage]) -> str:
    words = next((text_of(m.content) for m in messages if m.role == "user"), "")
    return " ".join(words.replace("\0", " ").split())[:TITLE_CHARS]
