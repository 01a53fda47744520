"""One engine that several servers have: nobody hears what another asked for."""

import threading

import pytest

from chatpager.engine.heads import Strength
from chatpager.engine.messages import CancelRequest, CloseSession, DraftRequest, LeaseRequest, PublishPrefix
from chatpager.engine.questions import CacheOf, ChangesTaken, LeaseWanted, Publishing
from chatpager.engine.servant import Servant, Stepped
from chatpager.sessions.engine_frames import Asking, Erasing, Refusal, Reply, Unframed, answer_of, packed, up
from chatpager.sessions.engine_fronts import Fronts
from tests.engine.fakes import continuation, make_engine, request
from tests.gate import DEADLINE

PROMPT = tuple(range(1, 12))


class Front:
    def __init__(self, fronts, name):
        self.fronts, self.name = fronts, name
        self.ready, self.unframed, self.told = threading.Semaphore(0), Unframed(), []
        fronts.open(name)

    def send(self, message):
        for body in Unframed().feed(packed(message)):
            self.fronts.put(self.name, body)

    def until(self, kind, count=1):
        while len(found := [one for one in self.told if isinstance(one, kind)]) < count:
            assert self.ready.acquire(timeout=DEADLINE)
            self.told += map(up, self.unframed.feed(self.fronts.take(self.name) or b""))
        return found

    def outputs(self, name):
        """Until its end."""
        while True:
            found = [o for step in self.told if isinstance(step, Stepped) for o in step.outputs if o.request_id == name]
            if found and found[-1].finish_reason:
                return found
            self.until(Stepped, len([one for one in self.told if isinstance(one, Stepped)]) + 1)


@pytest.fixture
def house():
    engine, made = make_engine(num_blocks=60, max_tokens=64), {}
    fronts = Fronts(lambda name: made[name].ready.release())
    for name in ("a", "b"):
        made[name] = Front(fronts, name)
    thread = threading.Thread(target=Servant(engine, fronts, fronts.tell).serve, daemon=True)
    thread.start()
    yield engine, fronts, made["a"], made["b"]
    fronts.end()
    thread.join()


def test_each_hears_its_own_and_both_what_becomes_of_leases(house):
    engine, _, a, b = house
    a.send(request("same", PROMPT, 4, owner="s"))
    b.send(request("same", PROMPT[::-1], 6))
    for front, prompt, count in ((a, PROMPT, 4), (b, PROMPT[::-1], 6)):
        told = front.outputs("same")
        assert [token for output in told for token in output.token_ids] == continuation(prompt, count)
    for front in (a, b):
        front.send(Asking(7, CacheOf("s")))
        [reply] = front.until(Reply)
        assert reply.number == 7 and answer_of(CacheOf("s"), reply.answer).tokens == len(PROMPT) + 3
    a.send(Asking(20, ChangesTaken(1000)))
    b.send(Asking(20, ChangesTaken(1000)))
    told = [answer_of(ChangesTaken(1), front.until(Reply, 2)[1].answer).blocks for front in (a, b)]
    assert told[0] == told[1] and len(told[0]) == engine.pool.usable
    b.send(Asking(8, Publishing(PublishPrefix(label="part of a block", token_ids=[1]))))
    assert b.until(Refusal)[0].number == 8
    a.send(Asking(9, LeaseWanted(LeaseRequest(owner="s", strength=Strength.HARD, ttl=30.0))))
    a.until(Reply, 3)
    for front in (a, b):
        while not any(step.leases for step in front.until(Stepped)):
            assert front.ready.acquire(timeout=DEADLINE)
            front.told += map(up, front.unframed.feed(front.fronts.take(front.name) or b""))
    a.send(Erasing(10, CloseSession("s")))
    a.send(Asking(11, CacheOf("s")))
    assert [reply.number for reply in a.until(Reply, 5)] == [7, 20, 9, 10, 11]
    assert not engine.computes


def test_what_one_asked_for_ends_when_it_has_gone_and_others_go_on(house):
    engine, fronts, a, b = house
    a.send(request("long", PROMPT, 50, n=2))
    b.send(request("short", PROMPT, 30))
    a.until(Stepped)
    fronts.close("a")
    while fronts.take("a") is not None:
        assert a.ready.acquire(timeout=DEADLINE)
    assert len(b.outputs("short")) == 30
    b.send(CancelRequest("short"))
    b.send(Asking(1, CacheOf("s")))
    b.until(Reply)
    assert not engine.computes and not fronts._running.get("a")
    fronts.forget("a")
    a.send(request("late", PROMPT, 3))
    b.send(Asking(2, CacheOf("s")))
    b.until(Reply, 2)
    assert fronts.take("a") is None


def test_what_one_was_writing_is_let_go_when_it_has_gone(house):
    engine, fronts, a, b = house
    for front, prompt in ((a, PROMPT), (b, PROMPT[::-1])):
        front.send(DraftRequest(owner="\0w", prompt_token_ids=[*prompt]))
    a.send(DraftRequest(owner="\0sent", prompt_token_ids=[*PROMPT, 7]))
    a.send(DraftRequest(owner="\0sent"))
    b.send(request("r", PROMPT, 3))
    b.outputs("r")
    fronts.close("a")
    b.send(Asking(1, CacheOf("s")))
    b.until(Reply)
    assert len({*engine.drafts._kept, *engine.drafts._waiting}) == 1 and not fronts._drafts.get("a")
