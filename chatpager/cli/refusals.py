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


class Refusal(ChatpagerError):
    """``code`` is ``ClientError``'s."""

    def __init__(self, message: str, code: str | None) -> None:
        self.code = code
        super().__init__(message)


def refusal(error: ClientError, *, has_key: bool) -> Refusal:
    """``has_key``: whether a key was sent along."""
    hint = f"; {KEY_HINT[has_key]}" if error.code == "invalid_api_key" else ""
    return Refusal(f"{error}{hint}", error.code)
