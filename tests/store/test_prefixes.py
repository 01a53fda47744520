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
    assert await store.publish_prefix(stored) == stored
    assert await store.prefix("support") == stored
    other = prefix("sales", created_at=4)
    await store.publish_prefix(other)
    assert await store.prefixes() == [other, stored]


async def test_to_publish_the_same_again_changes_nothing(store):
    first = await store.publish_prefix(prefix())
    again = msgspec.structs.replace(first, created_at=9, model="renamed")
    assert await store.publish_prefix(again) == first
    assert await store.prefixes() == [first]


@pytest.mark.parametrize("other", [{"instructions": "Be short."}, {"vocab": "w", "token_ids": (7,)}])
async def test_a_label_has_one_prefix(store, other):
    first = await store.publish_prefix(prefix())
    with pytest.raises(PrefixExists, match="'support'"):
        await store.publish_prefix(prefix(**other))
    assert await store.prefixes() == [first]


async def test_what_is_withdrawn_is_gone(store):
    await store.publish_prefix(prefix())
    kept = await store.publish_prefix(prefix("sales"))
    await store.withdraw_prefix("support")
    assert await store.prefixes() == [kept]
    changed = prefix(instructions="Be short.")
    assert await store.publish_prefix(changed) == changed


@pytest.mark.parametrize("label", ["unknown", "a\0b", ""])
async def test_an_unknown_label(store, label):
    await store.publish_prefix(prefix())
    for operation in (store.prefix, store.withdraw_prefix):
        with pytest.raises(PrefixNotFound):
            await operation(label)
    assert len(await store.prefixes()) == 1
