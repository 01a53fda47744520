"""Our engine, served the same requests as ``static_batching`` and asked the same of every step.

It is as the server has it but for two things. There is no host memory behind the device's, which the baseline has not
either. And it computes with torch's number of threads, as the baseline does: trying others is neither paging nor
batching, and its trials would show as jitter.
"""

from __future__ import annotations

import time

import torch

from chatpager.bench.workload import Ask, Served, Stopwatch, Told
from chatpager.config import EngineConfig
from chatpager.engine.batch import Batch
from chatpager.engine.engine import Engine
from chatpager.engine.loader import LoadedModel
from chatpager.engine.messages import AddRequest
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Plan
from chatpager.engine.sampler import Sampled
from chatpager.engine.sampling_params import SamplingParams

STEP_TOKENS = 1024
"""Of all sequences, in one step."""


class PagedBatching:
    """``kv_tokens``: what the KV memory holds, in tokens; there is no host memory or disk behind it.

    Raises:
        ConfigError: it does not hold one sequence of ``max_len``, or the block size cannot be.
    """

    def __init__(self, model: LoadedModel, *, max_len: int, kv_tokens: int, block_size: int = 16) -> None:
        config = EngineConfig(
            block_size=block_size,
            num_kv_blocks=kv_tokens // block_size + 1,  # one is never used
            max_model_len=max_len,
            max_num_batched_tokens=STEP_TOKENS,
            swap_space=0.0,
            num_threads=torch.get_num_threads(),
            seed=1,
            overlap="off",  # or its parts could not be timed one by one
        )
        self.runner = _TimedRunner(config, model)
        self.engine = Engine(config, self.runner)
        self._asked = 0

    def serve(self, asks: list[Ask], told: Told = lambda count: None) -> Served:
        """``asks`` in the order in which they arrive; the first arrives at the beginning."""
        served, watch = Served.nothing(len(asks)), Stopwatch()
        base, self._asked = self._asked, self._asked + len(asks)
        coming = list(range(len(asks)))
        while coming or self.engine.has_work:
            for i in [i for i in coming if asks[i].after <= len(served.tokens[0])]:
                coming.remove(i)
                served.arrived[i] = watch()
                self.engine.add(_request(base + i, asks[i]), time.monotonic())
            self._step(base, served, watch, told)
        return served

    def _step(self, base: int, served: Served, watch: Stopwatch, told: Told) -> None:
        began = watch()
        outputs = self.engine.step(time.monotonic)
        now = watch()
        with watch.stopped():
            for output in outputs:
                i = int(output.request_id) - base
                served.tokens[i] += output.token_ids
                served.times[i] += [now] * len(output.token_ids)
            stats = self.engine.stats()
            served.sample(
                running=self.runner.rows,
                waiting=stats.waiting,
                reserved=stats.memory.allocated_slots,
                held=stats.memory.used_slots,
            )
            served.own.append(now - began - self.runner.computing)
            told(self.runner.tokens)
        self.runner.forget()


class _TimedRunner(ModelRunner):
    """Tells of the last step how long the model and the sampling took, and for how many sequences and tokens; making
    the tables of a batch is not in it."""

    computing, rows, tokens = 0.0, 0, 0
    _began = 0.0

    def run(self, plan: Plan) -> list[Sampled]:
        found = super().run(plan)
        self.computing = time.perf_counter() - self._began
        self.rows, self.tokens = len(plan.rows), sum(row.count for row in plan.rows)
        return found

    def forward(self, batch: Batch) -> torch.Tensor:
        self._began = time.perf_counter()
        return super().forward(batch)

    def forget(self) -> None:
        self.computing, self.rows, self.tokens = 0.0, 0, 0


def _request(number: int, ask: Ask) -> AddRequest:
    return AddRequest(
        request_id=str(number),
        prompt_token_ids=ask.prompt,
        params=SamplingParams(max_tokens=ask.answer, temperature=0.0, ignore_eos=True),
    )
