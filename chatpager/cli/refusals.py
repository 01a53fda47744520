"""What a server refused, in the words of who typed the command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatpager.errors import ChatpagerError

if TYPE_CHECKING:
    from chatpager.client import ClientError

KEY_HINT = {
    False: "give it with --api-key or CHATPAGER_API_KEY",
    True: "the one that was given is not this server's, or was revoked",
}


def refusal(error: ClientError, *, has_key: bool) -> ChatpagerError:
    """``has_key``: whether a key was sent along."""
    hint = f"; {KEY_HINT[has_key]}" if error.code == "invalid_api_key" else ""
    return ChatpagerError(f"{error}{hint}")
