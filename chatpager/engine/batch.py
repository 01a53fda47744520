"""The tensors of one step, built from the scheduler's plan into staging buffers that are kept and reused.

On a GPU all tensors of a step are sent by one copy from pinned memory, for which nothing waits (``staging``). Rows that
compute one token come first (``num_decodes`` of them), so that attention runs as two calls on two slices.
Lengths below: T tokens, S sequences, L rows of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from chatpager.engine.plan import Plan, Row
from chatpager.engine.sequence import Sequence
from chatpager.engine.shared_prefix import Sharing
from chatpager.engine.staging import Place, Staging, room
from chatpager.kernels.arguments import SharedPrefix


@dataclass(frozen=True)
class Batch:
    """Index tensors on the model's device; everything a kernel reads is here, nothing is a global."""

    input_ids: torch.Tensor  # [1, T] int64
    positions: torch.Tensor  # [1, T] int64
    slot_mapping: torch.Tensor  # [T] int64: block * block_size + offset
    block_tables: torch.Tensor  # [S, widest] int32, padded with the null block
    query_start: torch.Tensor  # [E + 1] int32: the E rows behind the decodes, counted from their first token
    context_lens: torch.Tensor  # [S] int32, the step's own tokens included
    logit_indices: torch.Tensor  # [L] int64: the rows of T whose logits are wanted
    copies: torch.Tensor  # [C, 2] int64: (from, to) blocks, copied before anything is written
    fed: (
        torch.Tensor
    )  # [num_decodes] int64: where in the last step's tokens the row's is; -1: in input_ids; [0]: of all
    num_decodes: int
    block_size: int
    max_decode_context: int
    max_extend_context: int
    max_query_len: int
    samples: tuple[tuple[int, Sequence], ...]
    """(row of the logits, sequence that gets a token from it)."""
    lengths: tuple[int, ...]
    """Of ``samples``: tokens before the one that is drawn."""
    rows: tuple[Row, ...]
    is_padded: bool = False
    """Filled up to a number of rows that a graph has."""
    shared: SharedPrefix | None = None
    """Of the decodes that begin with the same pages, where it is worth knowing; of no graph's."""

    @property
    def num_tokens(self) -> int:
        return self.input_ids.shape[1]

    @property
    def num_seqs(self) -> int:
        return self.context_lens.shape[0]


Rules = tuple[list[list[float]], list[list[int]]]
"""How rows are drawn: three numbers of each, and three whole ones, as ``sampler.draw_rules`` gives them."""
UNRULED: Rules = [[0.0], [1.0], [-np.inf]], [[0], [0], [0]]
"""Of a row whose draw nobody reads: looking for a cut would be most of its work."""


@dataclass(frozen=True)
class _Rows:
    """What every step has, as the host writes it."""

    ids: np.ndarray
    positions: np.ndarray
    slots: np.ndarray
    context_lens: np.ndarray
    fed: np.ndarray


class BatchBuilder:
    """Staging buffers for steps of at most ``max_tokens`` tokens and ``max_seqs`` sequences."""

    def __init__(
        self,
        max_tokens: int,
        max_seqs: int,
        max_blocks: int,
        block_size: int,
        device: torch.device,
        *,
        padded_rows: int = 0,
        longest: int = 0,
        sharing: Sharing | None = None,
        staging: Callable[[int, torch.device], Staging] = Staging,
    ) -> None:
        """``padded_rows``: that ``build_padded`` may be asked for, and ``longest`` the tokens of a context there.
        ``sharing``: what shared prefixes are worth finding; None: none."""
        self.sharing = sharing
        self._block_size = block_size
        self._device = device
        self._max_blocks = max_blocks
        fixed: list[tuple[int, type]] = [*4 * [(padded_rows, np.int64)], (padded_rows, np.int32)]
        fixed += [(3 * padded_rows, np.float32), (3 * padded_rows, np.int64)]
        taken: list[tuple[int, type]] = [*3 * [(max_tokens, np.int64)], *2 * [(max_seqs, np.int64)]]
        taken.append((2 * max_seqs, np.int64))
        whole = max_seqs * max_blocks, max_seqs, max_seqs + 1, 4 * max_seqs + 1
        taken += [(count, np.int32) for count in whole]
        self._staging = staging(sum(room(*one) for one in (*fixed, *taken)), device)
        ids, positions, slots, fed, lens, floats, whole_numbers = (self._staging.fix(*one) for one in fixed)
        self._padded = ids, positions, slots, lens, fed
        self._rules = floats, whole_numbers
        self._wide_tables = torch.zeros(padded_rows, max_blocks, dtype=torch.int32, device=device)
        self._every = torch.arange(padded_rows, device=device)
        self._longest = longest

    def build(self, plan: Plan, places: Mapping[int, int] | None = None) -> Batch:
        """``places``: by ``id`` of a sequence, where among the tokens that the last step draws its own is; of sequences
        whose rows are fed."""
        rows = ordered(plan.rows, longest_last=self._device.type == "cuda")
        if not any(row.is_fed for row in rows):
            places = None
        staging, num_decodes = self._staging, sum(row.count == 1 for row in rows)
        staging.begin()
        take, tensor = staging.take, staging.tensor
        ids, positions, slots = (take(sum(row.count for row in rows), np.int64) for _ in range(3))
        lens, fed = take(len(rows), np.int32), take(num_decodes if places else 0, np.int64)
        written = _Rows(*map(staging.array, (ids, positions, slots, lens, fed)))
        tables, widest = self._fill_tables(rows, len(rows))
        table_rows = staging.array(tables).reshape(len(rows), widest)
        self._fill_decodes(written, rows[:num_decodes], table_rows, places or {})
        starts = take(len(rows) - num_decodes + 1, np.int32)
        self._fill_extends(written, staging.array(starts), rows[num_decodes:], table_rows[num_decodes:], num_decodes)
        samples, lengths, logits = self._fill_logits(rows)
        copied = [row.copy for row in rows if row.copy]
        copies = take(2 * len(copied), np.int64)
        staging.array(copies)[:] = np.ravel(copied)
        decode_lens, extend_lens = written.context_lens[:num_decodes], written.context_lens[num_decodes:]
        shared = self._share(table_rows[:num_decodes], decode_lens)
        staging.send(fixed=False)
        return Batch(
            input_ids=tensor(ids).unsqueeze(0),
            positions=tensor(positions).unsqueeze(0),
            slot_mapping=tensor(slots),
            block_tables=tensor(tables).view(len(rows), widest),
            query_start=tensor(starts),
            context_lens=tensor(lens),
            logit_indices=tensor(logits),
            copies=tensor(copies).view(-1, 2),
            fed=tensor(fed),
            num_decodes=num_decodes,
            block_size=self._block_size,
            max_decode_context=int(decode_lens.max(initial=0)),
            max_extend_context=int(extend_lens.max(initial=0)),
            max_query_len=max((row.count for row in rows), default=0),
            samples=samples,
            lengths=lengths,
            rows=rows,
            shared=shared,
        )

    def build_padded(self, plan: Plan, places: Mapping[int, int], size: int, rules: Rules | None = None) -> Batch:
        """A step of one token a row, filled up to ``size`` rows with ones of one token on the null block. Its tensors
        lie where those of ``padded(size)`` do. ``rules``: how its rows are drawn, for who reads ``rules()``."""
        staging, rows, count = self._staging, tuple(plan.rows), len(plan.rows)
        staging.begin()
        written = _Rows(*map(staging.array, self._padded))
        tables, widest = self._fill_tables(rows, size)
        self._fill_decodes(written, rows, staging.array(tables).reshape(size, widest), places)
        written.fed[:count] = [places[id(row.seq)] if row.is_fed else -1 for row in rows]
        for part in (written.ids, written.positions, written.slots):
            part[count:size] = 0
        written.context_lens[count:size] = 1
        written.fed[count:size] = -1
        if rules is not None:
            for place, numbers, nobodys in zip(self._rules, rules, UNRULED, strict=True):
                written_rules = staging.array(place).reshape(3, -1)
                written_rules[:, :count] = numbers
                written_rules[:, count:size] = nobodys
        staging.send(fixed=True)
        staging.spread(tables, self._wide_tables[:size, :widest])
        samples = tuple((i, row.seq) for i, row in enumerate(rows))
        return replace(self.padded(size), samples=samples, lengths=tuple(row.end for row in rows), rows=rows)

    def rules(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the rules of padded steps are, float32 and int64 [3, padded_rows]; of rows that are filled up
        ``UNRULED``."""
        floats, whole = (self._staging.tensor(place).view(3, -1) for place in self._rules)
        return floats, whole

    def padded(self, size: int) -> Batch:
        """The places of a padded step's tensors, and nothing that is a step's own."""
        ids, positions, slots, lens, fed = (self._staging.tensor(place)[:size] for place in self._padded)
        return Batch(
            input_ids=ids.unsqueeze(0),
            positions=positions.unsqueeze(0),
            slot_mapping=slots,
            block_tables=self._wide_tables[:size],
            query_start=lens[:1],
            context_lens=lens,
            logit_indices=self._every[:size],
            copies=ids[:0].view(0, 2),
            fed=fed,
            num_decodes=size,
            block_size=self._block_size,
            max_decode_context=self._longest,
            max_extend_context=0,
            max_query_len=1,
            samples=(),
            lengths=(),
            rows=(),
            is_padded=True,
        )

    def _fill_tables(self, rows: tuple[Row, ...], size: int) -> tuple[Place, int]:
        """Tables of ``size`` rows, those behind ``rows`` all null blocks; and how wide they are."""
        widest = max((len(row.seq.block_table) for row in rows), default=1)
        assert widest <= self._max_blocks, (widest, self._max_blocks)
        place = self._staging.take(size * widest, np.int32)
        tables = self._staging.array(place).reshape(size, widest)
        tables.fill(0)
        for table, row in zip(tables, rows, strict=False):
            ids = row.seq.block_table.array
            table[: len(ids)] = ids
        return place, widest

    def _fill_decodes(
        self, written: _Rows, rows: tuple[Row, ...], tables: np.ndarray, places: Mapping[int, int]
    ) -> None:
        """All rows of one token at once: beside many of them the interpreter would be what a step waits for."""
        count, size = len(rows), self._block_size
        positions = written.positions[:count]
        positions[:] = [row.start for row in rows]
        if places:
            written.ids[:count] = [0 if row.is_fed else row.seq.token_ids[row.start] for row in rows]
            written.fed[:count] = [places[id(row.seq)] if row.is_fed else -1 for row in rows]
        else:
            written.ids[:count] = [row.seq.token_ids[row.start] for row in rows]
        blocks = tables[np.arange(count), positions // size].astype(np.int64)
        written.slots[:count] = blocks * size + positions % size
        written.context_lens[:count] = positions + 1

    def _fill_extends(
        self, written: _Rows, starts: np.ndarray, rows: tuple[Row, ...], tables: np.ndarray, before: int
    ) -> None:
        """The rows behind the ``before`` of one token."""
        size, tokens = self._block_size, before
        starts[0] = 0
        for i, row in enumerate(rows):
            start, end = row.start, row.end
            span = slice(tokens, tokens + row.count)
            written.ids[span] = row.seq.token_ids[start:end]
            positions = written.positions[span]
            positions[:] = np.arange(start, end)
            written.slots[span] = tables[i, positions // size].astype(np.int64) * size + positions % size
            tokens += row.count
            starts[i + 1] = tokens - before
            written.context_lens[before + i] = end

    def _fill_logits(self, rows: tuple[Row, ...]) -> tuple[tuple[tuple[int, Sequence], ...], tuple[int, ...], Place]:
        """What is sampled: ``samples`` and ``lengths`` of the batch, and where the tokens are named."""
        samples: list[tuple[int, Sequence]] = []
        lengths: list[int] = []
        wanted: list[int] = []
        last = -1
        for row in rows:
            last += row.count
            if row.samples:
                samples += [(len(wanted), sample) for sample in row.samples]
                lengths += [row.start + row.count] * len(row.samples)
                wanted.append(last)
        place = self._staging.take(len(wanted), np.int64)
        self._staging.array(place)[:] = wanted
        return tuple(samples), tuple(lengths), place

    def _share(self, tables: np.ndarray, contexts: np.ndarray) -> SharedPrefix | None:
        """What decodes share. Its four tensors lie behind one another."""
        if self.sharing is None:
            return None
        groups = self.sharing.groups(tables, contexts, self._block_size)
        if not groups:
            return None
        of_row = np.zeros(len(contexts), np.int32)
        for group in groups:
            of_row[group.rows] = group.tokens
        starts = np.cumsum([0, *(len(group.rows) for group in groups)])
        lengths = np.array([group.tokens for group in groups])
        parts = [starts, np.concatenate([group.rows for group in groups]), lengths, of_row]
        sizes = [len(part) for part in parts]
        place = self._staging.take(sum(sizes), np.int32)
        self._staging.array(place)[:] = np.concatenate(parts)
        sent = torch.split(self._staging.tensor(place), sizes)
        return SharedPrefix(sent[0], sent[1], sent[2], sent[3], longest=int(lengths.max()))


def feed(batch: Batch, drawn: torch.Tensor) -> None:
    """Give rows that are fed their token: of ``drawn`` [R], what the last step drew, which the host need not know. One
    that is no token, since a row's logits were not numbers, is replaced by any; that sequence ends."""
    fed = batch.fed
    ids = batch.input_ids[0, : len(fed)]
    ids.copy_(torch.where(fed >= 0, drawn[fed.clamp_min(0)].clamp_min(0), ids))


def ordered(rows: Iterable[Row], *, longest_last: bool) -> tuple[Row, ...]:
    """Rows of one token first. Of the others, with ``longest_last``, the one with the longest context last: on a GPU
    their blocks are begun from the end, and what takes longest should not be begun last."""

    def place(row: Row) -> tuple[bool, int]:
        is_extend = row.count != 1
        return is_extend, row.end if is_extend and longest_last else 0

    return tuple(sorted(rows, key=place))
