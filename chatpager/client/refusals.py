"""What a server that refuses, or is not there, looks like to a client."""

from __future__ import annotations

from typing import Any

import msgspec


class ClientError(Exception):
    """The server refused, or is not there. ``code`` is the wire's, None when there was no answer."""

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        self.code, self.status = code, status
        super().__init__(message)


def refusal(raw: bytes, status: int) -> ClientError:
    try:
        return refusal_of(msgspec.json.decode(raw)["error"], status)
    except (msgspec.DecodeError, KeyError, TypeError):
        return ClientError(f"the server answered {status}", status=status)


def refusal_of(error: dict[str, Any], status: int) -> ClientError:
    return ClientError(error["message"], code=error.get("code"), status=status)
