"""Blocks of sequences that left while steps were running which may still write them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from chatpager.engine.plan import Plan, Row
from chatpager.engine.prefix_cache import PrefixCache
from chatpager.engine.sequence import Sequence


@dataclass(eq=False, slots=True)
class _Step:
    plan: Plan
    rows: dict[int, Row]
    """By ``id`` of their sequence, which the plan keeps alive."""
    held: list[int]
    """Blocks that nobody else gets until the step is over."""


class Quarantine:
    """The steps that were launched and are not over, oldest first. A sequence that leaves meanwhile is dropped from
    them, and its blocks stay held, by a hold that was its table's, until the last step that has a row of it is over."""

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._steps: deque[_Step] = deque()

    def launched(self, plan: Plan) -> None:
        self._steps.append(_Step(plan, {id(row.seq): row for row in plan.rows}, []))

    def over(self, plan: Plan) -> None:
        """``plan``, one of the launched, is computed, or will never be."""
        step = next(step for step in self._steps if step.plan is plan)
        self._steps.remove(step)
        self._cache.free(step.held)

    def take(self, seq: Sequence) -> bool:
        """``seq`` leaves. Whether its table's blocks are kept here now; else no step has it."""
        last = None
        for step in self._steps:
            if row := step.rows.get(id(seq)):
                row.dropped = True
                last = step
        if last is None:
            return False
        last.held += seq.block_table
        seq.block_table.clear()
        return True

    def tables(self) -> list[list[int]]:
        """What is held, as holders of blocks are audited."""
        return [step.held for step in self._steps]
