"""Steps in which every sequence computes one token as CUDA graphs: the model and the draw, launched as one.

A graph is of so many rows (``buckets``) and reads what is different from step to step from buffers that stay where they
are: tokens, positions, slots, block tables, lengths, and how each row is drawn. No number of the host is in it but the
model's own and the longest context there can be. A step of fewer rows is filled up with rows of one token on the null
block, whose answers nobody reads. What a step draws stays on the device, where the next one finds the tokens of rows
that are fed.

Captured are models whose layers are exchanged for ours (``gpu_layers``), since nothing in these waits for the device;
others, and those whose rotary embedding looks at its positions, are launched kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch

from chatpager.engine.architectures import ROPE_BY_LENGTH
from chatpager.engine.batch import Batch, BatchBuilder, feed
from chatpager.engine.gpu_layers import Stack
from chatpager.engine.plan import Plan
from chatpager.engine.sampler import Drawn, draw, draw_rules, has_rules, launched, to_host
from chatpager.kernels.workspace import Workspace

MOST_ROWS = 512
"""Of a graph; steps of more are launched kernel by kernel, and hide that behind their work."""


class Kind(StrEnum):
    """What of the draw is in a graph."""

    LOGITS = "logits"
    """Nothing: a row has penalties, a bias, a grammar, or is told probabilities."""
    GREEDY = "greedy"
    DRAWN = "drawn"
    """Rows may be greedy, too; and have a top-k or top-p, where ``CUT`` is not captured."""
    CUT = "cut"
    """The same where a cut is dozens of launches, for few rows of a large vocabulary."""


def buckets(most: int) -> list[int]:
    """Rows that graphs have, so that ``most`` and any fewer find one that is not much larger."""
    steps = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, MOST_ROWS + 1, 32)]
    return [rows for rows in steps if rows < most] + [most] if most <= MOST_ROWS else steps


def can_be_captured(module: torch.nn.Module) -> bool:
    """Whether nothing that this model does in a step waits for the device."""
    parts = list(module.modules())
    measures = any(getattr(part, "rope_type", None) in ROPE_BY_LENGTH for part in parts)
    return any(isinstance(part, Stack) for part in parts) and not measures


def bucket_of(plan: Plan, sizes: Sequence[int]) -> int | None:
    """Rows of the smallest graph that holds ``plan``; None: it is no step for a graph."""
    if not plan.rows or len(plan.rows) > sizes[-1]:
        return None
    if any(row.count != 1 or row.copy or row.samples != [row.seq] for row in plan.rows):
        return None
    return next(size for size in sizes if size >= len(plan.rows))


def kind_of(batch: Batch) -> Kind:
    of = [(seq, length) for (_, seq), length in zip(batch.samples, batch.lengths, strict=True)]
    if any(seq.params.logprobs is not None or has_rules(seq, length) for seq, length in of):
        return Kind.LOGITS
    if all(seq.params.greedy for seq, _ in of):
        return Kind.GREEDY
    return Kind.CUT if any(seq.params.is_cut and not seq.params.greedy for seq, _ in of) else Kind.DRAWN


class StepGraphs:
    """``forward`` computes the logits of a batch with the workspace that it is given, which is these graphs' own: a
    buffer that grew for another step would leave them with memory that is not theirs."""

    def __init__(
        self,
        forward: Callable[[Batch, Workspace], torch.Tensor],
        builder: BatchBuilder,
        *,
        most: int,
        vocabulary: int,
        device: torch.device,
    ) -> None:
        """``most``: rows of any step."""
        self.sizes = buckets(most)
        self._forward, self._builder, self._device = forward, builder, device
        self._workspace = Workspace()
        self._graphs: dict[tuple[int, Kind], Any] = {}
        self.drawn = torch.zeros(most, dtype=torch.int64, device=device)
        """What the last step drew, a graph's or not."""
        self._logits = torch.empty(self.sizes[-1], vocabulary, dtype=torch.float32, device=device)
        self._rules = builder.rules()

    @property
    def count(self) -> int:
        """Graphs that there are to be."""
        return sum(len(self.kinds(rows)) for rows in self.sizes)

    def kinds(self, rows: int) -> list[Kind]:
        """The graphs of so many rows."""
        return [kind for kind in Kind if kind is not Kind.CUT or self._is_split(rows)]

    def _is_split(self, rows: int) -> bool:
        from chatpager.kernels import cuda_sampling  # triton is there on Linux only, and slow to import

        return cuda_sampling.is_split(rows, self._logits.shape[1])

    # -- what is captured ---------------------------------------------------------------------------------------------

    def compute(self, rows: int, kind: Kind) -> None:
        """A step of ``rows`` rows: from the buffers, into ``drawn`` or the logits."""
        batch = self._builder.padded(rows)
        feed(batch, self.drawn)
        logits = self._forward(batch, self._workspace)
        if kind is Kind.LOGITS:
            self._logits[:rows].copy_(logits)
            return
        raw = logits.float()
        best, tokens = raw.max(-1)
        if kind is not Kind.GREEDY:
            tokens = self._draw(raw, tokens, is_cut=kind is Kind.CUT or not self._is_split(rows))
        self.drawn[:rows].copy_(tokens.masked_fill(~torch.isfinite(best), -1))

    def _draw(self, raw: torch.Tensor, greedy: torch.Tensor, *, is_cut: bool) -> torch.Tensor:
        from chatpager.kernels import cuda_sampling  # triton is there on Linux only, and slow to import

        temperature, top_p, log_min_p = self._rules[0][:, : len(raw)]
        seeds, positions, top_k = self._rules[1][:, : len(raw)]
        is_greedy = temperature == 0
        drawn = cuda_sampling.draw(
            raw,
            temperature=temperature.masked_fill(is_greedy, 1.0),
            top_k=top_k.to(torch.int32),
            top_p=top_p,
            log_min_p=log_min_p,
            seeds=seeds,
            positions=positions,
            workspace=self._workspace,
            is_cut=is_cut,
        )
        return torch.where(is_greedy, greedy, drawn)

    # -- at the start -------------------------------------------------------------------------------------------------

    def capture(self, sizes: Sequence[int] | None = None) -> Iterator[int]:
        """Capture the graphs of ``sizes``, all by default, the largest first: their memory is one, and the buffers are
        as large as they get before any graph knows where they are. Yields how many are done."""
        pool: Any = None
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        done = 0
        for rows in sorted(sizes or self.sizes, reverse=True):
            for kind in self.kinds(rows):
                self._builder.build_padded(Plan(), {}, rows)
                stream.wait_stream(torch.cuda.current_stream(self._device))
                with torch.inference_mode(), torch.cuda.stream(stream):
                    self.compute(rows, kind)  # what compiles or allocates when first called does it now
                    stream.synchronize()
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                        self.compute(rows, kind)
                pool = pool or graph.pool()
                self._graphs[rows, kind] = graph
                done += 1
                yield done

    # -- in a step ----------------------------------------------------------------------------------------------------

    def build(self, plan: Plan, places: Mapping[int, int], size: int) -> Batch:
        """``BatchBuilder.build_padded`` with how the rows are drawn, where that is more than to take the likeliest."""
        seqs, lengths = [row.seq for row in plan.rows], [row.end for row in plan.rows]
        is_drawn = any(not seq.params.greedy for seq in seqs)
        rules = draw_rules(seqs, lengths, self._logits.shape[1]) if is_drawn else None
        return self._builder.build_padded(plan, places, size, rules)

    def launch(self, batch: Batch) -> Drawn:
        """Compute a batch that was built for as many rows as a graph has."""
        rows, kind = batch.num_seqs, kind_of(batch)
        if kind is Kind.CUT and not self._is_split(rows):
            kind = Kind.DRAWN
        self._replay(rows, kind)
        count = len(batch.samples)
        if kind is Kind.LOGITS:
            return draw(self._logits[:count], batch.samples, batch.lengths)
        tokens = self.drawn[:count]
        return Drawn([seq for _, seq in batch.samples], tokens, {}, to_host(tokens), None, launched(self._device))

    def keep(self, tokens: torch.Tensor) -> torch.Tensor:
        """What a step drew that was launched in another way, where graphs find it."""
        place = self.drawn[: len(tokens)]
        return place if place.data_ptr() == tokens.data_ptr() else place.copy_(tokens)

    def _replay(self, rows: int, kind: Kind) -> None:
        self._graphs[rows, kind].replay()
