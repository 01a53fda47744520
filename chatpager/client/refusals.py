"""What a server that refuses, or is not there, looks like to a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class ClientError(Exception):
    """The server refused, or is not there. ``code`` and ``status`` are the wire's (None: it gave none). Where no server
    answered, ``status`` is None and ``code`` one of ours: ``server_unreachable`` (nothing was asked),
    ``connection_lost`` (what was asked may have been done), ``not_chatpager``, or a ``UsageError``'s ``usage``.
    ``retry_after``: seconds after which the same may be asked again, where the server said so."""

    def __init__(
        self, message: str, *, code: str | None = None, status: int | None = None, retry_after: float | None = None
    ) -> None:
        self.code, self.status, self.retry_after = code, status, retry_after
        super().__init__(message)


CONNECTION_LOST = "connection_lost"


class UsageError(ClientError):
    """The program may not call this now, or not any more, and nothing was sent; the message says what to do instead."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="usage")


def not_open(kind: str, *, closed: bool) -> UsageError:
    """``kind``: how the client's class is entered."""
    if closed:
        return UsageError(f"the client is closed: its `with` block was left; make another: {kind}")
    return UsageError(f"the client is not open yet: use it as a context manager: {kind}")


def opened_once(kind: str) -> UsageError:
    return UsageError(f"a client is opened once, and this one was: make another: {kind}")


def refusal(raw: bytes, status: int, headers: Mapping[str, str]) -> ClientError:
    later = headers.get("retry-after-ms", "")
    milliseconds = int(later) if later.isdecimal() else None
    try:
        return refusal_of(msgspec.json.decode(raw)["error"], status, milliseconds)
    except (msgspec.DecodeError, KeyError, TypeError):
        return ClientError(f"the server answered {status}", status=status)


def refusal_of(error: dict[str, Any], status: int, retry_after_ms: int | None) -> ClientError:
    later = None if retry_after_ms is None else retry_after_ms / 1000
    return ClientError(error["message"], code=error.get("code"), status=status, retry_after=later)
