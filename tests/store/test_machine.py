"""The store against a model of it made of plain dictionaries, over random histories.

The model keeps whole lists of messages where the store keeps chains. After every step they agree on what every session
says, on the end of every turn, and on which messages exist at all: nothing that is needed is gone, and nothing that is
not needed is left.
"""

import asyncio
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from chatpager.errors import ConversationNotFound, ResponseNotFound, SessionBusy
from chatpager.store import Store, tables
from tests.store.making import begin, end, entry, user

Said = tuple[str, str, str]
"""Role, text, status."""
Chain = tuple[Said, ...]

words = st.sampled_from(["", "a", "b", "ab", "\0é你"])
_tenants = count()


@dataclass
class Live:
    session: str | None
    chain: Chain
    journal: str = ""


@dataclass
class Model:
    sessions: dict[str, Chain] = field(default_factory=dict)
    live: dict[str, Live] = field(default_factory=dict)
    ended: dict[str, tuple[str | None, Chain, Chain | None, str]] = field(default_factory=dict)
    """Turn -> session, input, answer's chain, status."""

    def needed(self):
        """Every message that a session or a turn stands on, as the chain that ends in it."""
        tips = [*self.sessions.values(), *(turn.chain for turn in self.live.values())]
        for _, asked, answered, _ in self.ended.values():
            tips += [asked, answered or ()]
        return {tip[: n + 1] for tip in tips for n in range(len(tip))}

    def busy(self, session):
        return any(turn.session == session for turn in self.live.values())

    def end(self, id, text, status):
        turn = self.live.pop(id)
        answered = None if text is None else (*turn.chain, ("assistant", text, status))
        self.ended[id] = (turn.session, turn.chain, answered, status)
        if turn.session is None:
            return "no_session"
        assert self.sessions[turn.session] == turn.chain, "nobody else moves the tip of a busy session"
        self.sessions[turn.session] = answered or turn.chain
        return "moved"


class StoreMachine(RuleBasedStateMachine):
    url = ""

    @initialize()
    def open(self):
        self.runner = asyncio.Runner()
        self.store = self.runner.run(Store.open(self.url, migrate=False))
        self.tenant, self.ids, self.now, self.model = f"tenant-{next(_tenants)}", count(), 0, Model()

    def teardown(self):
        if hasattr(self, "store"):
            self.runner.run(self.store.recover(self.now))
            self.runner.run(self.store.close())
            self.runner.close()

    def run(self, coroutine):
        return self.runner.run(coroutine)

    def later(self):
        self.now += 1
        return self.now

    def pick(self, data, options):
        return data.draw(st.sampled_from(sorted(options)))

    def tip_of(self, session):
        return self.run(self.store.session(self.tenant, session)).tip_hash

    @rule()
    def create(self):
        id = f"{self.tenant}-conv-{next(self.ids)}"
        self.run(self.store.create_session(self.tenant, id=id, now=self.later()))
        self.model.sessions[id] = ()

    @rule(data=st.data(), text=words)
    @precondition(lambda self: self.model.sessions)
    def append(self, data, text):
        id = self.pick(data, self.model.sessions)
        new = [user(text), user(text)]
        if self.model.busy(id):
            with pytest.raises(SessionBusy):
                self.run(self.store.append_messages(self.tenant, id, new, now=self.later()))
        else:
            self.run(self.store.append_messages(self.tenant, id, new, now=self.later()))
            self.model.sessions[id] += (("user", text, "completed"),) * 2

    @rule(data=st.data(), texts=st.lists(words, min_size=1, max_size=2), back=st.integers(0, 3), alone=st.booleans())
    def begin(self, data, texts, back, alone):
        """Begin a turn, ``back`` messages before the end of its session; or without a session, from nothing."""
        session = None if alone or not self.model.sessions else self.pick(data, self.model.sessions)
        id = f"{self.tenant}-resp-{next(self.ids)}"
        chain, at = (), {}
        if session is not None:
            tip, said = self.tip_of(session), self.model.sessions[session]
            hashes = [m.hash for m in self.run(self.store.load_chain(self.tenant, tip))]
            keep = max(0, len(said) - back)
            chain = said[:keep]
            at = {"session_id": session, "parent_hash": hashes[keep - 1] if keep else None, "expected_tip": tip}
        new = begin(id, *map(user, texts), tenant=self.tenant, now=self.later(), **at)
        if session is not None and self.model.busy(session):
            with pytest.raises(SessionBusy):
                self.run(self.store.begin_turn(new))
            return
        self.run(self.store.begin_turn(new))
        chain += tuple(("user", text, "completed") for text in texts)
        self.model.live[id] = Live(session, chain)
        if session is not None:
            self.model.sessions[session] = chain

    @rule(data=st.data())
    @precondition(lambda self: any(self.model.sessions.values()))
    def begin_from_elsewhere(self, data):
        """A caller whose idea of the session is out of date changes nothing."""
        session = self.pick(data, [id for id, chain in self.model.sessions.items() if chain])
        with pytest.raises(SessionBusy):
            self.run(self.store.begin_turn(begin("x", user("!"), tenant=self.tenant, session_id=session)))

    @rule(text=words)
    @precondition(lambda self: self.model.live)
    def journal(self, text):
        """One step of every live turn."""
        entries = [entry(id, len(turn.journal), text) for id, turn in self.model.live.items() if text]
        self.run(self.store.journal(entries))
        for turn in self.model.live.values():
            turn.journal += text

    @rule(data=st.data(), text=st.none() | words, status=st.sampled_from(["completed", "cancelled", "failed"]))
    @precondition(lambda self: self.model.live)
    def finish(self, data, text, status):
        id = self.pick(data, self.model.live)
        done = end(id, text, tenant=self.tenant, now=self.later(), status=status, response={"id": id})
        assert self.run(self.store.finish_turn(done)).tip == self.model.end(id, text, status)

    @rule(data=st.data(), back=st.integers(0, 3))
    @precondition(lambda self: self.model.sessions)
    def fork(self, data, back):
        id, new_id = self.pick(data, self.model.sessions), f"{self.tenant}-conv-{next(self.ids)}"
        said = self.model.sessions[id]
        hashes = [m.hash for m in self.run(self.store.load_chain(self.tenant, self.tip_of(id)))]
        keep = max(1, len(said) - back) if said else 0
        at = hashes[keep - 1] if keep else None
        self.run(self.store.fork_session(self.tenant, id, new_id=new_id, at=at, now=self.later()))
        self.model.sessions[new_id] = said[:keep]

    @rule(data=st.data())
    @precondition(lambda self: self.model.sessions)
    def delete_session(self, data):
        id = self.pick(data, self.model.sessions)
        before = self.model.needed()
        del self.model.sessions[id]
        self.model.ended = {turn: end for turn, end in self.model.ended.items() if end[0] != id}
        live = [turn for turn, state in self.model.live.items() if state.session == id]
        for turn in live:
            self.model.live[turn] = replace(self.model.live[turn], session=None)
        deleted = self.run(self.store.delete_session(self.tenant, id))
        assert sorted(deleted.live_turns) == sorted(live)
        assert deleted.messages == len(before - self.model.needed())
        with pytest.raises(ConversationNotFound):
            self.run(self.store.session(self.tenant, id))

    @rule(data=st.data())
    @precondition(lambda self: self.model.ended or self.model.live)
    def delete_turn(self, data):
        id = self.pick(data, [*self.model.ended, *self.model.live])
        before = self.model.needed()
        self.model.ended.pop(id, None)
        self.model.live.pop(id, None)
        assert self.run(self.store.delete_turn(self.tenant, id)) == len(before - self.model.needed())
        with pytest.raises(ResponseNotFound):
            self.run(self.store.response(self.tenant, id))

    @rule()
    def recover(self):
        self.recovered()

    def recovered(self):
        done = [d for d in self.run(self.store.recover(self.later())) if d.tenant == self.tenant]
        assert {d.turn_id: d.tokens for d in done} == {id: len(turn.journal) for id, turn in self.model.live.items()}
        for d in done:
            assert d.tip == self.model.end(d.turn_id, self.model.live[d.turn_id].journal or None, "interrupted")

    @rule()
    def reopen(self):
        """As a server is started again: what the one before left is not the new one's until it has been ended."""
        self.run(self.store.close())
        self.store = self.run(Store.open(self.url, migrate=False))
        self.recovered()

    def said(self, tip):
        return tuple(
            (m.role, m.content[0]["text"], m.status) for m in self.run(self.store.load_chain(self.tenant, tip))
        )

    @invariant()
    def sessions_say_what_they_should(self):
        rows, more = self.run(self.store.list_sessions(self.tenant, limit=1000))
        assert not more
        assert {row.id: self.said(row.tip_hash) for row in rows} == self.model.sessions
        for row in rows:
            assert row.tip_hash is None or self.run(self.store.verify(self.tenant, row.tip_hash)) == []

    @invariant()
    def turns_are_as_they_should_be(self):
        assert {turn.id for turn in self.run(self.store.active_turns(self.tenant))} == set(self.model.live)
        for id, state in self.model.live.items():
            assert self.run(self.store.journaled(self.tenant, id)).text == state.journal
        for id, (session, asked, answered, status) in self.model.ended.items():
            turn = self.run(self.store.turn(self.tenant, id))
            assert (turn.session_id, turn.status) == (session, status)
            assert self.said(turn.input_tip) == asked
            assert (self.said(turn.tip_hash) or None) == answered

    @invariant()
    def every_message_is_needed_and_every_needed_message_is_there(self):
        async def hashes():
            async with self.store._database.read() as c:
                query = select(tables.messages.c.hash).where(tables.messages.c.tenant == self.tenant)
                return (await c.execute(query)).scalars().all()

        stored = [self.said(hash) for hash in self.run(hashes())]
        assert len(stored) == len(set(stored)), "equal chains are the same rows"
        assert set(stored) == self.model.needed()


def explore(url, **limits):
    class Machine(StoreMachine):
        pass

    Machine.url = url
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(Machine, settings=settings(deadline=None, suppress_health_check=checks, **limits))


@pytest.mark.no_cover  # other tests cover the same
def test_random_histories_agree_with_the_model(url):
    explore(url, max_examples=12, stateful_step_count=25)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_histories_agree_with_the_model(url):
    explore(url, max_examples=300, stateful_step_count=50)
