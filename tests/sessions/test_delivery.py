"""What waits to be told for too long is told in fewer events, and says the same."""

import asyncio
import itertools
from math import inf

import structlog
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.tool_calls import CallDelta, CallEnd, Thought
from chatpager.sessions.answers import CallBegun, Delta, answer_of, joined
from chatpager.sessions.delivery import AT_A_TIME, News
from chatpager.sessions.logprobs import Logprob
from chatpager.sessions.stream import Prefilled
from tests.serving_client import eventually
from tests.sessions.conftest import TENANT

WORDS = "one two three four five six seven eight nine ten"
TEXTS = st.text(min_size=1, max_size=3)
LOGPROBS = st.builds(Logprob, token=TEXTS, bytes=st.just([1]), logprob=st.just(-1.0), top_logprobs=st.just([]))
TEXT = st.builds(Delta, text=TEXTS, logprobs=st.lists(LOGPROBS, max_size=2).map(tuple)).map(lambda delta: [delta])
THOUGHT = st.builds(Thought, TEXTS).map(lambda thought: [thought])
CALL = st.builds(
    lambda name, pieces: [CallBegun("call_1", name), *map(CallDelta, pieces), CallEnd()],
    TEXTS,
    st.lists(TEXTS, max_size=3),
)
STEPS = st.lists(
    st.lists(st.one_of(TEXT, THOUGHT, CALL), max_size=3).map(lambda said: [one for part in said for one in part]),
    max_size=8,
)


def added(steps, *, merges):
    news = News(None, 1.0, [], None)
    for step in steps:
        news.add(step, None, merges=merges)
    return news.events


def logprobs_of(events):
    return [logprob for event in events if isinstance(event, Delta) for logprob in event.logprobs]


@given(STEPS)
def test_what_is_merged_says_the_same_in_as_few_events_as_can_be(steps):
    plain, merged = added(steps, merges=False), added(steps, merges=True)
    assert plain == [said for step in steps for said in step]
    assert answer_of(merged) == answer_of(plain)
    assert logprobs_of(merged) == logprobs_of(plain)
    assert all(joined(*two) is None for two in itertools.pairwise(merged))


def test_how_far_a_prompt_is_is_merged_with_nothing():
    news = News(None, 1.0, [Prefilled(1, 2, 0)], None)
    news.add([Delta("a"), Delta("b")], None, merges=True)
    assert news.events == [Prefilled(1, 2, 0), Delta("ab")]


async def behind(r, journalled, count=1):
    """Events of so many turns, the journal of which waits at its second entry until the engine is through."""
    written, calls = r.hub.store.journal, []

    async def journal(entries):
        calls.append(entries)
        if len(calls) > 1:
            await journalled.wait()
        return await written(entries)

    r.hub.store.journal = journal
    gate = r.hold()
    turns = [await r.hub.submit(r.request(f"a{i}")) for i in range(count)]
    stepped = []
    receive = r.hub._delivery.receive
    r.hub._delivery.receive = lambda outputs, at=0.0: (stepped.extend(outputs), receive(outputs, at))
    gate.open()
    await eventually(lambda: sum(output.finish_reason is not None for output in stepped) == count)
    journalled.set()
    return turns, [[event async for event in turn.stream.follow()] for turn in turns], calls


async def test_while_the_journal_waits_tokens_gather_and_all_readers_get_one_delta(rig):
    async with rig(lambda prompt: WORDS, merge_after=0.0) as r:
        (turn,), (events,), calls = await behind(r, asyncio.Event())
        deltas = [event.text for event in events if isinstance(event, Delta)]
        assert len(deltas) <= 3 < len(turn.token_ids)
        assert "".join(deltas) == WORDS == events[-1].text
        assert len(calls) <= 3, "one entry for all of them"
        assert [event async for event in turn.stream.follow()] == events, "whoever comes later has the same ones"
        stored = await r.hub.store.turn(TENANT, turn.id)
        assert stored.status == "completed"


async def test_who_is_not_behind_for_long_gets_every_token_by_itself(rig):
    async with rig(lambda prompt: WORDS, merge_after=inf) as r:
        (turn,), (events,), _ = await behind(r, asyncio.Event())
        deltas = [event.text for event in events if isinstance(event, Delta)]
        assert len(deltas) == len(turn.answer_ids()) and "".join(deltas) == WORDS


async def test_more_turns_than_are_served_in_one_go(rig, monkeypatch):
    monkeypatch.setattr("chatpager.sessions.delivery.AT_A_TIME", 3)
    assert AT_A_TIME > 3
    async with rig(lambda prompt: WORDS, merge_after=0.0) as r:
        _, logs, _ = await behind(r, asyncio.Event(), count=8)
        assert ["".join(e.text for e in events if isinstance(e, Delta)) for events in logs] == [WORDS] * 8


async def test_an_end_that_is_stored_ahead_of_tokens_is_no_refusal_of_the_journals(rig):
    """SQLite's writers are no queue: who asks may join a transaction that waits already."""
    async with rig(lambda prompt: WORDS) as r:
        written = r.hub.store.journal

        async def journal(entries):
            r.hub._delivery.end(turn, status="cancelled")
            await turn.stream.end()
            return await written(entries)

        gate = r.hold()
        turn = await r.hub.submit(r.request("a"))
        r.hub.store.journal = journal
        with structlog.testing.capture_logs() as said:
            gate.open()
            assert (await turn.stream.end()).status == "cancelled"
            r.hub.store.journal = written
            await r.ask("b")
        assert not [line for line in said if line["event"] == "journal.refused"]
