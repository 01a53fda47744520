"""What one rendering of a chat template may take, and what an operation in it may make.

A template is a stranger's program, and Jinja's sandbox bounds what it reaches and not what it takes. So no value that
it makes is larger than the budget of its rendering, which grows with what it is given: a size counts what a list holds
as often as it holds it, or a list of itself twice, forty times over, would be small until somebody prints it. What
would be larger is refused before it is made.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

SECONDS = 5.0
BASE_SIZE = 1 << 20
"""Characters and values that a template may make of nothing."""
TIMES = 16
"""As many times what it is given may be what it makes of it."""
BASE_STEPS = 200_000
MAX_NUMBER = 1 << 20
"""Of an argument: widths and counts."""
MAX_BITS = 4096
_WIDE = re.compile(r"\d{5}")
_GIVEN_WIDTH = re.compile(r"\{[^{}]*\{|%[^a-zA-Z%]*\*")


class TooMuch(Exception):
    """A template would take more than it may."""


class Budget:
    """Of one rendering. ``given`` is the size of what it renders."""

    def __init__(self, given: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = BASE_SIZE + TIMES * given
        self._left = self.size
        self._steps = BASE_STEPS + given
        self._clock, self._until = clock, clock() + SECONDS

    def step(self, steps: int = 1) -> None:
        """Raises TooMuch: too many were made, or for too long."""
        self._steps -= steps
        if self._steps < 0:
            raise TooMuch("it takes too many steps")
        if self._clock() > self._until:
            raise TooMuch(f"it takes longer than {SECONDS:g} s")

    def tell(self, text: str) -> str:
        """``text`` is written, here or to what becomes a value."""
        self._left -= len(text)
        if self._left < 0:
            raise TooMuch("it writes too much")
        return text


BUDGET: ContextVar[Budget] = ContextVar("budget")
_COMPILING = Budget(0, clock=lambda: 0.0)
_COMPILING._steps = 1 << 62


def budget() -> Budget:
    """Of the rendering that is going on; constants are made when there is none."""
    return BUDGET.get(_COMPILING)


def size(value: Any, most: int) -> int:
    """Of all that it says, or a number above ``most``."""
    total, rest = 0, [value]
    while rest and total <= most:
        one = rest.pop()
        total += 1
        match one:
            case str() | bytes():
                total += len(one)
            case list() | tuple():
                rest += one
            case Mapping():
                rest += [*one.keys(), *one.values()]
    return total


def sized(value: Any) -> Any:
    """``value``, which somebody made. Raises TooMuch."""
    most = budget().size
    if isinstance(value, str | bytes | list | tuple | Mapping) and size(value, most) > most:
        raise TooMuch("a value in it grows too large")
    return value


def joined(parts: Iterable[Any]) -> str:
    """Their texts behind each other, as ``~`` makes it."""
    texts, left = [], budget().size
    for part in parts:
        texts.append(str(part))
        left -= len(texts[-1])
        _room(left >= 0)
    return "".join(texts)


def each(items: Iterable[Any]) -> Iterable[Any]:
    """What a loop goes through: each round is a step."""
    step = budget().step
    for item in items:
        step()
        yield item


def _room(there_is: bool) -> None:
    if not there_is:
        raise TooMuch("a value in it grows too large")


def check_numbers(arguments: Iterable[Any]) -> None:
    _room(all(abs(value) <= MAX_NUMBER for value in arguments if isinstance(value, int)))


def check_format(text: str | bytes, arguments: Any) -> None:
    """Of ``%`` and ``format``: no place is wide, and what is given fits in as often as there are places."""
    shown = text if isinstance(text, str) else text.decode("latin-1")
    _room(not _WIDE.search(shown) and not _GIVEN_WIDTH.search(shown))
    places, most = shown.count("{") + shown.count("%"), budget().size
    _room(places * size(arguments, most) <= most)


def check_replaced(text: str | bytes, old: Any, new: Any) -> None:
    times = len(text) if not old else text.count(old)
    _room(times * len(new) <= budget().size)


def check_indented(text: str, by: Any) -> None:
    width = len(by) if isinstance(by, str) else by
    _room((text.count("\n") + 1) * width <= budget().size)


def check_json(value: Any, indent: int, apart: int) -> None:
    """Of JSON whose lines are indented by so many characters a level and whose values are ``apart``; escapes, which
    make up to six of one, are not counted."""
    left, rest = budget().size, [(value, 0)]
    while rest:
        one, level = rest.pop()
        left -= apart + indent * level + (len(one) if isinstance(one, str) else 1)
        _room(left >= 0)
        match one:
            case list() | tuple():
                rest += [(each, level + 1) for each in one]
            case Mapping():
                left -= sum(len(name) for name in one if isinstance(name, str))
                rest += [(each, level + 1) for each in one.values()]


def check_joined(by: str | bytes, items: Any) -> Any:
    """The items, which can be gone through once more."""
    items = items if isinstance(items, list | tuple | str | Mapping) else list(each(items))
    _room(len(items) * len(by) <= budget().size)
    return items


def added(left: Any, right: Any) -> Any:
    most = budget().size
    if isinstance(left, str | bytes | list | tuple):
        _room(size(left, most) + size(right, most) <= most)
    return left + right


def multiplied(left: Any, right: Any) -> Any:
    numbers = [value for value in (left, right) if isinstance(value, int)]
    others = [value for value in (left, right) if isinstance(value, str | bytes | list | tuple)]
    if numbers and others:
        most = budget().size
        _room(numbers[0] * size(others[0], most) <= most)
    elif len(numbers) == 2:
        _room(left.bit_length() + right.bit_length() <= MAX_BITS)
    return left * right


def power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _room(left.bit_length() * abs(right) <= MAX_BITS)
    return left**right


def remainder(left: Any, right: Any) -> Any:
    if isinstance(left, str | bytes):
        check_format(left, right)
        check_numbers(right if isinstance(right, tuple) else (right,))
    return left % right
