"""What a conversation is called until somebody names it: its first words."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from chatpager.errors import ChatpagerError
from chatpager.store import Message, NewMessage, Store

log = structlog.get_logger(__name__)

TITLE_CHARS = 80


def text_of(message: Message | NewMessage) -> str:
    return "".join(part["text"] for part in message.content if part.get("type") == "text")


async def give_title(store: Store, tenant: str, session_id: str, messages: Sequence[NewMessage]) -> None:
    """Name a session that has no title. Its first turn runs already, and a title is no reason to fail it."""
    words = next((text_of(m) for m in messages if m.role == "user"), "")
    title = " ".join(words.replace("\0", " ").split())[:TITLE_CHARS]
    try:
        if title and not (await store.session(tenant, session_id)).title:
            await store.update_session(tenant, session_id, title=title)
    except ChatpagerError as error:
        log.warning("title.not_stored", session=session_id, reason=str(error))
