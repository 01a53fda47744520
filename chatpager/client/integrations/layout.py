"""The layout in which agents share a prefix: one head for all, what was said, and each agent's own instruction last.

An instruction that was placed once stays where it is, for those behind it have computed their keys and values after it;
``TAIL`` leaves it out of every later prompt instead, and computes again what the agent said behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

Placement = Literal["append", "tail"]
T = TypeVar("T")


class Placed(NamedTuple):
    """An instruction, and after how many of the conversation's items it stands."""

    after: int
    text: str


def place(items: int, own: str, before: Sequence[Placed], placement: Placement) -> list[Placed]:
    """The instructions in the next prompt over so many items: of an agent that goes on, after a tool or with the next
    message, the one that it has been given already."""
    if placement == "tail":
        return [Placed(items, own)]
    if before and before[-1].text == own:
        return list(before)
    return [*before, Placed(items, own)]


def woven(items: Sequence[T], placed: Sequence[Placed], make: Callable[[str], T]) -> list[T]:
    """Items with the placed instructions among them, as ``make`` makes them of text."""
    found: list[T] = []
    for count in range(len(items) + 1):
        found += [make(instruction.text) for instruction in placed if instruction.after == count]
        found += items[count : count + 1]
    return found
