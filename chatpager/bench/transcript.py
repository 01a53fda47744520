"""What clients sent and received, line by line, as it happened: the witness of every load and every fault.

A line is one JSON object: ``t`` (seconds, monotonic), ``socket`` (the client's number), and either ``event`` (as it
came), ``sent`` or ``lost``. Nothing is interpreted while it is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec


class Line(msgspec.Struct):
    t: float
    socket: int
    event: dict[str, Any] | None = None
    sent: dict[str, Any] | None = None
    lost: str | None = None


class Transcript:
    """Written to ``path``; to be closed before it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("wb", buffering=1 << 20)

    def received(self, socket: int, event: bytes) -> None:
        """``event``: JSON text."""
        self._file.write(b'{"t":%.6f,"socket":%d,"event":%b}\n' % (time.monotonic(), socket, event))

    def sent(self, socket: int, frame: dict[str, Any]) -> None:
        self._write(Line(time.monotonic(), socket, sent=frame))

    def lost(self, socket: int, why: str) -> None:
        """The connection ended."""
        self._write(Line(time.monotonic(), socket, lost=why))

    def _write(self, line: Line) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lines(path: Path) -> Iterator[Line]:
    decoder = msgspec.json.Decoder(Line)
    with path.open("rb") as file:
        for line in file:
            yield decoder.decode(line)
