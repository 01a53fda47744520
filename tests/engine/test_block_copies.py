"""Blocks go to pinned memory and come back as they were, however late copies are made: whatever is written over them on
the device afterwards, and whosever the host memory was."""

import random
from collections import deque
from functools import partial
from itertools import count

import pytest
import torch

from chatpager.engine import block_copies
from chatpager.engine.block_copies import BlockCopies, PinnedBlocks, Side
from chatpager.engine.block_hash import BlockHasher
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.host_tier import HostTier
from chatpager.engine.kv_cache import KVCache, kept_as
from chatpager.engine.reading import Reading
from chatpager.engine.split_runner import FirstRunner
from chatpager.engine.tiers import Demoted, Tiers
from tests.engine.fakes import FakeRunner, answer, make_engine
from tests.engine.tiering import LONG, flood, sources

HAS_GPU = torch.cuda.is_available()
CPU = torch.device("cpu")


class Late(Side):
    """What is launched is done when somebody waits for it, and no sooner."""

    steps = None  # (a property of the other one)

    def __init__(self):
        self.copied, self.milliseconds = [], 0.0
        self.streams = self.steps, self.leaving, self.coming = Stream(), Stream(), Stream()

    def launch(self, stream, work):
        stream.launch(partial(self.do, work))
        return stream.record_event()

    def do(self, work):
        work()
        self.milliseconds += 1

    def mark(self, stream):
        event = Event(stream, stream.asked + 1)
        stream.launch(lambda: setattr(event, "at", self.milliseconds))
        return event

    def copy(self, stream, pairs):
        self.copied.append(len(pairs))
        return super().copy(stream, pairs)


class Stream:
    def __init__(self):
        self.queue, self.asked, self.done = deque(), 0, 0

    def launch(self, work):
        self.queue.append(work)
        self.asked += 1

    def run(self, until=None):
        until = self.asked if until is None else until
        while self.done < until:
            self.queue.popleft()()
            self.done += 1

    def wait_event(self, event):
        self.launch(event.synchronize)

    def record_event(self):
        return Event(self, self.asked)


class Event:
    def __init__(self, stream, until):
        self.stream, self.until = stream, until

    def synchronize(self):
        self.stream.run(self.until)

    def elapsed_time(self, other):
        return other.at - self.at

    def query(self):
        return self.stream.done >= self.until


def filled(kind="auto", blocks=24, device=CPU):
    cache = KVCache.allocate(3, blocks, 8, 2, 5, kept_as(kind, torch.bfloat16, device), device)
    for part in cache.words():
        part.copy_(torch.randint(-(2**60), 2**60, part.shape))
    return cache


@pytest.mark.parametrize("kind", ["auto", "int8", "fp8"])
def test_contents_are_those_of_the_cache_and_go_back_to_any_block(kind):
    cache, side = filled(kind), Late()
    copies = BlockCopies(cache, 24, side)
    expected = cache.read(range(24))
    blocks = copies.read([3, 7, 4])
    assert [len(b) for b in blocks] == [len(expected[0])] * 3 and not any(b.is_there for b in blocks)
    assert [bytes(b) for b in blocks] == [expected[i] for i in (3, 7, 4)] and blocks[1].is_there
    copies.write([1, 2, 3, 9, 10], [blocks[2], expected[20], expected[21], blocks[0], blocks[1]])
    assert cache.read([1, 2, 3]) == expected[1:4], "not yet"
    side.steps.run()
    assert cache.read([1, 2, 3, 9, 10]) == [expected[i] for i in (4, 20, 21, 3, 7)]


@pytest.mark.parametrize("seed", range(8))
def test_however_late_they_are_made_nothing_is_mixed_up(seed, monkeypatch):
    """The device goes on writing, host memory is given up and taken again; what is asked for is what was there."""
    monkeypatch.setattr(block_copies, "CHUNK_BYTES", 1)
    monkeypatch.setattr(block_copies, "PIECE_BYTES", 3 * 960)
    rng, cache, side = random.Random(seed), filled(), Late()
    now = cache.read(range(24))
    copies, kept = BlockCopies(cache, 1000, side), []
    for _ in range(200):
        match rng.randrange(5):
            case 0:
                ids = rng.sample(range(24), rng.randint(1, 7))
                kept += zip(copies.read(ids), [now[i] for i in ids], strict=True)
            case 1 if kept:
                some = [kept.pop(rng.randrange(len(kept))) for _ in range(rng.randint(1, min(7, len(kept))))]
                ids = rng.sample(range(24), len(some))
                copies.write(ids, [content if rng.random() < 0.7 else wanted for content, wanted in some])
                for i, (_, wanted) in zip(ids, some, strict=True):
                    now[i] = wanted
                del some, _
            case 2:
                i = rng.randrange(24)
                now[i] = rng.randbytes(960)
                side.launch(side.steps, partial(cache.write, [i], [now[i]]))
            case 3 if kept:
                content, wanted = kept.pop(rng.randrange(len(kept)))
                if rng.random() < 0.3:
                    assert bytes(content) == wanted
                del content
            case 4 if rng.random() < 0.3:
                stream = rng.choice(side.streams)
                stream.run(rng.randint(stream.done, stream.asked))
    side.steps.run()
    assert cache.read(range(24)) == now
    assert all(bytes(content) == wanted for content, wanted in kept)
    slots = {content.slot for content, _ in kept}
    memory = copies._memory
    assert len(slots) == len(kept) and sorted([*memory._free, *slots]) == list(range(8 * len(memory._chunks)))


def test_of_many_blocks_only_some_are_on_their_way_at_a_time(monkeypatch):
    monkeypatch.setattr(block_copies, "PIECE_BYTES", 5 * 960 + 1)
    cache, side = filled(), Late()
    expected, copies = cache.read(range(24)), BlockCopies(cache, 24, side)
    blocks = copies.read(range(24))
    copies.write(range(24), blocks[::-1])
    side.coming.run()
    there = cache.read(range(24))
    assert (there[:15], there[15:]) == (expected[:8:-1], expected[15:]), "the last two pieces wait to be taken"
    side.steps.run()
    assert cache.read(range(24)) == expected[::-1] and len(side.copied) == 10


def test_what_comes_back_waits_for_no_step_that_runs():
    cache, side, ran = filled(), Late(), []
    expected, copies = cache.read(range(24)), BlockCopies(cache, 24, side)
    kept = copies.read([1, 2])
    copies.wait()
    side.launch(side.steps, partial(ran.append, "a step"))
    copies.read([3])
    copies.write([5, 6], kept)
    copies.wait()
    assert not ran
    side.steps.run()
    assert cache.read([5, 6]) == expected[1:3] and ran


def test_what_a_copy_takes_is_not_what_it_waits_for(monkeypatch):
    monkeypatch.setattr(block_copies, "PIECE_BYTES", 3 * 960)
    side = Late()
    copies = BlockCopies(filled(), 24, side)
    for _ in range(50):
        side.launch(side.steps, bool)
    blocks = copies.read(range(7))
    assert copies.wait() == 0.003 and side.milliseconds > 50
    for _ in range(50):
        side.launch(side.steps, bool)
    copies.write(range(7), blocks)
    assert copies.wait() == 0.003


def test_a_split_model_has_bytes_at_once():
    assert FirstRunner.__new__(FirstRunner).copies_later is False


def test_what_lies_together_is_one_copy():
    side = Late()
    copies = BlockCopies(filled(), 24, side)
    blocks = copies.read(list(range(12)))
    copies.write(list(range(12)), blocks)
    copies.write([0, 1, 2], [blocks[5], blocks[6], blocks[4]])
    assert side.copied == [1, 1, 2]


def test_contents_of_another_cache_are_read_where_they_are():
    caches, side = (filled(), filled()), Late()
    expected = [cache.read(range(24)) for cache in caches]
    first, second = (BlockCopies(cache, 24, side) for cache in caches)
    old, new = first.read([5, 6, 7]), second.read([8, 9, 10])
    second.write([1, 2, 3], [old[0], new[1], old[2]])
    side.steps.run()
    assert caches[1].read([1, 2, 3]) == [expected[0][5], expected[1][9], expected[0][7]]


def test_memory_grows_by_pieces_as_far_as_it_may_and_is_used_again(monkeypatch):
    monkeypatch.setattr(block_copies, "CHUNK_BYTES", 256)
    memory = PinnedBlocks(64, 10, pin=False)
    first = memory.take(6)
    assert [b.slot for b in first] == [0, 1, 2, 3, 4, 5] and len(memory._chunks) == 1
    second = memory.take(3)
    assert [b.slot for b in second] == [6, 7, 8] and len(memory._chunks) == 2
    assert memory.lie_together(*second[:2]) and not memory.lie_together(*second[1:])
    with pytest.raises(MemoryError, match=r"9 of 10 blocks .* in use, and 2 are wanted"):
        memory.take(2)
    del first[1]
    assert [b.slot for b in memory.take(2)] == [1, 9]


@pytest.mark.parametrize("block_bytes", [64, 960, 2 << 20, (2 << 20) + 8, 5 << 20])
def test_pinned_memory_is_asked_for_as_it_is_given_and_little_of_it_is_lost(block_bytes):
    """torch rounds it up to a power of two."""
    memory = PinnedBlocks(block_bytes, 1, pin=False)
    memory.take(1)
    chunk = memory._chunks[0]
    asked = chunk.untyped_storage().nbytes()
    assert asked.bit_count() == 1 and chunk.nbytes <= asked < chunk.nbytes * 8 / 7


class Copied:
    """Pages of a cache whose content is copied later."""

    def __init__(self, cache, most):
        self.side = Late()
        copies = BlockCopies(cache, most, self.side)
        self.read_blocks, self.write_blocks, self.block_bytes = copies.read, copies.write, copies._memory.block_bytes


def test_where_host_memory_is_full_of_what_is_brought_back_the_oldest_goes():
    cache = filled()
    expected, pages = cache.read(range(24)), Copied(cache, 4)
    tiers = Tiers(pages, host=HostTier(4))
    proofs = [bytes([i]) * 32 for i in range(9)]
    tiers.demote([Demoted(proofs[i], i, dead=False) for i in range(4)])
    found = [(proof, *tiers.find(proof, Reading(4))) for proof in proofs[:2]]
    tiers.demote([Demoted(proofs[i], i, dead=False) for i in (4, 5)])
    assert [proof in tiers for proof in proofs[2:6]] == [False, False, True, True] and not tiers.copies.failed
    tiers.demote([Demoted(proofs[i], i, dead=False) for i in (6, 7, 8)])
    assert not any(proof in tiers for proof in proofs) and tiers.copies.failed == 1, "half is lent"
    tiers.restore([10, 11], found)
    pages.side.steps.run()
    assert cache.read([10, 11]) == expected[:2]


class LateRunner(FakeRunner):
    """Its blocks' bytes are there when somebody waits."""

    copies_later = True

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.waits = 0

    def read_blocks(self, ids):
        return [LateBytes(content) for content in super().read_blocks(ids)]

    def write_blocks(self, ids, contents):
        super().write_blocks(ids, [c.content if isinstance(c, LateBytes) else c for c in contents])

    def wait_for_copies(self):
        self.waits += 1
        return 0.0


class LateBytes:
    def __init__(self, content):
        self.content, self.is_there = content, False

    def __len__(self):
        return len(self.content)

    def __bytes__(self):
        self.is_there = True
        return self.content


def late_engine(tmp_path=None, **sizes):
    engine = make_engine(num_blocks=20, **sizes)
    runner = engine.runner
    runner.__class__, runner.waits = LateRunner, 0
    disk = DiskTier(tmp_path, 1 << 20) if tmp_path else None
    engine.cache.tiers = engine.tiers = Tiers(runner, host=HostTier(64), disk=disk, clock=count().__next__)
    engine.tiers.measure([1, 2, 3, 4])
    return engine


def test_demotion_and_return_wait_for_no_copy():
    engine = late_engine()
    measured, times = engine.runner.waits, engine.tiers.times
    assert times.copy_out.seconds == times.copy_back.seconds == 0.0, "as the device says, and not the clock"
    answer(engine, "first", LONG, owner="s")
    flood(engine)
    device, host, _ = sources(answer(engine, "again", LONG, owner="s"))
    assert (device + host, engine.runner.waits) == (36, measured) and host > 0
    engine.tiers.times.copy_back.forgive()
    flood(engine, name="more")
    answer(engine, "third", LONG, owner="s")
    assert engine.runner.waits > measured, "what it takes is not known any more"


def with_chain(engine):
    """Three blocks that are to be saved."""
    hasher = BlockHasher([], 4)
    chain = [engine.pool.take_free() for _ in range(3)]
    for i, block in enumerate(chain):
        block.proof, block.heads = hasher.prove(hasher.proof, (i,) * 4), {"s"}
    engine.tiers.save("s", chain)
    return engine.tiers, chain


def test_what_is_saved_is_written_once_it_is_there(tmp_path):
    tiers, chain = with_chain(late_engine(tmp_path))
    tiers.work(idle=False)
    assert tiers.has_work and not any(block.proof in tiers.disk for block in chain)
    for *_, content in tiers._saving._copied:
        content.is_there = True
    tiers.forget([chain[1].proof])
    chain[2].heads = set()
    tiers.work(idle=False)
    assert not tiers.has_work
    assert [block.proof in tiers.disk for block in chain] == [True, False, False], "one is bad, one was deleted"
    tiers.close()


def test_while_some_are_written_others_are_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("chatpager.engine.saving.SAVED_BUSY", 1)
    tiers, chain = with_chain(late_engine(tmp_path))
    for saved in range(3):
        tiers.work(idle=False)
        assert [block.proof in tiers.disk for block in chain] == [i < saved for i in range(3)]
        assert [one[0] for one in tiers._saving._copied] == [chain[saved]]
        tiers._saving._copied[0][-1].is_there = True
    tiers.work(idle=False)
    assert not tiers.has_work and chain[2].proof in tiers.disk
    tiers.close()


def test_where_nothing_waits_for_a_step_it_is_waited_for(tmp_path):
    engine = late_engine(tmp_path)
    answer(engine, "first", LONG, owner="s")
    while engine.tiers.has_work:
        engine.tiers.work(idle=True)
    proofs = engine.leases.heads["s"].proofs
    assert proofs and all(proof in engine.tiers.disk for proof in proofs)
    engine.close()


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("kind", ["auto", "int8"])
def test_on_a_gpu_beside_steps_that_write_what_is_read(kind):
    device = torch.device("cuda")
    cache = filled(kind, device=device)
    on_host = KVCache(*([part.cpu() for part in parts] for parts in vars(cache).values()))
    expected, copies = on_host.read(range(24)), BlockCopies(cache, 24)
    numbers = torch.rand(4096, 4096, device=device)
    torch.cuda.synchronize()
    for _ in range(20):
        numbers @ numbers  # keeps the steps' stream busy
    torch.cuda.set_sync_debug_mode("error")
    try:
        blocks = copies.read(list(range(12)))
        for part in cache.words():
            part.zero_()
        copies.write([20, 21, 22, 3], [blocks[5], expected[13], blocks[11], blocks[0]])
        again = copies.read([20, 21, 22, 3, 4])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [bytes(b) for b in blocks] == expected[:12]
    assert [bytes(b) for b in again[:4]] == [expected[i] for i in (5, 13, 11, 0)]
    assert not any(bytes(again[4])) and copies._memory.rows(0).is_pinned()


@pytest.mark.parametrize(
    ("device", "layers"),
    [
        ("cpu", 1),
        pytest.param("cuda", 16, marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs one")]),
    ],
)
def test_pieces_that_take_turns_are_not_mixed_up(device, layers):
    """On a GPU 64 MiB each, whose copies take milliseconds: whatever does not wait for them comes before their end."""
    cache = KVCache.allocate(layers, 192, 16, 8, 128, torch.bfloat16, torch.device(device))
    for part in cache.words():
        part.copy_(torch.randint(-(2**60), 2**60, part.shape, device=device))
    expected = torch.cat([part.cpu() for part in cache.words()], dim=1).split(64)
    copies = BlockCopies(cache, 192, Late() if device == "cpu" else None)
    side, groups = copies._side, [range(0, 64), range(64, 128), range(128, 192)]
    copies._memory.take(192)  # from the system, which takes its time

    def overwrite(group):
        for part in cache.words():
            part[group.start : group.stop] = 7

    def are(blocks):
        copies.wait()
        return torch.cat([copies._memory.rows(block.slot) for block in blocks])

    blocks = []
    for group in groups:
        blocks.append(copies.read(group))
        side.launch(side.steps, partial(overwrite, group))
    assert all(map(torch.equal, map(are, blocks), expected))
    for group in groups:
        copies.write(group, blocks.pop())
    again = [copies.read(group) for group in groups]  # to where the others lay
    assert all(map(torch.equal, map(are, again), expected[::-1]))
    side.steps.record_event().synchronize()
    assert torch.equal(torch.cat([part.cpu() for part in cache.words()], dim=1), torch.cat(expected[::-1]))


def test_a_demoted_block_is_dropped_where_its_copy_failed():
    runner = LateRunner()
    runner.read_blocks = lambda ids: (_ for _ in ()).throw(RuntimeError("no memory to pin"))
    tiers = Tiers(runner, host=HostTier(4))
    tiers.demote([Demoted(b"x" * 32, 1, dead=False)])
    assert len(tiers.host) == 0 and tiers.copies.failed == 1
