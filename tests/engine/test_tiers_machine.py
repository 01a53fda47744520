"""A state machine over both lower tiers: turns, floods, crashes, restarts, deletions, files flipped, cut and lost.

Whatever comes back from host memory or disk is checked slot by slot by the fake runner, and every answer by the oracle.
"""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.messages import PublishPrefix
from tests.engine.fakes import answer, continuation, make_engine, request, step

STEPS = int(os.environ.get("CHATPAGER_MACHINE_STEPS", "30"))
EXAMPLES = int(os.environ.get("CHATPAGER_MACHINE_EXAMPLES", "25"))
FLIPS = int(os.environ.get("CHATPAGER_FLIPS", "300"))

owners = st.sampled_from("stuv")


class TiersMachine(RuleBasedStateMachine):
    @initialize(
        blocks=st.integers(18, 40),
        host=st.sampled_from([0, 4, 40]),
        bits=st.sampled_from([128, 8]),
        kept=st.integers(8, 200),
    )
    def start(self, blocks, host, bits, kept):
        self.folder = Path(tempfile.mkdtemp())
        self.sizes = {"num_blocks": blocks, "host_blocks": host, "hash_bits": bits}
        self.capacity = kept * 110
        self.histories = {}
        self.count = 0
        self.published = False
        self.open()

    def open(self):
        self.disk = DiskTier(self.folder / "kv", self.capacity)
        self.engine = make_engine(disk=self.disk, **self.sizes)
        if self.published:
            self.publish()

    @rule(owner=owners, tail=st.lists(st.integers(0, 5), min_size=1, max_size=9), salt=st.sampled_from([b"", b"t"]))
    def turn(self, owner, tail, salt):
        prompt = [*self.histories.get(owner, range(10)), *tail]
        if len(prompt) > 50:
            prompt = tail
        self.count += 1
        final = answer(self.engine, f"r{self.count}", prompt, 3, owner=owner, salt=salt)
        usage = final.usage
        assert usage.cached_tokens + usage.computed_tokens == usage.prompt_tokens
        assert usage.host_tokens + usage.disk_tokens <= usage.cached_tokens < len(prompt)
        self.histories[owner] = [*prompt, *continuation(prompt, 3)]

    @rule(owner=owners, new=owners, tokens=st.none() | st.integers(-1, 50))
    def fork(self, owner, new, tokens):
        if owner in self.histories and new not in self.histories:
            self.engine.sessions.fork(owner, new, tokens)
            self.histories[new] = self.histories[owner][: None if tokens is None else max(0, tokens)] or list(range(10))

    @rule(owner=owners, tokens=st.integers(-1, 50))
    def rewind(self, owner, tokens):
        self.engine.sessions.rewind(owner, tokens)
        if owner in self.histories:
            self.histories[owner] = self.histories[owner][: max(0, tokens)] or list(range(10))

    @rule(owner=owners, tail=st.lists(st.integers(0, 5), min_size=8, max_size=20))
    def turn_that_a_crash_cuts_off(self, owner, tail):
        self.count += 1
        self.engine.add(request(f"r{self.count}", tail, 5, owner=owner), 0.0)
        step(self.engine, 3)
        self.restart()

    @rule(owner=owners, tail=st.lists(st.integers(0, 5), max_size=3))
    def expect(self, owner, tail):
        self.count += 1
        prompt = [*self.histories.get(owner, range(10)), *tail][:50]
        self.engine.prefetch(request(f"r{self.count}", prompt, 1, owner=owner), 0.0)

    @rule()
    def publish(self):
        """What every conversation begins with."""
        self.published = True
        self.engine.publish(PublishPrefix(label="all", token_ids=list(range(8))))

    @rule()
    def withdraw(self):
        self.published = False
        self.engine.sessions.withdraw("all")

    @rule(owner=owners)
    def delete(self, owner):
        self.engine.sessions.close(owner)
        self.histories.pop(owner, None)

    @rule(seed=st.integers(0, 999), damage=st.sampled_from(["flip", "cut", "lose", "swap"]))
    def damage(self, seed, damage):
        self.disk.flush()
        files = [f for f in sorted(self.folder.glob("kv/*/*")) if f.stat().st_size]
        if not files:
            return
        rng = random.Random(seed)
        file = rng.choice(files)
        raw = file.read_bytes()
        if damage == "lose":
            file.unlink()
        else:
            made = {
                "flip": flipped(raw, rng),
                "cut": raw[: rng.randrange(len(raw))],
                "swap": rng.choice(files).read_bytes(),
            }
            file.write_bytes(made[damage])

    @rule()
    def lose_the_folder(self):
        self.disk.flush()
        shutil.rmtree(self.folder / "kv", ignore_errors=True)

    @rule()
    def restart(self):
        self.engine.close()
        self.open()

    @rule()
    def reset(self):
        self.engine.cache.reset()

    def teardown(self):
        if not hasattr(self, "folder"):
            return
        for owner in "stuv":
            self.engine.sessions.close(owner)
        self.engine.sessions.withdraw("all")
        self.engine.cache.reset()
        self.engine.close()
        assert self.engine.pool.counts()["free"] == self.engine.pool.usable
        assert self.disk.used == len(self.disk) == 0
        shutil.rmtree(self.folder)


TiersMachine.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestTiers = pytest.mark.no_cover(TiersMachine.TestCase)  # other tests cover the same


def flipped(raw, rng):
    """``raw`` with one bit changed."""
    changed = bytearray(raw)
    bit = rng.randrange(8 * len(raw))
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_flipped_bits_never_make_an_answer_wrong(tmp_path):
    """Each round flips bits in files of a stopped server, and every session goes on on the next; the fake runner checks
    every slot. ``CHATPAGER_FLIPS=10000`` for the whole of it."""
    rng, flips, bad = random.Random(5), 0, 0
    histories = {f"s{i}": [i, *range(20)] for i in range(6)}
    rounds = 0
    while flips < FLIPS:
        rounds += 1
        disk = DiskTier(tmp_path / "kv", 1 << 20)
        engine = make_engine(num_blocks=40, disk=disk)
        for owner, history in histories.items():
            prompt = [*history[-40:], rounds % 900]
            answer(engine, f"{owner}/{rounds}", prompt, 2, owner=owner)
            histories[owner] = [*prompt, *continuation(prompt, 2)]
        engine.close()
        bad += disk.bad_files
        for file in rng.sample(files := sorted((tmp_path / "kv").glob("*/*.kv")), min(10, len(files))):
            file.write_bytes(flipped(file.read_bytes(), rng))
            flips += 1
    assert bad > 0
