"""Bodies that come packed, unpacked as far as one may be large."""

from __future__ import annotations

import asyncio
import zlib

from chatpager.errors import InvalidRequest, RequestTooLarge

MEMBERS = 64
"""Of a body that was packed piece by piece."""
PACKED = ("gzip", "deflate")


async def unpacked(body: bytes, how: str, most: int) -> bytes:
    """Beside the event loop. Raises RequestTooLarge: it has more than ``most`` bytes; InvalidRequest: it is not packed
    so."""
    return await asyncio.to_thread(_unpacked, body, how, most)


def _unpacked(body: bytes, how: str, most: int) -> bytes:
    found: list[bytes] = []
    rest, size = body, 0
    while rest and len(found) < MEMBERS:
        one = zlib.decompressobj(_form(rest, how))
        try:
            found.append(one.decompress(rest, most - size + 1))
        except zlib.error:
            raise _not_so() from None
        size += len(found[-1])
        if size > most:
            raise RequestTooLarge(f"the body is larger than {most} bytes")
        if not one.eof:
            raise _not_so()
        rest = one.unused_data
    if rest:
        raise _not_so()
    return b"".join(found)


def _form(body: bytes, how: str) -> int:
    """As zlib calls it. Some send as ``deflate`` what has no head."""
    if how == "gzip":
        return 16 + zlib.MAX_WBITS
    return zlib.MAX_WBITS if body[0] & 0xF == 8 else -zlib.MAX_WBITS


def _not_so() -> InvalidRequest:
    return InvalidRequest("the body does not agree with its Content-Encoding or its length")
