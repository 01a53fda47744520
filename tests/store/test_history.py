"""History: minutes are replaced, old ones forgotten, and the rest found again."""


async def test_minutes_are_kept_replaced_and_forgotten(store):
    await store.history.keep({60: {"turns": 1}, 120: {"turns": 2}}, oldest=0)
    assert await store.history.since(0) == {60: {"turns": 1}, 120: {"turns": 2}}
    await store.history.keep({120: {"turns": 5, "prefill_seconds": 0.25}, 180: {"turns": 1}}, oldest=120)
    kept = {120: {"turns": 5, "prefill_seconds": 0.25}, 180: {"turns": 1}}
    assert await store.history.since(0) == kept
    assert list(await store.history.since(0)) == [120, 180]
    assert await store.history.since(121) == {180: {"turns": 1}}


async def test_nothing_to_keep_still_forgets(store):
    await store.history.keep({60: {"turns": 1}}, oldest=0)
    await store.history.keep({}, oldest=61)
    assert await store.history.since(0) == {}
