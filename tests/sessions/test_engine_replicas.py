"""Several engines behind one seam: where turns go, and that none is lost or told twice when one dies."""

import json

import msgspec
import pytest

from chatpager.engine.heads import Strength
from chatpager.engine.messages import (
    AttendRequest,
    CancelRequest,
    CloseTenant,
    DraftRequest,
    ForkSession,
    LeaseRequest,
    PublishPrefix,
    ReleaseLease,
    RewindSession,
    WithdrawPrefix,
)
from chatpager.engine.questions import (
    BlockWanted,
    CacheOf,
    ChangesTaken,
    EventsWanted,
    LargestSessions,
    LeasedWanted,
    LeaseWanted,
    PublishedWanted,
    Publishing,
    ResidencesWanted,
)
from chatpager.errors import EngineStopped, InvalidRequest, ModelLoadError, ReplicaNotFound
from chatpager.sessions.engine_host import Hearers
from chatpager.sessions.engine_replicas import EngineReplicas
from chatpager.sessions.engine_thread import EngineThread
from chatpager.sessions.heads import owner_of
from chatpager.sessions.placement import Candidates, Replica, session_key
from chatpager.sessions.replica_turns import MOST_MOVES, Part
from chatpager.sessions.restarts import Breaker
from tests.engine.fakes import continuation, request
from tests.serving_client import eventually
from tests.sessions.engine_program import build
from tests.sessions.test_engine_host import LONG, PROMPT, Steps

NAMES = ("r0", "r1")
ORDER = Candidates([Replica(name) for name in NAMES], 0.0)


def belongs(owner):
    """Where the pure function has it."""
    return ORDER.ids[ORDER.first(session_key(owner))]


def owners_at(name, count):
    return [owner for i in range(100) if belongs(owner := owner_of("t", f"s{i}")) == name][:count]


class House:
    """Two engines in threads, each of whose steps waits for a byte, and what they told as one."""

    def __init__(self, path, restarts):
        self.steps, made = {}, {}
        for name in NAMES:
            self.steps[name] = Steps(path / name)
            settings = json.dumps({"steps": str(path / name), "num_blocks": 60, "max_model_len": 120}).encode()
            made[name] = self.maker(settings, Breaker(restarts) if restarts else None)
        self.tokens, self.ended, self.told, self.leases = {}, {}, [], []
        self.deaths = self.restarts = 0
        hearers = Hearers(self._hear, self.leases.extend, self._die, self._restart)
        self.host = EngineReplicas(made, hearers, clock=lambda: 0.0)

    @staticmethod
    def maker(settings, breaker):
        return lambda hearers: EngineThread(lambda: build(settings), hearers, breaker)

    def _hear(self, outputs):
        for output in outputs:
            self.told.append(output)
            self.tokens.setdefault((output.request_id, output.index), []).extend(output.token_ids)
            if output.finish_reason:
                assert (output.request_id, output.index) not in self.ended
                self.ended[output.request_id, output.index] = output

    def _die(self):
        self.deaths += 1

    def _restart(self):
        self.restarts += 1

    def let(self, count=1000):
        for steps in self.steps.values():
            steps.let(count)

    def at(self, name):
        return self.host.engines[NAMES.index(name)]

    def die(self, name):
        """Of a mistake."""
        self.at(name).send(CancelRequest(["no name at all"]))
        self.steps[name].let()

    def running(self):
        return {one.id: one.answers for one in self.host.replicas()}

    async def end(self, name, index=0):
        await eventually(lambda: (name, index) in self.ended)
        return self.ended[name, index]

    async def answer(self, *args, **more):
        self.let()
        self.host.send(request(*args, **more))
        return await self.end(args[0], 0)


@pytest.fixture
async def house(tmp_path, request):
    made = House(tmp_path, getattr(request, "param", 0))
    await made.host.start()
    yield made
    made.let()
    await made.host.stop()
    assert not made.host.alive and made.deaths == 1
    for steps in made.steps.values():
        steps.close()


async def test_a_conversation_stays_where_its_blocks_are_and_so_does_its_fork(house):
    for name in NAMES:
        for owner in owners_at(name, 2):
            prompt = [sum(map(ord, owner)), *PROMPT]
            assert (await house.answer(owner, prompt, 3, owner=owner)).usage.cached_tokens == 0
            assert house.host.place_of(owner) == name
            assert (await house.at(name).ask(CacheOf(owner))).device_tokens == len(prompt) + 2
            grown = [*prompt, *house.tokens[owner, 0]]
            assert (await house.answer(owner + "+", grown, 3, owner=owner)).usage.cached_tokens >= len(prompt)
            fork = owner_of("t", next(f"f{i}" for i in range(100) if belongs(owner_of("t", f"f{i}")) != name))
            house.host.send(ForkSession(owner=owner, new_owner=fork))
            forked = await house.answer(owner + "f", [*grown, 7], 3, owner=fork)
            assert forked.usage.cached_tokens >= len(prompt) and house.host.place_of(fork) == name
            house.host.send(CloseTenant("another"))
            assert house.host.place_of(fork) == name
            house.host.send(CloseTenant("t"))
            assert await house.host.ask(CacheOf(owner)) is None and house.host.place_of(fork) != name


async def test_who_has_more_than_its_share_hands_on_and_who_is_drained_begins_nothing(house):
    first, second, third = owners_at("r0", 3)
    house.host.send(request("a", PROMPT, 9, owner=first))
    house.host.send(request("b", PROMPT, 9, owner=second))
    assert house.running() == {"r0": 1, "r1": 1}
    assert [one.work for one in house.host.replicas()] == [len(PROMPT) + 9] * 2
    house.let()
    assert (await house.end("a")) and (await house.end("b"))
    house.host.drain("r0")
    house.host.send(request("c", PROMPT, 9, owner=first))
    house.host.send(request("d", PROMPT, 9, owner=third))
    assert house.running() == {"r0": 0, "r1": 2}
    house.host.drain("r1")  # where all are drained, none is
    house.host.send(request("e", PROMPT, 9, owner=third))
    house.host.drain("r0", drains=False)
    house.host.drain("r1", drains=False)
    house.let()
    assert (await house.end("e")) and (await house.end("d")) and (await house.end("c"))
    assert not any(one.draining or one.answers or one.work for one in house.host.replicas())
    with pytest.raises(ReplicaNotFound, match="r0, r1"):
        house.host.drain("r9")


@pytest.mark.parametrize("house", [0, 1], indirect=True)
async def test_what_a_dead_replica_answered_goes_on_behind_what_was_told(house):
    """One that runs, one in its prompt, one that waits, and several answers of one request of which one has ended."""
    [owner] = owners_at("r0", 1)
    house.host.drain("r1")
    house.host.send(request("runs", PROMPT, 15, owner=owner))
    house.host.send(msgspec.structs.replace(request("several", [*PROMPT, 5], 20, n=3), more_owners=["x", "y"]))
    house.steps["r0"].let(5)
    await eventually(lambda: len(house.tokens.get(("several", 2), [])) >= 3)
    house.host.send(CancelRequest("several", 1))
    house.steps["r0"].let(2)
    assert (await house.end("several", 1)).finish_reason == "cancelled"
    house.host.send(request("prefills", LONG, 6))
    house.host.send(AttendRequest("prefills", is_read=False))
    house.steps["r0"].let(2)
    await eventually(lambda: [output for output in house.told if output.prefilled and output.request_id == "prefills"])
    house.host.send(request("waits", LONG[::-1], 6, n=2))
    house.host.drain("r1", drains=False)
    told = {name: len(tokens) for name, tokens in house.tokens.items()}
    house.die("r0")
    await eventually(lambda: house.host.replicas()[0].answers == 0)
    assert house.running()["r1"] == 1 + 2 + 1 + 2 and not house.deaths
    house.let()
    for index in (0, 2):
        assert (await house.end("several", index)).usage.output_tokens == 20
        # which sample an engine computes is told apart by index, of which a lone one has none
        assert (
            house.tokens["several", index][: told["several", index]]
            == continuation([*PROMPT, 5], 20, index=index)[: told["several", index]]
        )
        assert len(house.tokens["several", index]) == 20
    for name, prompt, count in (("runs", PROMPT, 15), ("prefills", LONG, 6), ("waits", LONG[::-1], 6)):
        assert (await house.end(name)).finish_reason == "length"
        assert house.tokens[name, 0] == continuation(prompt, count)
    assert house.tokens["waits", 1] == continuation(LONG[::-1], 6, index=1)
    progress = [output.prefilled[0] for output in house.told if output.prefilled and output.request_id == "prefills"]
    assert progress == sorted(progress)
    assert house.host.place_of(owner) == "r1"
    assert not house.host._moving.parts


async def test_what_was_cancelled_at_a_replica_that_dies_before_it_hears_of_it_is_cancelled(house):
    [owner] = owners_at("r0", 1)
    house.host.send(request("runs", PROMPT, 15, owner=owner))
    house.steps["r0"].let(3)
    await eventually(lambda: len(house.tokens.get(("runs", 0), [])) >= 2)
    house.at("r0").send(CancelRequest(["no name at all"]))  # which it dies of, and comes first
    house.host.send(CancelRequest("runs"))
    house.let()
    assert (await house.end("runs")).finish_reason == "cancelled"
    assert not house.host._moving.parts and await house.at("r1").ask(CacheOf(owner)) is None


@pytest.mark.parametrize("house", [3], indirect=True)
async def test_answers_of_one_request_that_move_twice_before_a_token_stay_apart(house):
    house.host.drain("r1")
    house.host.send(request("q", LONG, 6, n=3))
    house.host.send(CancelRequest("q", 0))
    house.steps["r0"].let(1)
    await house.end("q", 0)
    for restarts in (1, 2):
        parts = house.host._moving.parts
        assert sum(len(part.tokens) for part in parts.values()) == 2
        house.die(next(part.replica for part in parts.values() if part.replica))
        await eventually(lambda restarts=restarts: house.restarts == restarts)
    house.let()
    for index in (1, 2):
        assert (await house.end("q", index)).finish_reason == "length"
        assert house.tokens["q", index] == continuation(LONG, 6)


@pytest.mark.parametrize("house", [3], indirect=True)
async def test_one_answer_of_several_is_cancelled_while_all_wait_for_a_replica(house):
    house.host.drain("r1")
    house.host.send(request("q", LONG, 6, n=2))
    [part] = house.host._moving.parts.values()
    [moved] = part.moved()
    house.host._moving.parts.drop(part)
    house.host._moving.parts.put(moved)  # as where no replica was there to take it
    house.host.send(CancelRequest("q", 0))
    assert (await house.end("q", 0)).finish_reason == "cancelled"
    house.die("r0")
    house.let()
    assert (await house.end("q", 1)).finish_reason == "length"
    assert house.tokens["q", 1] == continuation(LONG, 6)
    assert not house.host._moving.parts


@pytest.mark.parametrize("house", [MOST_MOVES + 1], indirect=True)
async def test_what_replicas_die_of_ends_as_lost(house):
    house.host.send(request("poison", PROMPT, 9))
    for deaths in range(1, MOST_MOVES + 2):
        [name] = [one.id for one in house.host.replicas() if one.answers]
        house.die(name)
        await eventually(lambda deaths=deaths: house.host.restarts == deaths and house.restarts == deaths)
    ended = await house.end("poison")
    assert (ended.finish_reason, ended.error_code) == ("error", "engine_lost") and house.deaths == 0
    assert (await house.answer("next", PROMPT, 3)).finish_reason == "length"


async def test_what_waits_for_a_replica_can_be_cancelled_and_a_death_of_all_is_told(house):
    house.host.send(request("a", PROMPT, 9))
    waiting = Part.whole(request("w", PROMPT, 9, n=2))
    house.host._moving.parts.put(waiting)
    for index in (1, 0, 0):
        house.host.send(CancelRequest("w", index))
    assert [(await house.end("w", index)).finish_reason for index in (0, 1)] == ["cancelled"] * 2
    for name in NAMES:
        house.die(name)
    await eventually(lambda: house.deaths)
    with pytest.raises(EngineStopped, match="restart the server"):
        house.host.send(request("b", PROMPT))
    for ask in (CacheOf("s"), PublishedWanted()):
        with pytest.raises(EngineStopped):
            await house.host.ask(ask)
    with pytest.raises(EngineStopped):
        house.host.send(PublishPrefix(label="x", token_ids=[1, 2, 3, 4]))
    assert house.host.place_of("s") is None and ("a", 0) not in house.ended


async def test_a_published_prefix_is_everywhere_and_asked_for_where_it_was_computed(house):
    head = list(range(300, 312))
    await house.host.ask(Publishing(PublishPrefix(label="head", token_ids=head)))
    owners = [*owners_at("r0", 2), *owners_at("r1", 2)]
    found = [(await house.answer(owner, [*head, 1], 2, owner=owner)).usage for owner in owners]
    assert [usage.cached_tokens for usage in found] == [0, 12, 12, 12]
    assert {usage.published for usage in found} == {"head"}
    [published] = await house.host.ask(PublishedWanted())
    assert (published.sessions, published.device_tokens) == (4, 12)
    for name in NAMES:
        assert len(await house.at(name).ask(PublishedWanted())) == 1
    house.host.send(WithdrawPrefix("head"))
    assert await house.host.ask(PublishedWanted()) == []


@pytest.mark.parametrize("house", [1], indirect=True)
async def test_what_is_known_of_all_is_told_as_of_one(house):
    [one], [other] = owners_at("r0", 1), owners_at("r1", 1)
    house.host.send(PublishPrefix(label="head", token_ids=[900, 901, 902, 903]))
    await house.answer("a", PROMPT, 5, owner=one)
    await house.answer("b", LONG, 5, owner=other)
    stats, each = await house.host.stats(), await house.host.stats_of_each(30.0)
    assert (stats.memory.blocks, stats.memory.block_size, stats.queried_tokens) == (118, 4, len(PROMPT) + len(LONG))
    assert stats.between_tokens.count == 8 == sum(s.between_tokens.count for s in each.values())
    assert [owner for owner, _ in await house.host.ask(LargestSessions("", 5))] == [other, one]
    assert len(await house.host.ask(LargestSessions("", 1))) == 1
    for owner in (one, other):
        lease = LeaseRequest(owner=owner, strength=Strength.HARD, ttl=30.0)
        assert (await house.host.ask(LeaseWanted(lease))).tokens
    leased = await house.host.ask(LeasedWanted(5))
    assert (leased.hard, {found.owner for found in leased.sessions}) == (2, {one, other})
    found = await house.host.ask(ResidencesWanted([one, other, "nobody"]))
    assert {each.owner for each in found} == {one, other}
    changes = await house.host.ask(ChangesTaken(100))
    assert changes.total == 118
    behind = [block for block in changes.blocks if block[0] > 59]
    assert behind and all(parent == 0 or parent > 59 for _, _, parent in behind)
    for at, owner in ((behind[0][0], other), (changes.blocks[0][0], one)):
        facts = await house.host.ask(BlockWanted(at))
        assert facts.id == at and (owner in facts.sessions or not facts.sessions)
    assert await house.host.ask(BlockWanted(119)) is None
    with pytest.raises(InvalidRequest, match="replica"):
        await house.host.ask(EventsWanted(None, 10))
    assert (await house.host.ask_one("r1", EventsWanted(None, 10))).last
    house.host.send(DraftRequest(owner="\0w", prompt_token_ids=[*LONG, 3], session=other))
    house.host.send(DraftRequest(owner="\0w"))

    house.die("r1")
    await eventually(lambda: house.restarts == 1)
    again = await house.host.ask(ChangesTaken(100))
    assert again.epoch == changes.epoch
    now = {block: code for block, code, _ in again.blocks}
    assert {now[block] for block, _, _ in behind} == {0}
    assert len(await house.at("r1").ask(PublishedWanted())) == 1, "what is published is so in the next engine, too"


async def test_what_is_given_up_of_a_conversation_is_so_wherever_servers_had_it_computed(house):
    """Another may have placed it elsewhere."""
    [owner] = owners_at("r0", 1)
    house.let()
    for name in NAMES:
        house.at(name).send(request("r", LONG, 3, owner=owner))
        while await house.at(name).ask(CacheOf(owner)) is None:
            pass
        await house.at(name).ask(LeaseWanted(LeaseRequest(owner=owner, strength=Strength.HARD, ttl=30.0)))
    house.host.send(ReleaseLease(owner))
    house.host.send(RewindSession(owner=owner, tokens=8))
    for name in NAMES:
        cache = await house.at(name).ask(CacheOf(owner))
        assert (cache.tokens, cache.leases) == (8, []), name


async def test_figures_are_told_without_those_of_one_that_hangs(house):
    [hung], [other] = owners_at("r0", 1), owners_at("r1", 1)
    house.host.send(request("hangs", PROMPT, 9, owner=hung))
    await eventually(lambda: house.at("r0").step)
    house.steps["r1"].let(99)
    house.host.send(request("runs", PROMPT, 9, owner=other))
    await house.end("runs")
    assert list(await house.host.stats_of_each(30.0, behind=0.01)) == ["r1"]
    assert (await house.host.stats()).memory.blocks == 59
    house.steps["r0"].let(99)
    await house.end("hangs")
    assert list(await house.host.stats_of_each(30.0, behind=30.0)) == list(NAMES)
    house.die("r0")
    await eventually(lambda: not house.at("r0").alive)
    assert list(await house.host.stats_of_each(30.0)) == ["r1"]


async def test_where_one_does_not_start_none_runs(tmp_path):
    def broken():
        raise ModelLoadError("config.json", "it is empty")

    good = Steps(tmp_path / "good")
    settings = json.dumps({"steps": str(tmp_path / "good")}).encode()
    makers = {
        "r0": lambda hearers: EngineThread(lambda: build(settings), hearers),
        "r1": lambda hearers: EngineThread(broken, hearers),
    }
    host = EngineReplicas(makers, Hearers(lambda outputs: None))
    with pytest.raises(ModelLoadError):
        await host.start()
    assert not host.alive
    good.close()
