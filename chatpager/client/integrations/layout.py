"""The layout in which agents share a prefix: one head for all, what was said, and each agent's own instruction last.

An instruction that was placed once stays where it is, for what stands behind it was computed after it. Where that is
is known by a fingerprint of all that stands before it: in another conversation, or in one whose past was changed, the
same instruction is placed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple, TypeVar

Placement = Literal["append", "tail"]
"""An agent's instruction stays in the conversation, where the next agent reads it; or it is gone with the next prompt,
which computes what the agent said once more."""
T = TypeVar("T")


class Place(NamedTuple):
    """Where an instruction is new in the conversation."""

    mark: str
    text: str


def lay_out(
    items: Sequence[T],
    written: Sequence[str],
    own: str,
    known: Mapping[str, str],
    placement: Placement,
    make: Callable[[str], T],
) -> tuple[list[T], Place | None]:
    """The items of a prompt with the instructions among them, each made by ``make``; and the one that is to be
    ``known`` from now on. ``written``: the items as text. ``known``: texts by their marks, of this conversation. An
    agent that goes on, after a tool or with the next message, keeps the instruction that it has."""
    if placement == "tail" or not own:
        return [*items, *([make(own)] if own else [])], None
    *before, end = marks(written)
    found: list[T] = []
    last = None
    for item, mark in zip(items, before, strict=True):
        if mark in known:
            last = known[mark]
            found.append(make(last))
        found.append(item)
    if last == own:
        return found, None
    # What another agent was told here led to nothing that is in this conversation.
    return [*found, make(own)], Place(end, own) if items else None


def marks(written: Sequence[str]) -> list[str]:
    """A fingerprint of each beginning of the conversation, from nothing to all of it."""
    found = [""]
    for text in written:
        found.append(blake2b(f"{found[-1]}\0{text}".encode(errors="surrogatepass"), digest_size=8).hexdigest())
    return found
