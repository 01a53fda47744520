"""A model whose KV cache can be checked: every slot holds a digest of the whole prefix that was written there.

``FakeRunner`` does what a real runner does with a plan, through block tables, but instead of keys and values it writes
``digest(prefix)`` and, before using a context, checks that every slot of it holds the digest of that very prefix. So a
wrong block, a stale block, a block shared between different prefixes or read before it was written is caught at once.
The next token is a function of the prefix alone: the oracle is ``continuation``.
"""

from __future__ import annotations

import struct
from types import SimpleNamespace

import xxhash

from chatpager.config import EngineConfig
from chatpager.engine.block_hash import BlockHash, BlockHasher
from chatpager.engine.engine import Engine
from chatpager.engine.host_tier import HostTier
from chatpager.engine.messages import AddRequest
from chatpager.engine.plan import Limits, Plan
from chatpager.engine.sampler import Sampled
from chatpager.engine.sequence import SamplingParams
from chatpager.engine.tiers import Tiers
from tests.gate import Gate

VOCAB = 997
POISON = -1


def digests(tokens):
    """Digest of every prefix of ``tokens``, the shortest first."""
    state = xxhash.xxh3_64()
    out = []
    for token in tokens:
        state.update(token.to_bytes(4, "little"))
        out.append(state.intdigest())
    return out


def next_token(tokens, index=0):
    return (digests(tokens)[-1] + 7919 * index) % VOCAB


def continuation(prompt, count, eos=frozenset(), index=0):
    """What sample ``index`` of a request for ``count`` tokens must get."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, index))
        if tokens[-1] in eos:
            break
    return tokens[len(prompt) :]


class NamedByTokens(BlockHasher):
    """A name is the block's own first token: blocks of different content or ancestry collide as the test wants."""

    def chain(self, parent, token_ids):
        return BlockHash(token_ids[0].to_bytes(4, "little"))


def signed(digest):
    return digest - 2**64 if digest >= 2**63 else digest


class Broken(Exception):
    pass


class FakeRunner:
    def __init__(self, num_blocks=33, block_size=4, max_model_len=64, eos=frozenset()):
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_model_len = max_model_len
        self.vocab_size = VOCAB
        self.eos_token_ids = frozenset(eos)
        self.memory = [[POISON] * block_size for _ in range(num_blocks)]
        self.steps = []
        self.raise_for = set()
        self.nan_for = set()
        self.raise_once = None
        """"before" or "after": the next step of several rows raises before it has written anything, or at its end."""
        self.tokens, self.finals = {}, {}
        """What ``step`` and ``run`` saw: request id -> {index: tokens}, and (id, index) -> the final output."""

    def hash_domain(self):
        return [("model", "fake")]

    @property
    def block_bytes(self):
        return 8 * self.block_size

    def read_blocks(self, ids):
        return [struct.pack(f"<{self.block_size}q", *map(signed, self.memory[i])) for i in ids]

    def write_blocks(self, ids, contents):
        for i, content in zip(ids, contents, strict=True):
            slots = struct.unpack(f"<{self.block_size}Q", content)
            self.memory[i] = [POISON if slot == POISON % 2**64 else slot for slot in slots]

    def run(self, plan):
        fault = self.raise_once if len(plan.rows) > 1 else None
        if fault:
            self.raise_once = None
        if fault == "before":
            raise Broken("once")
        self.steps.append([(row.seq.request_id, row.count) for row in plan.rows])
        assert all(row.count > 0 for row in plan.rows), "a row without tokens"
        self._copy([row.copy for row in plan.rows if row.copy])
        writers = {}
        for row in plan.rows:
            self._write(row, writers)
        if fault == "after":
            raise Broken("once, after writing")
        if any(row.seq.request_id in self.raise_for for row in plan.rows):
            raise Broken("a row is broken")
        return [self._sample(row, seq) for row in plan.rows for seq in row.samples]

    def _copy(self, pairs):
        sources, targets = {old for old, _ in pairs}, [new for _, new in pairs]
        assert not sources & set(targets) and len(set(targets)) == len(targets), (
            f"copies get in each other's way: {pairs}"
        )
        for old, new in pairs:
            self.memory[new] = list(self.memory[old])

    def _write(self, row, writers):
        seq, size = row.seq, self.block_size
        expected = digests(seq.token_ids)
        for position in range(seq.committed):
            slot = self.memory[seq.block_table[position // size]][position % size]
            assert slot == expected[position], f"{seq.request_id} reads a wrong slot at {position}"
        for position in range(seq.committed, seq.committed + row.count):
            block = seq.block_table[position // size]
            assert block != 0, "the null block is written"
            place = (block, position % size)
            assert place not in writers, f"{writers[place]} and {seq.request_id} write one slot in one step"
            writers[place] = seq.request_id
            self.memory[block][position % size] = expected[position]

    def _sample(self, row, seq):
        if seq.request_id in self.nan_for:
            return Sampled(None)
        return Sampled(self.choose(seq))

    def choose(self, seq):
        return next_token(seq.token_ids, seq.index)


class ScriptedRunner(FakeRunner):
    """Answers as told: ``reply`` makes an answer's ids from a prompt's; the last of them is followed by ``eos``."""

    def __init__(self, reply, *, vocab_size, eos, **sizes):
        super().__init__(eos={eos}, **sizes)
        self.vocab_size = vocab_size
        self.eos = eos
        self.reply = reply
        self.gate = Gate()

    def run(self, plan):
        self.gate.go_through()
        return super().run(plan)

    def choose(self, seq):
        answer = self.reply(seq.token_ids[: seq.num_prompt_tokens])
        place = seq.num_output_tokens
        return answer[place] if place < len(answer) else self.eos


def make_engine(
    num_blocks=33,
    block_size=4,
    max_model_len=64,
    max_tokens=16,
    max_seqs=8,
    caching=True,
    hash_bits=128,
    eos=frozenset(),
    lease_share=0.5,
    host_blocks=0,
    disk=None,
    overlap=False,
    **limits,
):
    runner = (LateRunner if overlap else FakeRunner)(num_blocks, block_size, max_model_len, eos)
    config = EngineConfig(
        block_size=block_size,
        max_num_batched_tokens=max_tokens,
        max_num_seqs=max_seqs,
        enable_prefix_caching=caching,
        lease_share=lease_share,
        swap_space=0,
    )
    bounds = Limits(max_num_batched_tokens=max_tokens, max_num_seqs=max_seqs, **limits)
    host = HostTier(host_blocks) if host_blocks else None
    tiers = Tiers(runner, host=host, disk=disk, clock=lambda: 0.0) if host_blocks or disk is not None else None
    return Engine(config, runner, limits=bounds, hash_bits=hash_bits, tiers=tiers)


def request(name, prompt, count=4, salt=b"", priority=0, owner="", **params):
    return AddRequest(
        request_id=name,
        prompt_token_ids=list(prompt),
        params=SamplingParams(max_tokens=count, temperature=0.0, **params),
        salt=salt,
        priority=priority,
        owner=owner,
    )


def step(engine, times=1, now=0.0):
    """A few steps, audited; everything they bring is kept on the runner."""
    outputs = []
    for _ in range(times):
        outputs = engine.step(lambda: now)
        collect(outputs, engine.runner.tokens, engine.runner.finals)
        engine.audit()
    return outputs


def run(engine, *, steps=10_000, now=0.0):
    """Step until nothing is left; all tokens and all final outputs since the engine began."""
    for _ in range(steps):
        if not engine.has_work:
            return engine.runner.tokens, engine.runner.finals
        step(engine, now=now)
    raise AssertionError(f"{steps} steps were not enough")


def answer(engine, name, prompt, count=4, **more):
    """Run one request to its end, check its tokens; its final output."""
    engine.add(request(name, prompt, count, **more), 0.0)
    tokens, finals = run(engine)
    assert tokens[name][0] == continuation(prompt, count)
    return finals[name, 0]


def collect(outputs, tokens, finals):
    for output in outputs:
        tokens.setdefault(output.request_id, {}).setdefault(output.index, []).extend(output.token_ids)
        if output.finish_reason:
            assert (output.request_id, output.index) not in finals, "two endings"
            finals[output.request_id, output.index] = output


class LateRunner(FakeRunner):
    """Computes a launched step only when somebody waits for it, from what was known at the launch: as late as a device
    might. ``wrong`` is what touched blocks meanwhile that were still to be written."""

    is_apart = True

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.wrong = []
        self.fed = 0
        """Rows whose token the host did not know."""
        self._flights = []
        self._drawn = {}

    def launch(self, plan):
        if self.raise_once == "before" and len(plan.rows) > 1:
            self.raise_once = None
            raise Broken("once, at the launch")
        for row in plan.rows:
            self.note_touched(row.seq.block_table, by=row.seq)
        flight = [Late(row) for row in plan.rows]
        self.fed += sum(row.is_fed for row in plan.rows)
        self._flights.append(flight)
        return lambda: self._land(flight)

    def _land(self, flight):
        assert self._flights[0] is flight, "a step is waited for that was not the first"
        try:
            for row in flight:
                row.take(self._drawn)
            sampled = FakeRunner.run(self, Plan(flight))
        finally:
            self._flights.pop(0)
        drawn = iter(sampled)
        self._drawn = {key: next(drawn).token_id or 0 for row in flight for key in row.keys}
        return sampled

    def read_blocks(self, ids):
        ids = list(ids)
        self.note_touched(ids)
        return super().read_blocks(ids)

    def write_blocks(self, ids, contents):
        ids = list(ids)
        self.note_touched(ids)
        super().write_blocks(ids, contents)

    def note_touched(self, ids, by=None):
        written = {block: row for flight in self._flights for row in flight for block in row.writes(self.block_size)}
        self.wrong += [(i, written[i].seq.request_id) for i in ids if i in written and written[i].of is not by]


class Late:
    """What the device was told of a row."""

    def __init__(self, row):
        known = list(row.seq.token_ids)
        self.of, self.is_fed, self.count, self.copy = row.seq, row.is_fed, row.count, row.copy
        self.keys = [id(sample) for sample in row.samples]
        self.seq = self._told(row, row.seq, known)
        self.samples = [self._told(row, sample, known) for sample in row.samples]

    def _told(self, row, seq, known):
        return SimpleNamespace(
            request_id=seq.request_id,
            index=seq.index,
            token_ids=known,
            committed=row.start,
            block_table=list(row.seq.block_table),
        )

    def take(self, drawn):
        if self.is_fed:
            self.seq.token_ids.append(drawn.get(id(self.of), 0))

    def writes(self, size):
        first = self.seq.committed
        return self.seq.block_table[first // size : (first + self.count - 1) // size + 1]
