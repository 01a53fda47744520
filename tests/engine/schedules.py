"""One random run of conversations through one engine, with everything on or off that may change where a block is.

Drawn from a seed: whether steps overlap, block size, step size, pool (also so small that sequences are preempted and
swapped), prefix cache, host memory and its size, disk and its size, what leases may keep, arrivals, samples; and on the
way leases of both strengths, forks of a session, turns that begin further back, prefixes that are published and
withdrawn, prompts that are expected, requests that are given up, and crashes after which another engine opens the same
folder.
"""

import random
from collections import Counter
from dataclasses import dataclass, field

from chatpager.config import EngineConfig
from chatpager.engine.block_files import HEADER
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.engine import Engine
from chatpager.engine.heads import Strength
from chatpager.engine.host_tier import HostTier
from chatpager.engine.messages import AddRequest, LeaseRequest, PublishPrefix
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Limits
from chatpager.engine.sequence import SamplingParams
from chatpager.engine.tiers import Tiers
from tests.engine.models import VOCAB, Case
from tests.engine.tiering import crash

GREEDY = {"temperature": 0.0, "ignore_eos": True}


@dataclass
class Talk:
    """A session: the turns that are still to come, and the one that runs."""

    owner: str
    salt: bytes
    turns: list[Case]
    otherwise: Case | None = None
    """Another second turn, for a fork or after going back."""
    past: list[Case] = field(default_factory=list)
    live: str | None = None


class Schedule:
    """``sessions`` are turns with their right answers, ``otherwise`` another second turn of each. What is on disk is in
    ``folder``; ``settings`` are the engine's that are not drawn."""

    def __init__(self, model, sessions, otherwise, seed, folder, **settings):
        self.seed, self.rng = seed, random.Random(seed)
        rng = self.rng
        self.happened = Counter()
        cases = [*otherwise, *(session[-1] for session in sessions)]
        self.config, self.limits = self._draw(model, cases, settings)
        self.runner = ModelRunner(self.config)
        self.host_blocks = rng.choice([0, 0, 4, 60])
        self.disk_blocks = rng.choice([0, 0, 4, 1000])
        self.folder = folder
        self.greedy_leases = rng.random() < 0.3
        self.now = 0.0
        self.talks = [
            Talk(f"s{i}", rng.choice([b"", b"t"]), list(session), other)
            for i, (session, other) in enumerate(zip(sessions, otherwise, strict=True))
        ]
        self.requests, self.answers, self.expected = {}, {}, {}
        self._open()

    def _draw(self, model, cases, settings):
        rng = self.rng
        block_size = rng.choice([8, 8, 8, 16, 32])
        longest = max(len(case.whole) for case in cases)
        one = -(-longest // block_size)
        blocks = one + 2 + rng.choice([0, 0, one // 2, one, 10 * one])
        step = rng.choice([1, 3, *[8, 17, 64, 512] * 4])
        config = EngineConfig(
            model=str(model),
            dtype="float32",
            device="cpu",
            block_size=block_size,
            max_model_len=longest,
            num_kv_blocks=blocks + 1,
            max_num_batched_tokens=step,
            max_num_seqs=min(step, rng.choice([2, 4, 16])),
            enable_prefix_caching=rng.random() < 0.85,
            lease_share=rng.choice([0.0, 0.5, 1.0]),
            swap_space=0,
            overlap="on" if self.seed % 2 else "off",
            **settings,
        )
        return config, Limits(step, config.max_num_seqs, long_prefill_threshold=rng.choice([20, 4096]))

    def _open(self):
        self.disk = tiers = None
        if self.config.enable_prefix_caching:
            host = HostTier(self.host_blocks) if self.host_blocks else None
            if self.disk_blocks:
                self.disk = DiskTier(self.folder, self.disk_blocks * (HEADER.size + self.runner.block_bytes))
            tiers = Tiers(self.runner, host=host, disk=self.disk, clock=lambda: 0.0)
        self.engine = Engine(self.config, self.runner, limits=self.limits, tiers=tiers)
        if self.greedy_leases:
            self.engine.leases.budget = self.engine.pool.usable  # so that progress needs them to give way

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self):
        while self.engine.has_work or any(talk.turns or talk.live for talk in self.talks):
            self.now += 1.0
            assert self.now < 5000, "the engine does not come to rest"
            for talk in self.talks:
                if talk.turns and not talk.live and self.rng.random() < 0.5:
                    self._ask(talk)
            self._disturb()
            self._step()
            for talk in self.talks:
                if talk.live and len(self.answers[talk.live]) == len(self.expected[talk.live]):
                    talk.live = None
        assert self.answers == self.expected
        assert self.engine.pool.counts()["active"] == 0
        self._count()
        self.engine.close()
        return self.happened

    def _disturb(self):
        for chance, event in (
            (0.1, self._ask_and_cancel),
            (0.4, self._lease),
            (0.05, self._release),
            (0.3, self._expect),
            (0.1, self._fork),
            (0.1, self._go_back),
            (0.1, self._publish_or_withdraw),
            (0.02, self._crash),
        ):
            if self.rng.random() < chance:
                event(self.rng.choice(self.talks))

    def _step(self):
        for output in self.engine.step(lambda: self.now):
            assert output.error_code is None, output.error_message
            if not output.request_id.startswith("junk"):
                self.answers[f"{output.request_id}/{output.index}"] += output.token_ids
        for event in self.engine.leases.take_events():
            self.happened[f"{event.strength} {event.change}"] += 1
        self.engine.audit()

    def _count(self):
        """Before the engine goes."""
        stats = self.engine.stats()
        self.happened["preempted"] += stats.preemptions
        self.happened["from the device"] += stats.hit_tokens - stats.host_hit_tokens - stats.disk_hit_tokens
        self.happened["from host memory"] += stats.host_hit_tokens
        self.happened["from disk"] += stats.disk_hit_tokens

    # -- what happens -------------------------------------------------------------------------------------------------

    def _ask(self, talk):
        """The next turn; of its answer only the beginning may be wanted."""
        case = talk.turns.pop(0)
        name = f"{talk.owner}t{len(talk.past)}"
        talk.past.append(case)
        n = 2 if self.rng.random() < 0.15 and self.limits.max_num_seqs > 1 else 1
        count = self.rng.choice([3, 5, len(case.answer)])
        self.requests[name] = AddRequest(
            request_id=name,
            prompt_token_ids=list(case.prompt),
            params=SamplingParams(max_tokens=count, n=n, **GREEDY),
            owner=talk.owner,
            salt=talk.salt,
            priority=self.rng.choice([0, 0, 1]),
        )
        for i in range(n):
            self.expected[f"{name}/{i}"], self.answers[f"{name}/{i}"] = list(case.answer[:count]), []
        self.happened["samples"] += n - 1
        self.engine.add(self.requests[name], self.now)
        talk.live = f"{name}/{n - 1}"

    def _ask_and_cancel(self, talk):
        """Somebody else's request, half the time with a prefix of ours, given up after a few steps."""
        own = self.rng.choice([*talk.past, *talk.turns] or [talk.otherwise]).prompt
        prompt = [*own[: self.rng.randrange(len(own))], *(self.rng.randrange(2, VOCAB) for _ in range(3))]
        name = f"junk{self.now}"
        params = SamplingParams(max_tokens=5, seed=1)
        self.engine.add(AddRequest(request_id=name, prompt_token_ids=prompt, params=params, salt=talk.salt), self.now)
        for _ in range(self.rng.randrange(4)):
            self._step()
        self.engine.cancel(name)

    def _lease(self, talk):
        strength, ttl = self.rng.choice(list(Strength)), self.rng.uniform(1, 60)
        tokens = self.rng.choice([None, None, self.rng.randint(1, 60)])
        self.engine.lease(LeaseRequest(owner=talk.owner, strength=strength, ttl=ttl, tokens=tokens), self.now)

    def _release(self, talk):
        self.engine.leases.release(talk.owner)

    def _expect(self, talk):
        """The next turn is on its way."""
        if talk.turns:
            params = SamplingParams(max_tokens=1, **GREEDY)
            prompt = list(talk.turns[0].prompt)
            soon = AddRequest(
                request_id="soon", prompt_token_ids=prompt, params=params, owner=talk.owner, salt=talk.salt
            )
            self.happened["brought back early"] += self.engine.prefetch(soon, self.now)

    def _fork(self, talk):
        """Another session goes on otherwise after the first turn."""
        if talk.past and talk.otherwise:
            child = Talk(f"{talk.owner}'", talk.salt, [talk.otherwise])
            talk.otherwise = None
            self.talks.append(child)
            self.engine.sessions.fork(talk.owner, child.owner, len(talk.past[0].whole))
            self.happened["forked"] += 1

    def _go_back(self, talk):
        """The same session goes on otherwise after its first turn."""
        if talk.past and talk.otherwise:
            talk.turns.insert(0, talk.otherwise)
            talk.otherwise = None
            self.happened["rewound"] += len(talk.past) > 1

    def _publish_or_withdraw(self, talk):
        """The beginning of a session is everybody's, or is no more."""
        label = f"label{self.rng.randrange(3)}"
        if talk.past and not self.engine.sessions.withdraw(label):
            prompt, size = talk.past[0].prompt, self.config.block_size
            if blocks := self.rng.randrange(len(prompt) // size + 1):
                self.engine.publish(PublishPrefix(label=label, token_ids=list(prompt[: blocks * size])))
                self.happened["published"] += 1

    def _crash(self, _):
        """What waited to be written is lost; who was being answered asks again."""
        if self.disk is None:
            return
        self._count()
        crash(self.disk)
        self._open()
        self.happened["crashed"] += 1
        self._expect(self.rng.choice(self.talks))
        for talk in self.talks:
            if talk.live:
                name, _, last = talk.live.rpartition("/")
                for i in range(int(last) + 1):
                    self.answers[f"{name}/{i}"] = []
                self.engine.add(self.requests[name], self.now)
