"""From token ids to text as it streams: whole characters only, and no further than a stop string.

Concatenated, the pieces equal the text of all ids at once, whatever the split; but where a byte-fallback vocabulary's
bytes are no UTF-8, of which a decoder makes nothing of the whole run, the characters before stay as they were shown. A
character that the answer's end cuts in half is dropped, not shown as U+FFFD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel, DecodeStream

from chatpager.engine.answer_marks import without_marks_of_its_own

REPLACEMENT = "�"


class PlainPieces(dict[int, str]):
    """Of a byte-level vocabulary, the texts of tokens that say the same wherever they stand, by their ids: plain ASCII.
    Empty where that is not so. Each is found out once, and then costs a tenth of a decoder's step."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __missing__(self, token_id: int) -> str:
        text = self._backend.decode([token_id], skip_special_tokens=True)
        self[token_id] = piece = text if text.isascii() else ""
        return piece


def plain_pieces(backend: Backend) -> PlainPieces | None:
    """None where what a token says hangs on those before it."""
    return PlainPieces(backend) if isinstance(backend.decoder, ByteLevel) else None


class Detokenizer:
    """Text of one growing list of ids. Special tokens have no text. With ``plain`` only the ids behind the last whole
    character are kept: what came before says the same without them."""

    __slots__ = ("_backend", "_given", "_ids", "_is_whole", "_plain", "_stream")

    def __init__(self, backend: Backend, plain: PlainPieces | None = None) -> None:
        self._backend = backend
        self._plain = plain
        self._is_whole = plain is not None
        """No character waits for the rest of its bytes."""
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._given = 0

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; empty while a character is incomplete."""
        if piece := self.push_plain(token_id):
            return piece
        self._ids.append(token_id)
        try:
            piece = self._stream.step(self._backend, token_id) or ""
        except Exception:
            return self._start_again(token_id)
        self._is_whole = piece != ""
        if self._is_whole and self._plain is not None:
            self.forget()
        else:
            self._given += len(piece)
        return piece

    def push_plain(self, token_id: int) -> str:
        """``push`` of a token that says the same wherever it stands. Empty, and nothing is done, of any other."""
        return self._plain[token_id] if self._is_whole and self._plain is not None else ""

    def _start_again(self, token_id: int) -> str:
        """The stream refuses a token that changes text which was given already: bytes before it turned out to be no
        character. The token stands behind itself, because some decoders take the space off what comes first."""
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids = [token_id, token_id]
        before, piece = (self._stream.step(self._backend, token_id) or "" for _ in range(2))
        self._is_whole = piece != ""
        self._given = len(before) + len(piece)
        return REPLACEMENT + piece

    def finish(self) -> str:
        """The whole characters in front of one that was cut in half, now that nothing follows."""
        return self._backend.decode(self._ids, skip_special_tokens=True)[self._given :].rstrip(REPLACEMENT)

    def forget(self) -> None:
        """What was given out, and what waited."""
        self._ids, self._given = [], 0


class TextStream:
    """Detokenised text up to the first stop string, which may begin in one token and end in another.

    Text that could be the beginning of a stop string is held back until it is certain. None is looked for in the text
    of the first ``min_tokens`` tokens. A token that has one of the ``marks``, by its id, stands as that in the text.
    ``plain``: the vocabulary's, see ``plain_pieces``.
    """

    __slots__ = (
        "_detokenizer",
        "_given",
        "_held",
        "_include_stop",
        "_is_simple",
        "_length",
        "_marks",
        "_stops",
        "_unchecked",
        "stopped",
    )

    stopped: str | None
    """The stop string that ended the text."""

    def __init__(
        self,
        backend: Backend,
        stops: Iterable[str] = (),
        *,
        include_stop: bool = False,
        min_tokens: int = 0,
        marks: Mapping[int, str] | None = None,
        plain: PlainPieces | None = None,
    ) -> None:
        self._detokenizer = Detokenizer(backend, plain)
        self._stops = tuple(stops)
        self._include_stop = include_stop
        self._held = ""
        self._unchecked = min_tokens
        self._marks = marks or {}
        self._is_simple = plain is not None and not self._stops and not self._marks
        self._given: list[str] = []
        self._length = 0
        self.stopped = None

    @property
    def text(self) -> str:
        """Everything given out so far."""
        self._given = ["".join(self._given)]
        return self._given[0]

    def forget(self) -> None:
        """It has ended, and nobody asks for its text again."""
        self._given = []
        self._detokenizer.forget()

    @property
    def length(self) -> int:
        """Characters of the text, those that are held back included."""
        return self._length + len(self._held)

    def push(self, token_id: int) -> str:
        """The next piece of text; after ``stopped`` is set there is no more."""
        if self.stopped is not None:
            return ""
        piece = self._detokenizer.push(token_id)
        if self._marks:
            piece = self._marks.get(token_id) or without_marks_of_its_own(piece)
        if not self._stops:  # most answers
            self._given.append(piece)
            self._length += len(piece)
            return piece
        if self._unchecked:
            self._unchecked -= 1
            self._held = piece
            return self._give(len(piece))
        return self._take(piece)

    def push_plain(self, token_id: int) -> str:
        """``push`` of a token of plain text, where no stop string or mark is looked for: most there are, in fewer
        calls. Empty, and nothing is done, of any other."""
        if not self._is_simple or not (piece := self._detokenizer.push_plain(token_id)):
            return ""
        self._given.append(piece)
        self._length += len(piece)
        return piece

    def finish(self) -> str:
        """The text that was held back, now that nothing follows."""
        if self.stopped is not None:
            return ""
        piece = self._take(self._detokenizer.finish())
        return piece if self.stopped is not None else piece + self._give(len(self._held))

    def _take(self, text: str) -> str:
        self._held += text
        found = min(
            ((self._held.find(s), s) for s in self._stops if s in self._held),
            default=None,
            key=lambda place: (place[0], -len(place[1])),
        )
        if found:
            at, self.stopped = found
            return self._give(at + len(self.stopped) if self._include_stop else at)
        return self._give(len(self._held) - self._undecided())

    def _give(self, count: int) -> str:
        piece, self._held = self._held[:count], self._held[count:]
        self._given.append(piece)
        self._length += len(piece)
        return piece

    def _undecided(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        return max((_overlap(self._held, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
