"""All decoder layers of a model as one: one after the other for a prompt, and as one program for a step of few rows
where their linears are ``Streamed``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from chatpager.engine.attention import PagedStep
from chatpager.engine.batch import Batch
from chatpager.engine.cpu_angles import Angles
from chatpager.engine.cpu_layers import FAMILIES, Layer, Norm, fused
from chatpager.engine.cpu_linears import Maker, Streamed
from chatpager.engine.kv_cache import KVCache
from chatpager.kernels import cpu_decode, cpu_linear, cpu_program, cpu_rows
from chatpager.kernels.arguments import AttentionCall
from chatpager.kernels.cpu_program import Program
from chatpager.kernels.workspace import Workspace

SHARES = 4
"""Shares of a product for each thread: they are taken one by one, and a thread that has lost its core for a while, to
the event loop for one, takes fewer."""

CAUSAL = {f"{family}ForCausalLM" for family in FAMILIES}
"""Embedding, rotary angles, layers, norm, head, and nothing else."""


def exchange_layers(module: nn.Module, maker: Maker) -> None:
    """Exchange every list of decoder layers in ``module`` that are all of the common kind, in place."""
    # Nothing but the lists is held here: else every original would stay until the end.
    lists = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList)
    ]
    for parent, name, child in lists:
        if layers := fused(child, maker):
            setattr(parent, name, nn.ModuleList([Stack(layers)]))


def _programmed_rows(layer: Layer) -> int:
    """Up to so many rows a step through it can be run as a program."""
    linears = [child for child in (layer.qkv, layer.o, layer.gate_up, layer.down) if isinstance(child, Streamed)]
    if len(linears) < 4 or not all(linear.kernels for linear in linears):
        return 0
    decode = cpu_decode.kernel_for(layer.before.weight.dtype, layer.dim, None)
    has_rest = decode and cpu_decode.kernel("store") and cpu_program.executor()
    return min(linear.most_rows for linear in linears) if has_rest else 0


class Output(NamedTuple):
    logits: torch.Tensor
    """[1, rows asked for, vocabulary]; the next step may write there again."""


class Tail(NamedTuple):
    """What follows the layers, as the end of their program."""

    norm: Norm
    head: Streamed


class Decoder(nn.Module):
    """Stands for a causal model of ``COMMON`` layers, all of them in one ``Stack``: what transformers' own computes,
    without what it looks at, and wraps, for other callers: 0.3 ms, which is a tenth of a small model's step."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.model, self.lm_head = module.model, module.lm_head
        self._angles = Angles(module.model.rotary_emb)
        (self._stack,) = module.model.layers
        self._norm, self._kernel = Norm(self.model.norm), self._stack.layers[0].kernel
        self._stack.end_with(self._norm, self.lm_head)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        logits_to_keep: torch.Tensor,
        paged: PagedStep,
        **_: Any,
    ) -> Output:
        embedded = self.model.embed_tokens(input_ids)
        angles = self._angles.at(position_ids, embedded)
        rows = self._stack(embedded, position_embeddings=angles, paged=paged)
        if self._stack.tail and self._stack.is_program(paged):
            every = len(logits_to_keep) == rows.shape[1]
            return Output(rows if every else rows[:, logits_to_keep])
        kept = cpu_rows.norm(self._kernel, rows[0, logits_to_keep], self._norm.weight, self._norm.eps)
        return Output(self.lm_head(kept[None]))


def shortened(module: nn.Module) -> nn.Module:
    """``module`` as a ``Decoder``, where that computes the same."""
    layers: Any = getattr(getattr(module, "model", None), "layers", ())
    is_one = len(layers) == 1 and isinstance(layers[0], Stack)
    return Decoder(module).eval() if is_one and type(module).__name__ in CAUSAL else module


class Stack(nn.Module):
    """Stands in a model's list of layers as its only one."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._rows = min(map(_programmed_rows, layers))
        self._program: StackProgram | None = None
        self.tail: Tail | None = None

    def look_again(self) -> None:
        """Linears of its layers were exchanged: what was a program may be none."""
        layers: Any = self.layers
        self._rows = min(map(_programmed_rows, layers))

    def end_with(self, norm: Norm, head: nn.Module) -> None:
        """Have steps that are a program end with these, where they can: with logits."""
        if isinstance(head, Streamed) and head.kernels and head.most_rows >= self._rows > 0:
            self.tail = Tail(norm, head)

    def is_program(self, paged: PagedStep) -> bool:
        """Whether a step is of few rows of one token each; keys and values of eight bits are attended to by torch."""
        batch = paged.batch
        return not paged.cache.is_scaled and 0 < batch.num_decodes == batch.num_tokens <= self._rows

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        paged: PagedStep,
        **_: Any,
    ) -> torch.Tensor:
        """[1, T, hidden] -> the same shape, or logits of all rows at the end of a program with a ``tail``; the next
        step may write either again."""
        batch = paged.batch
        if self.is_program(paged):
            return self._program_for(paged.cache, batch.block_size).run(hidden_states, position_embeddings, batch)
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_embeddings=position_embeddings, paged=paged)
        return hidden_states

    def _program_for(self, cache: KVCache, block_size: int) -> StackProgram:
        """Made anew for another cache, and for more threads than the present one has room for."""
        known, threads = self._program, torch.get_num_threads()
        if known is None or known.cache is not cache or known.most_threads < threads:
            layers: Any = list(self.layers)
            known = self._program = StackProgram(layers, self._rows, cache, block_size, threads, self.tail)
        return known


class StackProgram:
    """A step of at most ``most_rows`` rows of one token each, through all layers, with one KV cache."""

    def __init__(
        self,
        layers: Sequence[Layer],
        most_rows: int,
        cache: KVCache,
        block_size: int,
        most_threads: int,
        tail: Tail | None = None,
    ) -> None:
        self.cache, self.most_threads, self._block_size = cache, most_threads, block_size
        first: Any = layers[0]
        self._dim: int = first.dim
        self._dtype = cache.keys[0].dtype

        def rows(columns: int) -> torch.Tensor:
            return torch.empty(most_rows, columns, dtype=self._dtype)

        hidden, mixed, gated = (linear.in_features for linear in (first.qkv, first.o, first.down))
        self._x, self._normed, self._delta, self._mixed, self._gated = map(rows, (hidden, hidden, hidden, mixed, gated))
        self._qkv, self._gate_up = rows(first.qkv.out_features), rows(2 * gated)
        self._cos, self._sin = rows(self._dim), rows(self._dim)
        self._lse = torch.empty(most_rows, first.heads[0], dtype=torch.float32)
        self._scratch = torch.empty(
            cpu_linear.scratch_floats(most_rows, max(hidden, mixed, gated), SHARES * most_threads), dtype=torch.float32
        )
        self._workspace = Workspace()
        self._tables = torch.zeros(most_rows, 1, dtype=torch.int32), torch.ones(most_rows, dtype=torch.int32)
        self._slots = torch.zeros(most_rows, dtype=torch.int64)
        self._program = Program()
        for i, layer in enumerate(layers):
            self._add_layer(layer, is_first=i == 0)
        if tail is None:
            self._rows_call(cpu_rows.add_table(self._x, self._delta))
            self._given = self._x
        else:
            self._add_norm(tail.norm)
            self._given = rows(tail.head.out_features)
            self._product(self._normed, tail.head, self._given)
        self._program.close()

    def _add_layer(self, layer: Any, is_first: bool) -> None:
        if is_first:
            self._rows_call(cpu_rows.norm_table(self._x, layer.before.weight, layer.before.eps, self._normed))
        else:
            self._add_norm(layer.before)
        self._product(self._normed, layer.qkv, self._qkv)
        angles = self._cos, self._sin
        self._rows_call(cpu_rows.rotate_table(self._qkv, layer.heads, angles, layer.head_norms, layer.head_eps))
        self._attend(layer)
        self._product(self._mixed, layer.o, self._delta)
        self._add_norm(layer.between)
        self._product(self._normed, layer.gate_up, self._gate_up)
        self._rows_call(cpu_rows.gate_table(self._gate_up, self._gated))
        self._product(self._gated, layer.down, self._delta)

    def _add_norm(self, norm: Norm) -> None:
        self._rows_call(cpu_rows.add_norm_table(self._x, self._delta, norm.weight, norm.eps, self._normed))

    def _rows_call(self, table: Sequence[int]) -> None:
        kernel = _there(cpu_rows.kernel(self._dtype))
        self._program.add([kernel], table, rows=cpu_rows.ROWS, parts=cpu_rows.PARTS, counter=cpu_rows.NEXT)

    def _product(self, x: torch.Tensor, linear: Streamed, out: torch.Tensor) -> None:
        table = cpu_linear.call_table(x, linear.weights, out, 1, self._scratch)
        at = cpu_linear
        counters = [at.NEXT, at.WIDENED]
        self._program.add(_there(linear.kernels), table, rows=at.ROWS, shares=at.PARTS, counter=counters)

    def _attend(self, layer: Any) -> None:
        at = cpu_decode
        keys, values = self.cache.keys[layer.layer_idx], self.cache.values[layer.layer_idx]
        query, key, value = layer.split(self._qkv)
        table = cpu_decode.store_table(key, value, keys, values, self._slots)
        self._program.add(
            [_there(cpu_decode.kernel("store"))], table,
            rows=at.TOKENS, counter=at.NEXT_TOKEN, slots=at.SLOTS, wrong_slot=at.WRONG,
        )  # fmt: skip
        call = AttentionCall(
            query=query, key_cache=keys, value_cache=values, block_tables=self._tables[0],
            context_lens=self._tables[1], max_context_len=0, out=layer.as_heads(self._mixed), lse=None,
            scale=layer.scaling, query_start=None, max_query_len=1, sliding_window=layer.window, softcap=None,
            sinks=None, workspace=self._workspace, kv_heads=layer.heads[1], group=layer.heads[0] // layer.heads[1],
            head_dim=self._dim, block_size=self._block_size,
        )  # fmt: skip
        parts = self._workspace.take(
            "decode", (self.most_threads, cpu_decode.part_words(call)), torch.float32, query.device
        )
        kernel = _there(cpu_decode.kernel_for(self._dtype, self._dim, None))
        self._program.add(
            [kernel], cpu_decode.call_table(call, self._lse, 1, parts),
            rows=at.ROWS, parts=at.PARTS, counter=[at.NEXT, at.ENDED], wrong_block=at.WRONG_BLOCK,
            tables=at.TABLES, table_row=at.TABLE_ROW, contexts=at.CONTEXTS,
        )  # fmt: skip

    def run(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], batch: Batch
    ) -> torch.Tensor:
        """[1, rows, hidden] -> the same, or logits with a ``tail``, in memory that the next step writes again.

        Raises:
            ValueError: a context exceeds its block table; nothing was written.
            IndexError: a slot or a block that is none.
        """
        n, threads, tables = batch.num_tokens, torch.get_num_threads(), batch.block_tables
        if threads > self.most_threads or batch.max_decode_context > tables.shape[1] * self._block_size:
            raise ValueError(
                f"{threads} threads, {batch.max_decode_context} tokens: there is room for {self.most_threads} and "
                f"{tables.shape[1] * self._block_size}"
            )
        self._x[:n] = hidden_states[0]
        self._cos[:n], self._sin[:n] = position_embeddings[0][0], position_embeddings[1][0]
        program = self._program
        program.set(
            rows=n, parts=threads, shares=SHARES * threads if threads > 1 else 1,
            tables=tables.data_ptr(), table_row=tables.stride(0),
            contexts=batch.context_lens.data_ptr(), slots=batch.slot_mapping.data_ptr(), wrong_slot=-1, wrong_block=0,
        )  # fmt: skip
        program.run(threads)
        if (slot := program.get("wrong_slot").max()) >= 0:
            raise IndexError(f"slot_mapping names slot {slot}, which is past the caches' end")
        if (blocks := program.get("wrong_block")).any():
            raise IndexError(f"block_tables names block {blocks[blocks != 0][0]}, which the caches do not have")
        return self._given[:n].unsqueeze(0)


T = TypeVar("T")


def _there(found: T | None) -> T:
    """What ``_programmed_rows`` has seen."""
    assert found is not None
    return found
