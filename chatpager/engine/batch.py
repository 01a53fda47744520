"""The tensors of one step, built from the scheduler's plan into staging buffers that are kept and reused.

On a GPU every tensor is sent from pinned memory without waiting; the next ``build`` waits until all of them were sent.
Rows that compute one token come first (``num_decodes`` of them), so that attention runs as two calls on two slices.
Lengths below: T tokens, S sequences, L rows of logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from chatpager.engine.plan import Plan, Row
from chatpager.engine.sequence import Sequence
from chatpager.engine.shared_prefix import Sharing
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
    ) -> None:
        """``padded_rows``: that ``build_padded`` may be asked for, and ``longest`` the tokens of a context there.
        ``sharing``: what shared prefixes are worth finding; None: none."""
        self.sharing = sharing
        self._block_size = block_size
        self._device = device
        self._max_blocks = max_blocks
        pin = device.type == "cuda"
        self._ids = _staging(max_tokens, np.int64, pin)
        self._positions = _staging(max_tokens, np.int64, pin)
        self._slots = _staging(max_tokens, np.int64, pin)
        self._tables = _staging(max_seqs * max_blocks, np.int32, pin)
        self._query_start = _staging(max_seqs + 1, np.int32, pin)
        self._context_lens = _staging(max_seqs, np.int32, pin)
        self._logits = _staging(max_seqs, np.int64, pin)
        self._copies = _staging(2 * max_seqs, np.int64, pin)
        self._fed = _staging(max_seqs, np.int64, pin)
        self._shared = _staging(4 * max_seqs + 1, np.int32, pin) if sharing else None
        self._wide_tables = torch.zeros(padded_rows, max_blocks, dtype=torch.int32, device=device)
        self._every = torch.arange(padded_rows, device=device)
        self._longest = longest
        self._on_device = (
            {id(s[0]): s[0].to(device) for s in vars(self).values() if isinstance(s, tuple)} if pin else {}
        )
        """By ``id`` of what is staged: where it is sent to, always to the same place."""
        self._sent = torch.cuda.Event() if pin else None  # type: ignore[no-untyped-call]
        """Behind the last step's sends: until it has come, the buffers are still being read."""

    def build(self, plan: Plan, places: Mapping[int, int] | None = None) -> Batch:
        """``places``: by ``id`` of a sequence, where among the tokens that the last step draws its own is; of sequences
        whose rows are fed."""
        if self._sent is not None:
            self._sent.synchronize()
        rows = ordered(plan.rows, longest_last=self._device.type == "cuda")
        if not any(row.is_fed for row in rows):
            places = None
        num_logits, num_decodes = 0, sum(row.count == 1 for row in rows)
        tables = self._fill_tables(rows)
        widest = tables.shape[1]
        self._fill_decodes(rows[:num_decodes], tables, places or {})
        tokens = self._fill_extends(rows[num_decodes:], tables[num_decodes:], num_decodes)
        lens = self._context_lens[1]
        samples: list[tuple[int, Sequence]] = []
        lengths: list[int] = []
        last = -1
        for row in rows:
            last += row.count
            if row.samples:
                samples += [(num_logits, sample) for sample in row.samples]
                lengths += [row.start + row.count] * len(row.samples)
                self._logits[1][num_logits] = last
                num_logits += 1
        copies = [row.copy for row in rows if row.copy]
        self._copies[1][: 2 * len(copies)] = np.ravel(copies)
        decode_lens, extend_lens = lens[:num_decodes], lens[num_decodes : len(rows)]
        batch = Batch(
            input_ids=self._send(self._ids, tokens).unsqueeze(0),
            positions=self._send(self._positions, tokens).unsqueeze(0),
            slot_mapping=self._send(self._slots, tokens),
            block_tables=self._send(self._tables, len(rows) * widest).view(len(rows), widest),
            query_start=self._send(self._query_start, len(rows) - num_decodes + 1),
            context_lens=self._send(self._context_lens, len(rows)),
            logit_indices=self._send(self._logits, num_logits),
            copies=self._send(self._copies, 2 * len(copies)).view(-1, 2),
            fed=self._send(self._fed, num_decodes if places else 0),
            num_decodes=num_decodes,
            block_size=self._block_size,
            max_decode_context=int(decode_lens.max(initial=0)),
            max_extend_context=int(extend_lens.max(initial=0)),
            max_query_len=max((row.count for row in rows), default=0),
            samples=tuple(samples),
            lengths=tuple(lengths),
            rows=rows,
            shared=self._share(tables[:num_decodes], decode_lens),
        )
        if self._sent is not None:
            self._sent.record()
        return batch

    def build_padded(self, plan: Plan, places: Mapping[int, int], size: int) -> Batch:
        """A step of one token a row, filled up to ``size`` rows with ones of one token on the null block. Its tensors
        lie where those of ``padded(size)`` do."""
        if self._sent is not None:
            self._sent.synchronize()
        rows, count = tuple(plan.rows), len(plan.rows)
        tables = self._fill_tables(rows)
        self._fill_decodes(rows, tables, places)
        self._fed[1][:count] = [places[id(row.seq)] if row.is_fed else -1 for row in rows]
        nobodys = (self._ids, 0), (self._positions, 0), (self._slots, 0), (self._context_lens, 1), (self._fed, -1)
        for staged, filler in nobodys:
            staged[1][count:size] = filler
            self._send(staged, size)
        self._wide_tables[:count, : tables.shape[1]] = self._send(self._tables, tables.size).view(tables.shape)
        self._wide_tables[count:size, :1].zero_()
        if self._sent is not None:
            self._sent.record()
        samples = tuple((i, row.seq) for i, row in enumerate(rows))
        return replace(self.padded(size), samples=samples, lengths=tuple(row.end for row in rows), rows=rows)

    def padded(self, size: int) -> Batch:
        """The places of a padded step's tensors, and nothing that is a step's own."""

        def at(staged: tuple[torch.Tensor, np.ndarray], count: int = size) -> torch.Tensor:
            return self._on_device.get(id(staged[0]), staged[0])[:count]

        return Batch(
            input_ids=at(self._ids).unsqueeze(0),
            positions=at(self._positions).unsqueeze(0),
            slot_mapping=at(self._slots),
            block_tables=self._wide_tables[:size],
            query_start=at(self._query_start, 1),
            context_lens=at(self._context_lens),
            logit_indices=self._every[:size],
            copies=at(self._copies, 0).view(0, 2),
            fed=at(self._fed),
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

    def _fill_tables(self, rows: tuple[Row, ...]) -> np.ndarray:
        widest = max((len(row.seq.block_table) for row in rows), default=0)
        assert widest <= self._max_blocks, (widest, self._max_blocks)
        tables = self._tables[1][: len(rows) * widest].reshape(len(rows), widest)
        tables.fill(0)
        for table, row in zip(tables, rows, strict=True):
            ids = row.seq.block_table.array
            table[: len(ids)] = ids
        return tables

    def _fill_decodes(self, rows: tuple[Row, ...], tables: np.ndarray, places: Mapping[int, int]) -> None:
        """All rows of one token at once: beside many of them the interpreter would be what a step waits for."""
        count, size = len(rows), self._block_size
        positions = self._positions[1][:count]
        positions[:] = [row.start for row in rows]
        if places:
            self._ids[1][:count] = [0 if row.is_fed else row.seq.token_ids[row.start] for row in rows]
            self._fed[1][:count] = [places[id(row.seq)] if row.is_fed else -1 for row in rows]
        else:
            self._ids[1][:count] = [row.seq.token_ids[row.start] for row in rows]
        blocks = tables[np.arange(count), positions // size].astype(np.int64)
        self._slots[1][:count] = blocks * size + positions % size
        self._context_lens[1][:count] = positions + 1

    def _fill_extends(self, rows: tuple[Row, ...], tables: np.ndarray, before: int) -> int:
        """The rows behind the ``before`` of one token; the number of tokens in all."""
        starts, size, tokens = self._query_start[1], self._block_size, before
        starts[0] = 0
        for i, row in enumerate(rows):
            start, end = row.start, row.end
            span = slice(tokens, tokens + row.count)
            self._ids[1][span] = row.seq.token_ids[start:end]
            positions = self._positions[1][span]
            positions[:] = np.arange(start, end)
            self._slots[1][span] = tables[i, positions // size].astype(np.int64) * size + positions % size
            tokens += row.count
            starts[i + 1] = tokens - before
            self._context_lens[1][before + i] = end
        return tokens

    def _share(self, tables: np.ndarray, contexts: np.ndarray) -> SharedPrefix | None:
        """What decodes share. Its four tensors lie behind one another and are sent as one."""
        if self.sharing is None or self._shared is None:
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
        self._shared[1][: sum(sizes)] = np.concatenate(parts)
        sent = torch.split(self._send(self._shared, sum(sizes)), sizes)
        return SharedPrefix(sent[0], sent[1], sent[2], sent[3], longest=int(lengths.max()))

    def _send(self, staging: tuple[torch.Tensor, np.ndarray], count: int) -> torch.Tensor:
        if (place := self._on_device.get(id(staging[0]))) is not None:
            return place[:count].copy_(staging[0][:count], non_blocking=True)
        return staging[0][:count]


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


def _staging(size: int, dtype: type, pin: bool) -> tuple[torch.Tensor, np.ndarray]:
    """A host tensor and numpy's view of the same memory."""
    tensor = torch.from_numpy(np.zeros(max(size, 1), dtype=dtype))
    if pin:
        tensor = tensor.pin_memory()
    return tensor, tensor.numpy()
