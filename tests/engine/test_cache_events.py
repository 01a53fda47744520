"""Who follows the events knows what is cached; who missed some is told."""

from chatpager.engine.cache_events import CacheEvents
from tests.engine.fakes import answer, make_engine


def follow(known, events):
    for event in events:
        if event.type == "block.stored":
            assert event.block not in known, "stored twice"
            assert event.parent is None or event.parent in known, "stored before its parent"
            known[event.block] = event.parent
        else:
            assert event.block not in known.values(), "removed before its children"
            del known[event.block]


def test_who_follows_knows_what_is_cached():
    engine = make_engine(num_blocks=24)
    known, number = {}, 0
    for i in range(30):
        answer(engine, f"r{i}", [i % 7, *range(i % 5 * 10, i % 5 * 10 + 20)], owner=f"s{i % 3}")
        if i == 20:
            engine.cache.reset()
        while number < engine.pool.events.last:
            events, missed = engine.cache_events(number, 5)
            assert (missed, len(events)) == (0, min(5, engine.pool.events.last - number))
            assert [event.number for event in events] == list(range(number + 1, number + 1 + len(events)))
            follow(known, events)
            number = events[-1].number
        assert known.keys() == full(engine)
    assert engine.cache.stats.evicted_blocks.total() > 0


def full(engine):
    """Names of the blocks that a router can know of."""
    return {name for name, block in engine.pool.index.items() if not block.is_tail}


def test_who_comes_late_begins_with_what_there_is():
    engine = make_engine()
    answer(engine, "first", range(20))
    snapshot, missed = engine.cache_events(None, 1)
    last = engine.pool.events.last
    known = {}
    follow(known, snapshot)
    assert (known.keys(), missed) == (full(engine), 0)
    assert {event.number for event in snapshot} == {last}
    answer(engine, "second", range(100, 120))
    follow(known, engine.cache_events(last, 1000)[0])
    assert known.keys() == full(engine)


def test_what_is_not_kept_any_more_is_counted():
    events = CacheEvents(kept=3)
    for i in range(5):
        events.stored(bytes([i]), None)
    assert ([e.number for e in events.since(0, 9)[0]], events.since(0, 9)[1]) == ([3, 4, 5], 2)
    assert ([e.number for e in events.since(2, 1)[0]], events.since(2, 1)[1]) == ([3], 0)
    assert events.since(5, 9) == ([], 0)
    assert events.since(99, 9) == ([], 99)
    assert CacheEvents().since(0, 9) == ([], 0)
