"""Keeping a GPU busy: a step is planned and launched while the one before runs, whose tokens nobody knows yet.

Of the two that are launched the first is the one whose tokens are told next. The second has one token of every sequence
that goes on, which the device takes from the first one's without asking the host. Whether a sequence ends by its length
is known beforehand; one that ends by what was drawn, is cancelled, stopped or preempted has a row too many in the
second, which is dropped, and its blocks stay held until that step is over (``Quarantine``).

Nothing is launched ahead, and the next step is planned when everything is known, where the second step would hold

- a sequence whose next logits depend on its last token's text or count: with a grammar, or with penalties. To leave out
  such a row alone would halve its speed; all rows together lose what the host takes, which is less;
- more of a prompt, a prompt that waits for room which there is, or the first token of several samples: such steps take
  long by themselves, and admission wants to know who has ended;
- a block that must be copied first, or more blocks than can be had without preempting anybody.

As the asynchronous batches of SGLang's scheduler, with those rules.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from chatpager.engine.attempts import Attempts, by_row
from chatpager.engine.plan import Plan, Row
from chatpager.engine.runner import Launcher, Runner
from chatpager.engine.sampler import Sampled
from chatpager.engine.scheduler import Scheduler
from chatpager.engine.sequence import Sequence
from chatpager.errors import EngineError

log = logging.getLogger(__name__)

PATIENCE = 8
"""Steps in a row that are launched ahead while somebody waits for blocks: room that others leave is seen so late."""


@dataclass(eq=False, slots=True)
class _Flight:
    plan: Plan
    wait: Callable[[], list[Sampled]]
    failed: bool = False


class Overlap:
    def __init__(self, scheduler: Scheduler, runner: Launcher, attempts: Attempts) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._attempts = attempts
        self._flights: deque[_Flight] = deque()
        self._is_full = False
        """Whether the last step that was planned in full left somebody waiting for blocks."""
        self._ahead = 0
        """Steps launched ahead since."""

    @property
    def flies(self) -> bool:
        """Whether a step is launched whose tokens are yet to be told."""
        return bool(self._flights)

    def compute(
        self, plan: Plan | None, on_launch: Callable[[], None]
    ) -> tuple[Plan, list[tuple[Row, list[Sampled] | EngineError]]]:
        """The results of the step that was launched first; ``plan`` is launched now, where none was. ``on_launch`` is
        called when the host has nothing left to do but wait. Interrupted, it leaves no step launched."""
        try:
            if plan is not None:
                self._is_full, self._ahead = plan.full, 0
                self._launch(plan)
            flight = self._flights[0]
            if not flight.failed and (behind := self._plan_behind(flight.plan)):
                self._ahead += 1
                self._launch(behind)
            on_launch()
            computed = self._results(flight)
        except BaseException:
            self.land()
            raise
        self._over(flight)
        return flight.plan, computed

    def land(self) -> None:
        """Wait until nothing runs any more, and tell of nothing that did."""
        while self._flights:
            self._drop(self._flights[-1])

    def _launch(self, plan: Plan) -> None:
        try:
            flight = _Flight(plan, self._runner.launch(plan))
        except Exception as error:
            flight = _Flight(plan, _raises(error), failed=True)
        self._flights.append(flight)
        self._scheduler.quarantine.launched(plan)

    def _results(self, flight: _Flight) -> list[tuple[Row, list[Sampled] | EngineError]]:
        """Those at fault alone fail: the others' rows are computed again. What was launched behind began with tokens
        that nobody has drawn, and is planned anew."""
        try:
            return by_row(flight.plan, flight.wait())
        except Exception as error:
            while self._flights[-1] is not flight:
                self._drop(self._flights[-1])
            rows = [row for row in flight.plan.rows if not row.dropped]
            for row in rows:
                row.is_fed = False  # the step before has been told
            if len(rows) == len(flight.plan.rows):
                return self._attempts.again(flight.plan, error)
            log.error("a step failed whose sequences have partly ended", exc_info=error)
            return [pair for row in rows for pair in self._attempts.compute(Plan([row]))]

    def _drop(self, flight: _Flight) -> None:
        try:
            flight.wait()
        except Exception as error:
            log.info("a step failed that nobody waits for any more", exc_info=error)
        self._over(flight)

    def _over(self, flight: _Flight) -> None:
        self._flights.remove(flight)
        self._scheduler.quarantine.over(flight.plan)

    # -- what comes behind --------------------------------------------------------------------------------------------

    def _plan_behind(self, plan: Plan) -> Plan | None:
        """The step behind ``plan``; None: it is planned when ``plan`` is over."""
        if self._admits():
            return None
        rows = {id(row.seq): row for row in plan.rows}
        wanted: list[tuple[Row, int]] = []
        for seq in self._scheduler.running:
            before = rows.get(id(seq))
            if before is None or not _goes_on(seq, before):
                return None
            if before.end + 1 >= seq.max_length:
                continue  # it ends by its length
            need = self._blocks(seq, before.end)
            if need is None:
                return None
            wanted.append((Row(seq, 1, [seq], start=before.end, is_fed=True), need))
        if not wanted or not self._take([(row.seq, need) for row, need in wanted if need]):
            return None
        return Plan([row for row, _ in wanted], decodes=True)

    def _admits(self) -> bool:
        """Whether the next step might begin with somebody who waits."""
        scheduler = self._scheduler
        if not scheduler.waiting or scheduler.occupied >= scheduler.limits.max_num_seqs:
            return False
        return not self._is_full or self._ahead >= PATIENCE

    def _blocks(self, seq: Sequence, position: int) -> int | None:
        """Blocks to allocate before a token at ``position`` can be written; None: one must be copied."""
        place, table = position // self._scheduler.block_size, seq.block_table
        if place >= len(table):
            return 1
        return None if self._scheduler.copies.is_shared(table[place]) else 0

    def _take(self, wanted: list[tuple[Sequence, int]]) -> bool:
        """Give each its blocks, or nobody any where they are not all to be had."""
        if not wanted:
            return True
        if sum(need for _, need in wanted) > self._scheduler.promises.unpromised:
            return False
        for seq, need in wanted:
            seq.block_table.extend(self._scheduler.cache.allocate(need, by=seq.owner))
        return True


def overlapping(setting: str, scheduler: Scheduler, runner: Runner, attempts: Attempts) -> Overlap | None:
    """By the setting ``overlap``; None for a runner whose steps cannot be launched, whatever it says."""
    if setting == "off" or not isinstance(runner, Launcher):
        return None
    return Overlap(scheduler, runner, attempts) if setting == "on" or runner.is_apart else None


def _goes_on(seq: Sequence, before: Row) -> bool:
    """Whether ``before`` draws one token of ``seq``, and the device can compute the next without the host."""
    if before.dropped or before.samples != [seq] or seq.forks:
        return False
    return seq.constraint is None and not seq.params.penalised


def _raises(error: Exception) -> Callable[[], list[Sampled]]:
    def wait() -> list[Sampled]:
        raise error

    return wait
