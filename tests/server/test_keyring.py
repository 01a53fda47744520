"""Who a key makes its bearer, for how long that is believed, and when no key is asked for."""

import asyncio

import pytest

from chatpager.errors import InvalidAPIKey, StoreError
from chatpager.server import keyring
from chatpager.server.keyring import ANYBODY, CACHE_SECONDS, NO_KEY, OWNER, Caller, Keyring
from chatpager.store import Store, digest_of, new_key


@pytest.fixture
async def store(empty_database, tmp_path):
    file = tmp_path / "keys.db"
    file.write_bytes(empty_database.read_bytes())
    opened = await Store.open(f"sqlite+aiosqlite:///{file}", migrate=False)
    yield opened
    await opened.close()


@pytest.fixture
def ring(store):
    def make(own=None, *, keyless=True):
        made = Keyring(own, store, keyless=keyless, clock=lambda: made.now, wall=lambda: round(made.now * 1000))
        made.now = 100.0
        return made

    return make


async def key_of(store, tenant="ann", role="user"):
    made, key = new_key(tenant, "", role, 1)
    await store.keys.create(made)
    return made.id, digest_of(key)


async def nobody(ring, digest):
    with pytest.raises(InvalidAPIKey):
        await ring.caller(digest)


async def test_a_stored_key_is_its_tenants_and_has_its_role(store, ring):
    (_, ann), (_, bob) = await key_of(store), await key_of(store, "bob", "admin")
    for held in (ring(), ring("secret"), ring(keyless=False)):
        assert await held.caller(ann) == Caller("ann", "user")
        assert await held.caller(bob) == Caller("bob", "admin")
        await nobody(held, digest_of("cp_x"))
        await nobody(held, NO_KEY)
        assert not await held.open()


async def test_the_servers_own_key_is_an_admins_of_the_default_tenant(store, ring):
    assert await ring("secret").caller(digest_of("secret")) == OWNER == Caller("default", "admin")
    await nobody(ring("secret"), digest_of("secret2"))
    await nobody(ring("secret"), NO_KEY)
    await nobody(ring(keyless=False), digest_of("secret"))


async def test_without_any_key_only_a_server_that_may_be_open_is(ring):
    assert await ring().caller(NO_KEY) == await ring().caller(digest_of("-")) == OWNER
    assert await ring().open()
    for closed in (ring("secret"), ring(keyless=False)):
        assert not await closed.open()
        await nobody(closed, NO_KEY)


async def test_the_first_key_closes_an_open_server_within_seconds_and_its_revocation_does_not_open_it(store, ring):
    held = ring()
    assert await held.caller(NO_KEY) == OWNER
    id, digest = await key_of(store)
    held.now += CACHE_SECONDS
    await nobody(held, NO_KEY)
    assert await held.caller(digest) == Caller("ann", "user")
    await store.keys.revoke(id, now=2)
    held.now += CACHE_SECONDS
    for given in (NO_KEY, digest, digest_of("-")):
        await nobody(held, given)
        await nobody(ring(), given)


async def test_a_revoked_key_is_believed_for_no_longer_than_it_was_looked_up_for(store, ring):
    (id, digest), (_, other) = await key_of(store), await key_of(store, "bob")
    held = ring()
    await held.caller(digest)
    await store.keys.revoke(id, now=2)
    held.now += CACHE_SECONDS - 0.01
    assert await held.caller(digest) == Caller("ann", "user")
    held.now += 0.01
    await nobody(held, digest)
    held.now -= 1
    await nobody(held, digest)
    assert await held.caller(other) == Caller("bob", "user")


async def test_a_key_opens_nothing_from_its_end_on(store, ring):
    made, key = new_key("ann", "", "user", 1, expires_at=110_000)
    await store.keys.create(made)
    held, late, digest = ring(), ring(), digest_of(key)
    held.now, late.now = 109.999, 110.0
    assert await held.caller(digest) == Caller("ann", "user")
    await nobody(late, digest)
    held.now += CACHE_SECONDS
    await nobody(held, digest)


async def test_a_caller_says_by_which_key_it_came(store, ring):
    id, digest = await key_of(store)
    assert (await ring().caller(digest)).key == id
    assert (await ring("secret").caller(digest_of("secret"))).key == OWNER.key == "own"
    await store.keys.revoke(id, now=2)
    assert ANYBODY == OWNER and ANYBODY.key == "none"


async def test_what_was_looked_up_is_not_looked_up_again_at_once_and_what_is_nobodys_not_remembered(store, ring):
    _, digest = await key_of(store)
    held = ring()
    await held.caller(digest)
    early = digest_of("cp_early")
    await nobody(held, early)
    await store.close()
    assert await held.caller(digest) == Caller("ann", "user")
    with pytest.raises(StoreError):
        await held.caller(early)
    held.now += CACHE_SECONDS
    with pytest.raises(StoreError):
        await held.caller(digest)


async def test_of_keys_that_are_many_the_ones_looked_up_first_are_forgotten(store, ring, monkeypatch):
    monkeypatch.setattr(keyring, "MAX_CACHED", 2)
    digests = [(await key_of(store, f"t{i}"))[1] for i in range(3)]
    held = ring()
    await asyncio.gather(*(held.caller(digest) for digest in digests))
    for digest in digests:
        await held.caller(digest)
    assert len(held._cached) == 2


async def test_of_many_who_come_at_once_to_an_open_server_one_asks_the_store(store, ring):
    held = ring()
    for _ in range(2):
        asked = store.transactions["read"]
        assert set(await asyncio.gather(*(held.caller(NO_KEY) for _ in range(50)))) == {OWNER}
        assert store.transactions["read"] == asked + 1
        held.now += CACHE_SECONDS
