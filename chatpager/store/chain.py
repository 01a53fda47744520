"""The names of messages: a hash chain, so that a shared prefix is shared by construction and a fork is one pointer.

Two names for each message::

    hash          H(parent's hash, role, content, status, vocab, token ids)    exact identity
    content_hash  H(parent's content_hash, role, content)                      what a stateless client can know

A first message's parent is its tenant's root, so tenants never share a row. Fields are typed and length-prefixed
before they are hashed: no two lists of fields have the same encoding. The hash is BLAKE2b (RFC 7693) of 128 bits,
and its name begins with ``b2:`` so that another algorithm could be told apart.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, NewType

import msgspec

from chatpager.errors import InvalidRequest

MessageHash = NewType("MessageHash", str)
"""``b2:`` and 32 hexadecimal digits."""

_LENGTH = struct.Struct("<Q")


class Names(NamedTuple):
    """Both names of one message."""

    hash: MessageHash
    content_hash: MessageHash


def encode(*fields: str | bytes | None) -> bytes:
    """``fields`` as bytes, one-to-one: each is its type (``s``, ``b``, ``n``), its length in 8 bytes, its bytes."""
    out = bytearray()
    for field in fields:
        tag, data = (
            (b"n", b"") if field is None else (b"s", field.encode()) if isinstance(field, str) else (b"b", field)
        )
        out += tag + _LENGTH.pack(len(data)) + data
    return bytes(out)


def _named(*fields: str | bytes | None) -> MessageHash:
    return MessageHash("b2:" + blake2b(encode(*fields), digest_size=16).hexdigest())


def root(tenant: str) -> MessageHash:
    """What stands for the parent of a tenant's first messages; no message has this name."""
    return _named("tenant", tenant)


def name(
    tenant: str,
    parent: Names | None,
    *,
    role: str,
    content: bytes,
    status: str,
    vocab: str | None,
    token_ids: bytes | None,
) -> Names:
    """Both names of a message; ``content`` is canonical, ``token_ids`` packed. A ``parent`` of None is the root."""
    above = parent or Names(root(tenant), root(tenant))
    return Names(
        _named("message", above.hash, role, content, status, vocab, token_ids),
        content_name(above.content_hash, role, content),
    )


def content_name(parent: MessageHash, role: str, content: bytes) -> MessageHash:
    """A message's ``content_hash``; ``parent`` is its parent's, or the tenant's root.

    The arguments of a tool's call count by their value: clients read them and write them again as they like.
    """
    return _named("content", parent, role, _by_value(content) if CALL_MARK in content else content)


CALL_MARK = b'"tool_call"'


def _by_value(content: bytes) -> bytes:
    return canonical([{**part, **_arguments(part)} for part in msgspec.json.decode(content)])


def _arguments(part: Mapping[str, Any]) -> dict[str, Any]:
    """The value of a call's arguments as JSON with sorted keys, in which 1.0 is 1, as in JavaScript; nothing where they
    are no JSON."""
    text = part.get("arguments")
    if part.get("type") != "tool_call" or not isinstance(text, str):
        return {}
    try:
        value = _whole_numbers(msgspec.json.decode(text))
        return {"arguments": [msgspec.json.encode(value, order="deterministic").decode()]}
    except (msgspec.DecodeError, OverflowError, RecursionError, UnicodeError):
        return {}


def _whole_numbers(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _whole_numbers(item) for key, item in value.items()}
        case list():
            return [_whole_numbers(item) for item in value]
        case _:
            return value


def canonical(content: Sequence[Mapping[str, Any]]) -> bytes:
    """Content parts as JSON with sorted keys, no spaces, in UTF-8: equal parts give equal bytes.

    Raises:
        InvalidRequest: a text holds half a surrogate pair, which no UTF-8 can say.
    """
    try:
        return msgspec.json.encode(content, order="deterministic")
    except UnicodeEncodeError:
        raise InvalidRequest(
            "the text is not valid Unicode: it holds half of a surrogate pair", param="input"
        ) from None


TOKEN_BYTES = 4
_ONE = struct.Struct("<I")


def pack(token_ids: Sequence[int]) -> bytes:
    """Token ids as little-endian uint32, 4 bytes each."""
    if len(token_ids) == 1:  # of a step, where a turn has no more
        return _ONE.pack(token_ids[0])
    return struct.pack(f"<{len(token_ids)}I", *token_ids)


def unpack(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 4}I", packed)
