"""Published prefixes: stored once under a label, and gone when they are withdrawn."""

import msgspec
import pytest

from chatpager.errors import PrefixExists, PrefixNotFound
from chatpager.store import Prefix


def prefix(label="support", **fields):
    given = {"instructions": "Be kind.", "model": "m", "vocab": "v", "token_ids": (1, 2, 70_000), "created_at": 5}
    return Prefix(label=label, **{**given, **fields})


async def test_it_is_found_as_it_was_stored(store):
    stored = prefix(instructions="Be\0kind. \N{SNOWMAN}")
    assert await store.prefixes.publish(stored) == stored
    assert await store.prefixes.get("support") == stored
    other = prefix("sales", created_at=4)
    await store.prefixes.publish(other)
    assert await store.prefixes.every() == [other, stored]


async def test_to_publish_the_same_again_changes_nothing(store):
    first = await store.prefixes.publish(prefix())
    again = msgspec.structs.replace(first, created_at=9, model="renamed")
    assert await store.prefixes.publish(again) == first
    assert await store.prefixes.every() == [first]


@pytest.mark.parametrize("other", [{"instructions": "Be short."}, {"vocab": "w", "token_ids": (7,)}])
async def test_a_label_has_one_prefix(store, other):
    first = await store.prefixes.publish(prefix())
    with pytest.raises(PrefixExists, match="'support'"):
        await store.prefixes.publish(prefix(**other))
    assert await store.prefixes.every() == [first]


async def test_what_is_withdrawn_is_gone(store):
    await store.prefixes.publish(prefix())
    kept = await store.prefixes.publish(prefix("sales"))
    await store.prefixes.withdraw("support")
    assert await store.prefixes.every() == [kept]
    changed = prefix(instructions="Be short.")
    assert await store.prefixes.publish(changed) == changed


@pytest.mark.parametrize("label", ["unknown", "a\0b", ""])
async def test_an_unknown_label(store, label):
    await store.prefixes.publish(prefix())
    for operation in (store.prefixes.get, store.prefixes.withdraw):
        with pytest.raises(PrefixNotFound):
            await operation(label)
    assert len(await store.prefixes.every()) == 1
