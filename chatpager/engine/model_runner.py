"""The model, its KV cache, and one step of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from chatpager.config import EngineConfig
from chatpager.engine import freed_memory, kv_cache, loader, step_graphs, warm_up
from chatpager.engine.attention import PagedStep
from chatpager.engine.batch import Batch, BatchBuilder, feed
from chatpager.engine.block_copies import BlockCopies
from chatpager.engine.block_hash import Field
from chatpager.engine.host_tier import Content
from chatpager.engine.kv_cache import KVCache
from chatpager.engine.open_tiers import most_contents
from chatpager.engine.plan import Plan
from chatpager.engine.pool_size import PoolSize, bytes_on_cpu, longest_context, pool_size, too_many_blocks
from chatpager.engine.sampler import Drawn, Sampled, draw
from chatpager.engine.shared_prefix import Sharing
from chatpager.engine.step_graphs import StepGraphs
from chatpager.engine.thread_choice import ThreadChoice, candidates
from chatpager.errors import ConfigError, RankLost
from chatpager.kernels import paged_attention
from chatpager.kernels.configurations import shared_prefix_gate
from chatpager.kernels.heuristics import shares_prefix
from chatpager.kernels.paged_attention import Workspace

GRAPH_BYTES = 4 << 20
"""What the driver may take for a graph beside what is in it."""
TRIAL_BLOCKS = 2
"""The null block, and one for every token of a trial."""


class ModelRunner:
    """Loads the model of ``config``, sizes the KV cache, runs batches.

    On a GPU the largest step is tried before the cache is sized, so that the two fit side by side; then every kernel is
    compiled that a step may launch, and steps of one token a sequence are captured as graphs.

    Raises:
        ModelLoadError, UnsupportedModel: see ``loader.load``.
        ConfigError: the KV cache does not hold one sequence of ``max_model_len``, or does not fit the memory.
    """

    _copies: BlockCopies | None = None

    def __init__(self, config: EngineConfig, model: loader.LoadedModel | None = None) -> None:
        """``model``: one that is loaded already, in place of the one that ``config`` names."""
        self.config = config
        self._threads = ThreadChoice(
            [config.num_threads] if config.num_threads else candidates(torch.get_num_threads())
        )
        self.model = model or loader.load(
            Path(config.model), dtype=config.dtype, device=config.device, quantization=config.quantization
        )
        self.shape = self.model.shape
        self.kv_dtype = kv_cache.kept_as(config.kv_cache_dtype, self.model.dtype, self.model.device)
        if self.is_apart:
            warm_up.keep_compiled()
        if self.kv_dtype is self.model.dtype:
            paged_attention.prepare(self.model.dtype, self.model.device, self.shape.head_dim)  # not in the first step
        self.block_size = config.block_size
        self.num_blocks, self.max_model_len = self._size(longest_context(config, self.shape.max_positions))
        try:
            self._open(self.num_blocks)
        except (RuntimeError, TypeError) as error:  # torch's allocator; TypeError: a number past 64 bits
            if config.num_kv_blocks is None:
                raise
            raise too_many_blocks(config.num_kv_blocks, self.block_bytes, self.model.device) from error
        if self.is_apart:
            self._warm_up()
        else:
            freed_memory.keep()

    def _open(self, num_blocks: int) -> None:
        """Allocate a KV cache of so many blocks and all that a step needs."""
        shape, model = self.shape, self.model
        self.cache = KVCache.allocate(
            shape.layers, num_blocks, self.block_size, shape.kv_heads, shape.head_dim, self.kv_dtype, model.device
        )
        self._workspace = Workspace()
        self._builder = BatchBuilder(
            self.config.max_num_batched_tokens,
            self.config.max_num_seqs,
            -(-self.max_model_len // self.block_size) + 1,
            self.block_size,
            model.device,
            padded_rows=self.config.max_num_seqs if self._has_graphs else 0,
            longest=self.max_model_len,
            sharing=self._sharing() if self.is_apart else None,
        )
        self._graphs: StepGraphs | None = None
        """Once they are captured."""
        self._drawn: torch.Tensor | None = None
        """What the last step that was launched draws, and by ``id`` of a sequence where its token is."""
        self._places: dict[int, int] = {}

    def _sharing(self) -> Sharing:
        """Which rows of decode should attend to what they share together."""
        gate, shape = shared_prefix_gate(), self.shape
        token_bytes = shape.bytes_per_token(self.kv_dtype.itemsize) // shape.layers
        return Sharing(
            members=max(2, -(-gate.rows // shape.group)),
            tokens=gate.tokens,
            pays=lambda members, tokens: shares_prefix(members, tokens, shape.group, token_bytes),
        )

    @property
    def _has_graphs(self) -> bool:
        return self.is_apart and self.config.cuda_graphs and step_graphs.can_be_captured(self.model.module)

    def _step_graphs(self) -> StepGraphs:
        return StepGraphs(
            self._logits,
            self._builder,
            most=min(self.config.max_num_seqs, self.config.max_num_batched_tokens),
            vocabulary=self.shape.vocab_size,
            device=self.model.device,
        )

    def _warm_up(self) -> None:
        """Compile and capture whatever a step may need."""
        tried = warm_up.trials(
            max_tokens=self.config.max_num_batched_tokens,
            max_seqs=self.config.max_num_seqs,
            max_context=self.max_model_len,
            group=self.shape.group,
        )
        graphs = self._step_graphs() if self._has_graphs else None
        warm_up.make_ready(self._try, tried, self.block_size, graphs)
        self._graphs = graphs

    def _try(self, plan: Plan) -> None:
        """Every row for itself, and together where they share enough: all contexts of a trial are alike."""
        sharing = self._builder.sharing
        for kind in (None, sharing):
            self._builder.sharing = kind
            self.run(plan)

    # -- sizes --------------------------------------------------------------------------------------------------------

    @property
    def block_bytes(self) -> int:
        kept = self.kv_dtype
        return self.shape.bytes_per_token(kept.itemsize, kv_cache.scale_bytes(kept)) * self.block_size

    def _size(self, longest: int) -> PoolSize:
        """For sequences of at most the ``longest`` context, which the largest step that is tried has, too."""
        self.max_model_len = longest
        return pool_size(self.config, longest, block_bytes=self.block_bytes, memory=self._kv_bytes)

    def _kv_bytes(self) -> int:
        """On a GPU: its share, less what is in use (by others too), less what the largest step takes on top."""
        share, device = self.config.gpu_memory_utilization, self.model.device
        if device.type == "cuda":
            step, kept = self._step_bytes(device), self._trial_graphs()
            free, total = torch.cuda.mem_get_info(device)
            others = GRAPH_BYTES * kept.count if kept else 0
            return max(0, int(share * total) - (total - free) - step - others)
        return bytes_on_cpu(share)

    def _step_bytes(self, device: torch.device) -> int:
        """Peak of activations, logits and sampling, found by trying. Its contexts are short: the scratch memory that
        attention takes for long ones comes out of what ``gpu_memory_utilization`` leaves."""
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            self._try_largest_step()
        except torch.OutOfMemoryError as error:
            problem = f"a step of so many tokens does not fit {device} beside the weights; lower it, or max_num_seqs"
            raise ConfigError("max_num_batched_tokens", problem, value=self.config.max_num_batched_tokens) from error
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.empty_cache()
        return peak - before

    def _try_largest_step(self) -> None:
        self._open(TRIAL_BLOCKS)
        self.run(self._largest_plan())
        del self.cache, self._workspace, self._builder

    def _largest_plan(self) -> Plan:
        most = self.config
        return warm_up.largest_plan(most.max_num_batched_tokens, most.max_num_seqs, self.max_model_len, self.block_size)

    def _trial_graphs(self) -> StepGraphs | None:
        """Those of the largest step, whose memory is what all take together: it is in use while they are there."""
        if not self._has_graphs:
            return None
        self._open(TRIAL_BLOCKS)
        graphs = self._step_graphs()
        for _ in graphs.capture(graphs.sizes[-1:]):
            pass
        torch.cuda.empty_cache()
        return graphs

    @property
    def lost(self) -> RankLost | None:
        return None

    @property
    def vocab_size(self) -> int:
        return self.shape.vocab_size

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return self.model.eos_token_ids

    def hash_domain(self) -> Iterable[tuple[str, Field]]:
        """What the root of every block hash carries, the salt and the block size apart."""
        kept, layout = str(self.model.dtype), "layer/k,v/[block,token,head,dim]"
        if self.kv_dtype is not self.model.dtype:
            kept, layout = f"{self.kv_dtype} of {kept}", f"{layout}, [block,head,token] of scales"
        return (
            ("model", self.model.fingerprint),
            ("kv_dtype", kept),
            ("kv_layout", layout),
            ("epoch", 0),
        )

    # -- the KV cache's content, as the lower tiers keep it ------------------------------------------------------------

    @torch.inference_mode()
    def read_blocks(self, ids: Iterable[int]) -> Sequence[Content]:
        """The content of each block, in the order of ``KVCache.read``."""
        return self._block_copies().read(list(ids)) if self.is_apart else self.cache.read(ids)

    @torch.inference_mode()
    def write_blocks(self, ids: Iterable[int], contents: Iterable[Content]) -> None:
        """Write what ``read_blocks`` gave, of a model of the same fingerprint and the same layout."""
        if self.is_apart:
            self._block_copies().write(list(ids), list(contents))
        else:
            self.cache.write(ids, map(bytes, contents))

    @property
    def copies_later(self) -> bool:
        return self.is_apart

    def wait_for_copies(self) -> float:
        """Until what was asked of the two last is done. Returns the seconds that it took."""
        return self._copies.wait() if self._copies is not None else 0.0

    def _block_copies(self) -> BlockCopies:
        if self._copies is None or self._copies.cache is not self.cache:
            self._copies = BlockCopies(self.cache, most_contents(self.config, self.block_bytes))
        return self._copies

    # -- running ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def run(self, plan: Plan) -> list[Sampled]:
        """Compute one step. The list is in the order of the plan's rows, and of each row's ``samples``."""
        batch = self._build(plan)
        return _in_order(plan, batch, self.compute(batch))

    @property
    def is_apart(self) -> bool:
        return self.model.device.type == "cuda"

    @torch.inference_mode()
    def launch(self, plan: Plan) -> Callable[[], list[Sampled]]:
        """``run`` in two halves; on a GPU the first waits for nothing but where a sequence has a grammar."""
        batch = self._build(plan)
        drawn = self._draw(batch)
        self._drawn = self._graphs.keep(drawn.tokens) if self._graphs else drawn.tokens
        self._places = {id(seq): i for i, (_, seq) in enumerate(batch.samples)}
        return lambda: _in_order(plan, batch, drawn.told())

    def _build(self, plan: Plan) -> Batch:
        if self._graphs and (size := step_graphs.bucket_of(plan, self._graphs.sizes)):
            return self._graphs.build(plan, self._places, size)
        return self._builder.build(plan, self._places)

    def compute(self, batch: Batch) -> list[Sampled]:
        """The step's part that is the model's, whose time grows with its size: in the order of ``batch.samples``."""
        return self._draw(batch).told()

    def _draw(self, batch: Batch) -> Drawn:
        if self._graphs and batch.is_padded:
            return self._graphs.launch(batch)
        with self._chosen_threads(batch.num_tokens):
            return draw(self.forward(batch), batch.samples, batch.lengths)

    @contextmanager
    def _chosen_threads(self, tokens: int) -> Iterator[None]:
        if self.model.device.type != "cpu":
            yield
            return
        before, threads = torch.get_num_threads(), self._threads.threads(tokens)
        if threads != before:
            torch.set_num_threads(threads)
        began = time.perf_counter()
        try:
            yield
            self._threads.took(tokens, time.perf_counter() - began)
        finally:  # the process's own number: the next model counts its cores by it, and a caller computes with it
            if threads != before:
                torch.set_num_threads(before)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits of the rows that are sampled, [L, vocabulary]; writes the KV of every token of the batch."""
        if batch.fed.numel():
            assert self._drawn is not None
            feed(batch, self._drawn)
        if batch.copies.numel():
            self.cache.copy(batch.copies)
        return self._logits(batch, self._workspace)

    def _logits(self, batch: Batch, workspace: Workspace) -> torch.Tensor:
        output = self.model.module(
            input_ids=batch.input_ids,
            position_ids=batch.positions,
            use_cache=False,
            logits_to_keep=batch.logit_indices,
            paged=PagedStep(batch, self.cache, workspace),
        )
        return output.logits[0]


def _in_order(plan: Plan, batch: Batch, sampled: list[Sampled]) -> list[Sampled]:
    """From the order of the batch's samples to that of the plan's rows."""
    by_seq = {id(seq): s for (_, seq), s in zip(batch.samples, sampled, strict=True)}
    return [by_seq[id(seq)] for row in plan.rows for seq in row.samples]
