"""What a conversation is called until somebody names it: its first words."""

from __future__ import annotations

from collections.abc import Sequence

from chatpager.store import Message, NewMessage

TITLE_CHARS = 80


def text_of(message: Message | NewMessage) -> str:
    return "".join(part["text"] for part in message.content if part.get("type") == "text")


def first_words(messages: Sequence[NewMessage]) -> str:
    words = next((text_of(m) for m in messages if m.role == "user"), "")
    return " ".join(words.replace("\0", " ").split())[:TITLE_CHARS]
