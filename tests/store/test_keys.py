"""API keys: what is stored of them, who they are found by, and that a revoked one stays revoked."""

import hashlib

import msgspec
import pytest

from chatpager.errors import ConfigError, KeyNotFound, StoreError
from chatpager.store import digest_of, new_key


async def stored(store, tenant="ann", name="", role="user", now=1):
    made, key = new_key(tenant, name, role, now)
    await store.keys.create(made)
    return made, key


def test_a_key_is_random_and_its_row_does_not_hold_it():
    (row, key), (other, another) = (new_key("ann", "laptop", "user", 5) for _ in range(2))
    assert key.startswith("cp_") and len(key) == 3 + 43
    assert key != another and row.id != other.id
    assert row.digest == hashlib.sha256(key.encode()).digest() == digest_of(key)
    assert key.startswith(row.prefix) and len(row.prefix) == 8
    assert key not in repr(row)
    assert (row.tenant, row.name, row.role, row.created_at, row.revoked_at) == ("ann", "laptop", "user", 5, None)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        *(({"tenant": tenant}, "tenant") for tenant in ("", " ", "a b", "a\0b", "-a", "a" * 65, "ann\n", "änn", "a/b")),
        *(({"name": text}, "name") for text in ("a\nb", "\0", "a" * 101, "\x1b[31m")),
        *(({"role": role}, "role") for role in ("", "root", "Admin")),
    ],
)
def test_what_is_no_tenant_no_name_and_no_role(wrong, name):
    with pytest.raises(ConfigError) as refused:
        new_key(**{"tenant": "ann", "name": "", "role": "user", "now": 1, **wrong})
    assert refused.value.name == name


@pytest.mark.parametrize("tenant", ["a", "a" * 64, "Ann@home.example", "team-7_b.c+d:e"])
def test_what_may_be_a_tenant(tenant):
    assert new_key(tenant, "Ann's laptop, 你好", "admin", 1)[0].tenant == tenant


async def test_a_key_is_found_by_its_digest_and_by_nothing_else(store):
    assert not await store.keys.any_stored()
    made, key = await stored(store, role="admin", name="CI")
    await stored(store, "bob")
    assert await store.keys.any_stored()
    assert await store.keys.find(digest_of(key)) == made
    for other in (digest_of(key + "x"), digest_of(key.swapcase()), digest_of(""), b"", digest_of(key)[:-1]):
        assert await store.keys.find(other) is None


async def test_a_revoked_key_is_listed_and_stays_revoked(store):
    made, key = await stored(store, now=2)
    other, _ = await stored(store, "bob", now=1)
    revoked = await store.keys.revoke(made.id, now=7)
    assert revoked.revoked_at == 7
    assert (await store.keys.revoke(made.id, now=9)).revoked_at == 7
    assert await store.keys.every() == [other, revoked]
    assert await store.keys.find(digest_of(key)) == revoked
    assert await store.keys.any_stored()


@pytest.mark.parametrize("id", ["key_none", "", "key_\0"])
async def test_a_key_that_is_not_there_cannot_be_revoked(store, id):
    made, _ = await stored(store)
    with pytest.raises(KeyNotFound):
        await store.keys.revoke(id, now=7)
    assert await store.keys.every() == [made]


async def test_two_keys_never_have_one_digest(store):
    made, _ = await stored(store)
    with pytest.raises(StoreError, match="breaks its rules"):
        await store.keys.create(msgspec.structs.replace(made, id="key_2"))
    assert await store.keys.every() == [made]
