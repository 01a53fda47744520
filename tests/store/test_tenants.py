"""Another tenant's id is an unknown id: the same error, the same words, nothing changed, in every operation."""

import asyncio
import inspect

import pytest
from msgspec import structs

from chatpager.errors import InvalidRequest, KeyNotFound, NotFound, TenantPaused
from chatpager.store import Limits, Store, new_key, sessions
from tests.store.making import begin, conversation, count, end, entry, user

UNKNOWN = {"session": "conv_0", "turn": "resp_0", "tip": "b2:0"}

OPERATIONS = {
    "session": lambda s, x: s.session("ann", x["session"]),
    "conversation": lambda s, x: s.conversation("ann", x["session"]),
    "update_session": lambda s, x: s.update_session("ann", x["session"], title="mine", metadata={"a": 1}),
    "delete_session": lambda s, x: s.delete_session("ann", x["session"]),
    "fork_session": lambda s, x: s.fork_session("ann", x["session"], new_id="conv_new", now=9),
    "append_messages": lambda s, x: s.append_messages("ann", x["session"], [user("!")], now=9),
    "load_chain": lambda s, x: s.load_chain("ann", x["tip"]),
    "verify": lambda s, x: s.verify("ann", x["tip"]),
    "begin_turn": lambda s, x: s.begin_turn(begin("resp_n", user("!"), session_id=x["session"], parent_hash=x["tip"])),
    "begin_turn behind": lambda s, x: s.begin_turn(begin("resp_n", user("!"), parent_hash=x["tip"])),
    "begin_turn after": lambda s, x: s.begin_turn(begin("resp_n", user("!"), previous_turn_id=x["turn"])),
    "begin_turns": lambda s, x: s.begin_turns(
        [
            begin("resp_m", user("!")),
            begin("resp_n", user("!"), session_id=x["session"], parent_hash=x["tip"]),
        ]
    ),
    "rewind_session": lambda s, x: s.rewind_session("ann", x["session"], to=x["tip"]),
    "compact_session": lambda s, x: s.compact_session("ann", x["session"], expected=None, new=[user("mine")], now=9),
    "journaled": lambda s, x: s.journaled("ann", x["turn"]),
    "turn": lambda s, x: s.turn("ann", x["turn"]),
    "turns_of": lambda s, x: s.turns_of("ann", x["session"]),
    "response": lambda s, x: s.response("ann", x["turn"]),
    "delete_turn": lambda s, x: s.delete_turn("ann", x["turn"]),
}
ELSEWHERE = {
    "create_session",
    "list_sessions",
    "match_content",
    "has_message",
    "turn_of_answer",
    "responses",
    "turn_of_key",
    "active_turns",
    "finish_turn",
}
"""Operations of a tenant that fail for no id; the tests below and beside this file show what they do."""
OF_THE_SERVER = {
    "open", "claim", "close", "journal", "recover", "unknown", "alone", "taken", "gone", "probe", "keep_reserve",
}  # fmt: skip


def test_no_operation_is_left_out():
    public = {name for name, _ in inspect.getmembers(Store, inspect.isroutine) if not name.startswith("_")}
    assert {name.split()[0] for name in OPERATIONS} | ELSEWHERE | OF_THE_SERVER == public


async def of_bob(store):
    """A conversation with a live turn, and all its names."""
    hashes = await conversation(store, "conv_b", "hi", "hello", tenant="bob")
    live = begin("resp_b", user("how?"), session_id="conv_b", parent_hash=hashes[-1], tenant="bob", client_key="k")
    await store.begin_turn(live)
    await store.journal([entry("resp_b", 0, "so")])
    return {"session": "conv_b", "turn": "resp_b", "tip": hashes[-1]}


async def everything(store):
    sessions, _ = await store.list_sessions("bob", limit=9)
    return (
        await count(store), sessions, await store.turns_of("bob", "conv_b"), await store.journaled("bob", "resp_b")
    )  # fmt: skip


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o not in ("load_chain", "verify", "begin_turn behind")])
async def test_an_id_with_a_nul_is_an_unknown_id(store, operation):
    await of_bob(store)
    with pytest.raises(NotFound):
        await OPERATIONS[operation](store, {"session": "conv_\0", "turn": "resp_\0", "tip": None})


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_another_tenants_id_is_an_unknown_id(store, operation):
    theirs = await of_bob(store)
    before = await everything(store)
    with pytest.raises(NotFound) as unknown:
        await OPERATIONS[operation](store, UNKNOWN)
    with pytest.raises(NotFound) as foreign:
        await OPERATIONS[operation](store, theirs)
    assert type(foreign.value) is type(unknown.value)
    said = str(foreign.value)
    for kind, id in theirs.items():
        said = said.replace(id, UNKNOWN[kind])
    assert said == str(unknown.value)
    assert await everything(store) == before


async def test_what_a_tenant_finds_is_its_own(store):
    await of_bob(store)
    assert await store.list_sessions("ann", limit=9) == ([], False)
    for tenant, found in (("ann", 0), ("bob", 1)):
        assert len((await store.list_sessions(tenant, limit=9, search="how"))[0]) == found
    assert await store.turn_of_key("ann", "k") is None and (await store.turn_of_key("bob", "k")).id == "resp_b"
    assert await store.match_content("ann", [user("hi")]) == []
    tip = (await store.session("bob", "conv_b")).tip_hash
    assert await store.has_message("bob", tip) and not await store.has_message("ann", tip)
    assert not await store.has_message("bob", None)
    assert (await store.turn_of_answer("bob", tip)) is None, "the tip is a question"
    answer = (await store.load_chain("bob", tip))[-2].hash
    assert (await store.turn_of_answer("bob", answer)).id == "resp_conv_b_0"
    assert await store.turn_of_answer("ann", answer) is None
    assert await store.active_turns("ann") == []


async def test_what_is_erased_of_a_tenant_is_its_own(store):
    await of_bob(store)
    for tenant in ("ann", "bob"):
        for n in range(2):
            await store.begin_turn(begin(f"resp_{tenant}_{n}", user("hi"), tenant=tenant))
            await store.keys.create(new_key(tenant, "", "user", 1)[0])
    await store.finish_turn(end("resp_ann_0", "hello"))
    assert set(await store.tenants.turns_alone("ann", 9)) == {"resp_ann_0", "resp_ann_1"}
    assert len(await store.tenants.turns_alone("ann", 1)) == 1 and await store.tenants.turns_alone("eve", 9) == []
    assert [await store.tenants.revoke_keys(tenant, now=7) for tenant in ("eve", "ann", "ann")] == [0, 2, 0]
    assert {key.tenant for key in await store.keys.every() if key.revoked_at is None} == {"bob"}
    assert [(row.tenant, row.conversations, row.keys) for row in await store.tenants.every()] == [("bob", 1, 2)]


async def test_what_two_servers_store_of_a_tenant_at_once_is_one_of_both(store, url, open_store):
    """Of its limits, and of the figures of a minute."""
    other = await open_store(url, migrate=False)
    for n in range(10):
        rows = [Limits(kind="tenant", name=f"ann{n}", weight=weight) for weight in (1, 2)]
        await asyncio.gather(*(at.tenants.limit(row) for at, row in zip((store, other), rows, strict=True)))
        assert (await store.tenants.limits())[n] in rows
        await asyncio.gather(*(at.history.keep({n: {"at": id(at)}}, oldest=0) for at in (store, other)))
        assert (await store.history.since(n))[n]["at"] in (id(store), id(other))


async def test_a_paused_tenant_gets_no_conversation_whatever_was_on_its_way(store, url, open_store):
    """What began before is there once the pause is."""
    await conversation(store, "conv_a", "hi", "hello")
    other = await open_store(url, migrate=False)
    async with store._database.write("test", "ann") as c:
        pausing = asyncio.ensure_future(other.tenants.limit(Limits(kind="tenant", name="ann", paused_at=1)))
        done, _ = await asyncio.wait([pausing], timeout=0.2)
        assert not done
        await sessions.create(c, structs.replace(await sessions.get(c, "ann", "conv_a"), id="conv_b"))
    await pausing
    with pytest.raises(TenantPaused):
        await store.create_session("ann", id="conv_c", now=1)
    with pytest.raises(TenantPaused):
        await store.fork_session("ann", "conv_a", new_id="conv_c", now=1)
    assert len((await store.list_sessions("ann", limit=9))[0]) == 2
    await store.create_session("bob", id="conv_c", now=1)


async def test_what_limits_a_key_goes_with_it(store):
    key, other = (new_key("ann", "", "user", 1)[0] for _ in range(2))
    for made in (key, other):
        await store.keys.create(made)
        await store.tenants.limit(Limits(kind="key", name=made.id, tokens_per_minute=5))
    await store.keys.revoke(key.id, now=7)
    assert [row.name for row in await store.tenants.limits()] == [other.id]
    with pytest.raises(KeyNotFound):
        await store.tenants.limit(Limits(kind="key", name=key.id, tokens_per_minute=5))


async def test_another_tenants_turn_cannot_be_ended(store):
    theirs = await of_bob(store)
    before = await everything(store)
    assert (await store.finish_turn(end(theirs["turn"], "mine"))).tip == "turn_gone"
    assert await everything(store) == before


async def test_a_fork_cannot_reach_into_another_tenants_messages(store):
    theirs = await of_bob(store)
    await conversation(store, "conv_a", "hi", "hello")
    with pytest.raises(InvalidRequest):
        await store.fork_session("ann", "conv_a", new_id="conv_n", at=theirs["tip"], now=9)
