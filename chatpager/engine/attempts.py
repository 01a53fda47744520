"""Computing a step whose model may raise: only the rows at fault fail."""

from __future__ import annotations

import logging
from itertools import islice

from chatpager.engine.plan import Plan, Row
from chatpager.engine.runner import Runner
from chatpager.engine.sampler import Sampled
from chatpager.errors import EngineError, RankLost, StepFailed

log = logging.getLogger(__name__)


class Attempts:
    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.failed_steps = 0
        """That raised, repeats of their rows one by one included."""
        self.repeated_tokens = 0

    def compute(self, plan: Plan) -> list[tuple[Row, list[Sampled] | EngineError]]:
        """Run the plan; if it raises, run its rows one by one, so that only those at fault fail.

        A row that was computed may be computed again: it writes the same keys and values to the same places, and what
        it copies first is held until the step is over.

        Raises:
            RankLost: nothing can be computed any more.
        """
        try:
            return by_row(plan, self._runner.run(plan))
        except Exception as error:
            return self.again(plan, error)

    def again(self, plan: Plan, error: Exception) -> list[tuple[Row, list[Sampled] | EngineError]]:
        """The plan raised ``error``: run its rows one by one; of a single one it is told that it failed.

        Raises:
            RankLost: that is the error.
        """
        if isinstance(error, RankLost):
            raise error
        self.failed_steps += 1
        log.error("a step of %d sequences failed", len(plan.rows), exc_info=error)
        if len(plan.rows) == 1:
            failure = StepFailed(f"a step of request {plan.rows[0].seq.request_id} raised {type(error).__name__}")
            failure.__cause__ = error
            return [(plan.rows[0], failure)]
        self.repeated_tokens += sum(row.count for row in plan.rows)
        return [pair for row in plan.rows for pair in self.compute(Plan([row]))]


def by_row(plan: Plan, sampled: list[Sampled]) -> list[tuple[Row, list[Sampled] | EngineError]]:
    rest = iter(sampled)
    return [(row, [next(rest)] if len(row.samples) == 1 else list(islice(rest, len(row.samples)))) for row in plan.rows]
