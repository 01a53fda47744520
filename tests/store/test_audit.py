"""The audit: what was done is there in its order, and nobody changes it, not even by a statement of one's own."""

import msgspec
import pytest
from sqlalchemy import text

from chatpager.errors import StoreError
from chatpager.store import AuditEntry, new_key


def entry(n, **fields):
    given = {"at": n, "key": "own", "tenant": "ann", "action": "conversation.deleted", "target": "c", "address": "::1"}
    return AuditEntry(**{**given, **fields})


async def test_pages_of_it_the_latest_first(store):
    entries = [entry(n, target=f"conv_{n}") for n in range(1, 6)]
    for each in entries:
        await store.audit.add(each)
    found, more = await store.audit.page(limit=2)
    assert [msgspec.structs.replace(one, number=0) for one in found] == entries[:2:-1] and more
    assert [one.number for one in found] == sorted((one.number for one in found), reverse=True)
    rest, more = await store.audit.page(limit=3, before=found[-1].number)
    assert [one.target for one in rest] == ["conv_3", "conv_2", "conv_1"] and not more
    assert await store.audit.page(limit=3, before=rest[-1].number) == ([], False)


async def test_a_key_is_made_and_ended_together_with_its_entry(store):
    made, _ = new_key("ann", "laptop", "admin", 5)
    await store.keys.create(made)
    for now in (7, 9):
        await store.keys.revoke(made.id, now=now)
    found, _ = await store.audit.page(limit=9)
    assert [(one.at, one.key, one.tenant, one.action, one.target) for one in found] == [
        (7, "operator", "ann", "key.revoked", made.id), (5, "operator", "ann", "key.created", made.id),
    ]  # fmt: skip
    with pytest.raises(StoreError):
        await store.keys.create(msgspec.structs.replace(made, id="key_2"))
    assert len((await store.audit.page(limit=9))[0]) == 2


CHANGES = ["UPDATE audit SET key = 'nobody'", "DELETE FROM audit", "DELETE FROM audit WHERE at = 1", "TRUNCATE audit"]
"""SQLite does not know the last one."""


@pytest.mark.parametrize("change", CHANGES)
async def test_no_statement_changes_it(store, change):
    await store.audit.add(entry(1))
    with pytest.raises(StoreError):
        async with store._database.write("test") as c:
            await c.execute(text(change))
    assert len((await store.audit.page(limit=9))[0]) == 1
