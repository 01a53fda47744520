"""What JSON costs to be read, told before it is read: nobody else is served meanwhile, and four megabytes of ``1e300``
take msgspec twelve seconds where as much text takes it three milliseconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chatpager.errors import InvalidRequest

SMALL = 1 << 12
"""Bytes that are cheap, whatever they are."""
PIECE = 1 << 18
"""Bytes that are looked at in one go: beside an event loop, that has its turn between two."""
MOST = {
    "objects and lists": 1 << 14,
    "fields": 1 << 15,
    "texts": 1 << 16,
    "values": 1 << 19,
    "numbers with a fraction": 1 << 12,
    "numbers with an exponent": 1 << 7,
    "digits of long numbers": 1 << 17,
}
SHORT = 9
"""Digits of a number that is not long."""


def check_costs(data: str | bytes) -> None:
    """What stands in its texts costs nothing. Raises InvalidRequest."""
    if len(data) <= SMALL:
        return
    raw = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    if _too_many(raw):
        what = _too_many(_outside_of_texts(raw))
        if what:
            raise _refusal(what)


def _outside_of_texts(raw: bytes) -> bytes:
    """Raises InvalidRequest of too many texts."""
    found: list[bytes] = []
    start = marks = 0
    while start < len(raw):
        piece = raw[start : start + PIECE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # what it escapes belongs to it
            piece = raw[start : start + PIECE + 1]
        start += len(piece)
        # Without what is escaped, every quotation mark begins a text or ends one.
        bare = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        before, marks = marks, marks + bare.count(b'"')
        if marks > 2 * MOST["texts"]:
            raise _refusal("texts")
        found += bare.split(b'"')[before % 2 :: 2]
    return b'"'.join(found)


def _too_many(raw: bytes) -> str:
    """Of what there is more than may be, or nothing. In a text everything counts, in what is outside only what is."""
    these = np.frombuffer(raw, np.uint8)
    digits = (these >= ord("0")) & (these <= ord("9"))
    commas = _count(these == ord(","))
    behind = these[1:][digits[:-1]]
    has = {
        "objects and lists": _count(these == ord("{")) + _count(these == ord("[")),
        "fields": _count(these == ord(":")),
        "texts": _count(these == ord('"')) // 2,
        "values": commas,
        "numbers with a fraction": _count(behind == ord(".")),
        "numbers with an exponent": _count((behind | 0x20) == ord("e")),
        "digits of long numbers": _count(digits) - SHORT * (commas + 1),
    }
    return next((what for what, most in MOST.items() if has[what] > most), "")


def _count(marked: npt.NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(marked))


def _refusal(what: str) -> InvalidRequest:
    return InvalidRequest(f"there are more than {MOST[what]} {what} in it, which nothing here needs")
