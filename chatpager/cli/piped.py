"""Lines of a pipe, and Ctrl+C in between."""

from __future__ import annotations

import codecs
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

READ_BYTES = 1 << 16


class PipedLines:
    """Standard input, line by line, for the main thread. A signal that comes just before a blocking read would be heard
    behind the next line, or never; here it wakes the wait for that line. What is no text is replaced."""

    def __init__(self) -> None:
        self._input = sys.stdin.fileno()
        decoder = codecs.getincrementaldecoder(sys.stdin.encoding)("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._text = ""
        self._ended = False

    def next(self) -> str:
        """With its line's end, where it has one; empty behind the last."""
        with _woken_by_signals() as woken:
            while "\n" not in self._text and not self._ended:
                ready, _, _ = select.select([self._input, woken], [], [])
                if woken in ready:
                    os.read(woken, READ_BYTES)  # the signal's handler has run by now, and raised nothing
                if self._input in ready:
                    data = os.read(self._input, READ_BYTES)
                    self._ended = not data
                    self._text += self._decoder.decode(data, final=self._ended)
        line, end, self._text = self._text.partition("\n")
        return line + end


@contextmanager
def _woken_by_signals() -> Iterator[int]:
    """What can be read once a signal has come."""
    woken, waking = os.pipe()
    for end in (woken, waking):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    try:
        yield woken
    finally:
        signal.set_wakeup_fd(before)
        os.close(woken)
        os.close(waking)
