"""One JSON object that is still being written, followed character by character (RFC 8259).

It tells at once where a text stops being the beginning of an object, so that what was let through until then can be
shown before its end is known. Half a surrogate pair counts as a mistake: no UTF-8 can say it.
"""

from __future__ import annotations

from enum import Enum, auto

SPACE = " \t\n\r"
DEEPEST = 400
"""Of objects and lists in each other: whoever reads the whole text does so by recursion."""


class _At(Enum):
    OBJECT = auto()
    FIRST_NAME = auto()
    NAME = auto()
    COLON = auto()
    VALUE = auto()
    FIRST_VALUE = auto()
    BEHIND = auto()
    STRING = auto()
    ESCAPE = auto()
    DIGIT = auto()
    SECOND_HALF = auto()
    SECOND_U = auto()
    WORD = auto()
    NUMBER = auto()
    END = auto()


_NUMBER = {
    "-": {"0": "0", "1-9": "1"},
    "0": {".": ".", "e": "e"},
    "1": {"0": "1", "1-9": "1", ".": ".", "e": "e"},
    ".": {"0": "f", "1-9": "f"},
    "f": {"0": "f", "1-9": "f", "e": "e"},
    "e": {"0": "x", "1-9": "x", "+": "+", "-": "+"},
    "+": {"0": "x", "1-9": "x"},
    "x": {"0": "x", "1-9": "x"},
}
"""Part of a number -> what may come next -> the part that it begins or goes on with. A number may end in 0, 1, f, x."""
_NUMBER_KINDS = {"0": "0", **dict.fromkeys("123456789", "1-9"), ".": ".", "e": "e", "E": "e", "+": "+", "-": "-"}
_WORDS = {"t": "rue", "f": "alse", "n": "ull"}


class JsonObject:
    """``depth``: of the objects and lists that are open. Nothing follows what is ``ended``, or ``broken``."""

    def __init__(self) -> None:
        self._at = _At.OBJECT
        self._open: list[str] = []
        self._is_name = False
        self._part = ""
        """Of a number; or what is left of a word."""
        self._digits = ""
        self._high = False
        self.broken = False

    @property
    def depth(self) -> int:
        return len(self._open)

    @property
    def ended(self) -> bool:
        return self._at is _At.END

    def push(self, char: str) -> bool:
        """Whether it goes on with this character."""
        self.broken = self.broken or not self._step(char)
        return not self.broken

    def _step(self, char: str) -> bool:
        match self._at:
            case _At.STRING | _At.ESCAPE | _At.DIGIT | _At.SECOND_HALF | _At.SECOND_U:
                return self._in_string(char)
            case _At.WORD:
                return self._in_word(char)
            case _At.NUMBER:
                return self._in_number(char)
            case _At.END:
                return False
        return (char in SPACE and self._at is not _At.OBJECT) or self._structure(char)

    def _structure(self, char: str) -> bool:
        at = self._at
        if at in (_At.FIRST_NAME, _At.NAME) and char == '"':
            self._is_name = True
            return self._go(_At.STRING)
        if at is _At.COLON and char == ":":
            return self._go(_At.VALUE)
        if at is _At.BEHIND and char == ",":
            return self._go(_At.NAME if self._open[-1] == "}" else _At.VALUE)
        if at in (_At.FIRST_NAME, _At.FIRST_VALUE, _At.BEHIND) and char == self._open[-1]:
            self._open.pop()
            return self._go(_At.BEHIND if self._open else _At.END)
        if at is _At.OBJECT:
            return char == "{" and self._value(char)
        return at in (_At.VALUE, _At.FIRST_VALUE) and self._value(char)

    def _value(self, char: str) -> bool:
        if char == '"':
            self._is_name = False
            return self._go(_At.STRING)
        if char in "{[":
            self._open.append("}" if char == "{" else "]")
            return len(self._open) <= DEEPEST and self._go(_At.FIRST_NAME if char == "{" else _At.FIRST_VALUE)
        if char in _WORDS:
            self._part = _WORDS[char]
            return self._go(_At.WORD)
        if char == "-" or char in "0123456789":
            self._part = {"-": "-", "0": "0"}.get(char, "1")
            return self._go(_At.NUMBER)
        return False

    def _in_word(self, char: str) -> bool:
        wanted, self._part = self._part[0], self._part[1:]
        return char == wanted and (bool(self._part) or self._go(_At.BEHIND))

    def _in_number(self, char: str) -> bool:
        kind = _NUMBER_KINDS.get(char)
        if kind is not None and (part := _NUMBER[self._part].get(kind)):
            self._part = part
            return True
        return self._part in "01fx" and self._go(_At.BEHIND) and self._step(char)

    def _in_string(self, char: str) -> bool:
        match self._at:
            case _At.SECOND_HALF:
                return char == "\\" and self._go(_At.SECOND_U)
            case _At.SECOND_U:
                return char == "u" and self._hexadecimal()
            case _At.ESCAPE:
                return self._hexadecimal() if char == "u" else char in '"\\/bfnrt' and self._go(_At.STRING)
            case _At.DIGIT:
                return self._in_hexadecimal(char)
        if char == '"':
            return self._go(_At.COLON if self._is_name else _At.BEHIND)
        if char == "\\":
            return self._go(_At.ESCAPE)
        return char >= " " and not "\ud800" <= char <= "\udfff"

    def _hexadecimal(self) -> bool:
        self._digits = ""
        return self._go(_At.DIGIT)

    def _in_hexadecimal(self, char: str) -> bool:
        self._digits += char
        if char not in "0123456789abcdefABCDEF":
            return False
        if len(self._digits) < 4:
            return True
        low = 0xDC00 <= int(self._digits, 16) <= 0xDFFF
        if low != self._high:
            return False
        self._high = 0xD800 <= int(self._digits, 16) <= 0xDBFF
        return self._go(_At.SECOND_HALF if self._high else _At.STRING)

    def _go(self, at: _At) -> bool:
        self._at = at
        return True
