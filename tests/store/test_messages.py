import threading
import time

import pytest
from msgspec import structs
from sqlalchemy import text, update

from chatpager.errors import NotFound, StoreError
from chatpager.store import NewMessage, chain, messages, tables, text_content
from tests.store.making import answer, begin, conversation, end, user


async def said(store, tip, tenant="ann"):
    return [message.content[0]["text"] for message in await store.load_chain(tenant, tip)]


async def rows(store):
    async with store._database.read() as c:
        return (await c.execute(text("SELECT count(*) FROM messages"))).scalar()


def test_sqlites_one_row_has_every_column_in_order():
    names = ["token_ids" if name == "hex_ids" else name for name in messages._Row.__struct_fields__]
    assert names == [column.name for column in tables.messages.columns]


async def test_a_chain_comes_root_first_as_it_was_stored(store):
    system = NewMessage(role="system", content=[{"type": "text", "text": "be\0 kind 你"}, {"type": "image", "n": 1.5}])
    begun = await store.begin_turn(begin("resp_1", system, user("hi"), now=7))
    first, second = await store.load_chain("ann", begun.messages[-1])
    assert (first.role, first.content, first.token_ids, first.vocab) == ("system", system.content, None, None)
    assert (second.role, second.token_ids, second.vocab) == ("user", (104, 105), "tokenizer-1")
    assert (first.parent_hash, second.parent_hash) == (None, first.hash)
    assert (first.hash, second.hash) == begun.messages
    assert {(m.tenant, m.status, m.created_at) for m in (first, second)} == {("ann", "completed", 7)}


async def test_no_tip_is_an_empty_chain(store):
    assert await store.load_chain("ann", None) == []


async def test_an_unknown_tip_and_another_tenants_are_the_same(store):
    (tip, _) = await conversation(store, "conv_1", "hi", "hello", tenant="bob")
    with pytest.raises(NotFound) as foreign:
        await store.load_chain("ann", tip)
    with pytest.raises(NotFound) as unknown:
        await store.load_chain("ann", "b2:0")
    assert str(foreign.value).replace(tip, "b2:0") == str(unknown.value)


async def test_a_conversation_of_thousands_of_messages_is_quick(store):
    many = [user(f"message {n}") for n in range(5000)]
    await store.create_session("ann", id="conv_1", now=1)
    hashes = await store.append_messages("ann", "conv_1", many, now=2)
    began = time.perf_counter()
    assert [m.hash for m in await store.load_chain("ann", hashes[-1])] == list(hashes)
    assert await store.verify("ann", hashes[-1]) == []
    assert len(await store.match_content("ann", [*many, user("new")])) == 5000
    await store.fork_session("ann", "conv_1", new_id="conv_2", at=hashes[2499], now=3)
    assert (await store.delete_session("ann", "conv_1")).messages == 2500
    assert (await store.delete_session("ann", "conv_2")).messages == 2500
    assert time.perf_counter() - began < 60, "seconds, where half a second is usual"


async def test_very_many_messages_are_hashed_and_read_beside_the_event_loop(store, monkeypatch):
    in_loop = set()

    def noted(work):
        def done(*given, **named):
            in_loop.add((work.__name__, threading.current_thread() is threading.main_thread()))
            return work(*given, **named)

        return done

    monkeypatch.setattr(chain, "name", noted(chain.name))
    monkeypatch.setattr(chain, "content_name", noted(chain.content_name))
    monkeypatch.setattr(messages, "_record", noted(messages._record))
    await store.create_session("ann", id="conv_1", now=1)
    many = [user(f"message {n}") for n in range(2 * messages.MANY + 1)]
    hashes = await store.append_messages("ann", "conv_1", many, now=2)
    assert [message.hash for message in await store.load_chain("ann", hashes[-1])] == [*hashes]
    assert len(await store.match_content("ann", many)) == len(many)
    assert in_loop == {("name", False), ("content_name", False), ("_record", False)}


async def test_turns_that_begin_with_the_same_messages_have_them_stored_once(store, monkeypatch):
    canonical, made = chain.canonical, []
    monkeypatch.setattr(chain, "canonical", lambda content: (made.append(content), canonical(content))[1])
    first = begin("resp_1", user("hi"), user("there"))
    begun = await store.begin_turns([first, structs.replace(first, id="resp_2"), begin("resp_3", user("hi"))])
    assert begun[0].messages == begun[1].messages and begun[1].turn.input_tip == begun[1].messages[-1]
    assert begun[2].messages == begun[0].messages[:1]
    assert len(made) == 3


async def test_a_shared_beginning_is_the_same_rows(store):
    await conversation(store, "conv_1", "hi", "hello", "how are you?", "fine")
    before = await rows(store)
    await conversation(store, "conv_2", "hi", "hello", "who are you?", "a server")
    assert await rows(store) == before + 2


async def test_tenants_share_no_row(store):
    one = await conversation(store, "conv_1", "hi", "hello", tenant="ann")
    two = await conversation(store, "conv_2", "hi", "hello", tenant="bob")
    assert not set(one) & set(two)


# -- what a stateless client sends


async def test_words_find_the_longest_stored_chain(store):
    hashes = await conversation(store, "conv_1", "hi", "hello", "how are you?", "fine")
    sent = [user("hi"), NewMessage(role="assistant", content=text_content("hello"))]
    assert [m.hash for m in await store.match_content("ann", sent)] == hashes[:2]
    longer = [*sent, user("how are you?"), answer("fine"), user("really?")]
    assert [m.hash for m in await store.match_content("ann", longer)] == hashes


async def test_words_that_differ_early_match_up_to_there(store):
    hashes = await conversation(store, "conv_1", "hi", "hello", "how are you?", "fine")
    sent = [user("hi"), answer("HELLO"), user("how are you?"), answer("fine")]
    assert [m.hash for m in await store.match_content("ann", sent)] == hashes[:1]
    assert await store.match_content("ann", [answer("hi")]) == [], "the role counts"
    assert await store.match_content("ann", []) == []


async def test_words_of_another_tenant_match_nothing(store):
    await conversation(store, "conv_1", "hi", "hello", tenant="bob")
    assert await store.match_content("ann", [user("hi"), answer("hello")]) == []


async def test_of_several_chains_the_one_with_the_newest_end_is_taken_whole(store):
    """Two answers with the same words and other ids: the match is one chain, never ids of both."""
    await store.begin_turn(begin("resp_1", user("hi"), now=1))
    older = await store.finish_turn(end("resp_1", "hello", now=5))
    plain = NewMessage(role="user", content=text_content("hi"), vocab="tokenizer-2", token_ids=[9])
    await store.begin_turn(begin("resp_2", plain, now=2))
    newer = await store.finish_turn(end("resp_2", "hello", now=6))
    assert newer.tip_hash != older.tip_hash
    found = await store.match_content("ann", [user("hi"), answer("hello"), user("next")])
    assert [m.token_ids for m in found] == [(9,), tuple(b"hello")]
    assert found[-1].hash == newer.tip_hash
    assert found[-1].parent_hash == found[0].hash


async def test_a_longer_chain_is_better_than_a_newer_one(store):
    hashes = await conversation(store, "conv_1", "hi", "hello", now=1)
    await store.begin_turn(
        begin("resp_9", NewMessage(role="user", content=text_content("hi"), vocab="w", token_ids=[1]), now=99)
    )
    assert [m.hash for m in await store.match_content("ann", [user("hi"), answer("hello")])] == hashes


@pytest.mark.parametrize("stored", [1, 99, 100, 101, 250])
async def test_the_match_is_found_wherever_the_stored_part_ends(store, stored):
    many = [user(f"message {n}") for n in range(250)]
    begun = await store.begin_turn(begin("resp_1", *many[:stored]))
    assert [m.hash for m in await store.match_content("ann", many)] == list(begun.messages)


# -- verification


@pytest.mark.parametrize(
    "altered",
    [
        {"role": "system"},
        {"content": '[{"text":"hi!","type":"text"}]'},
        {"token_ids": b"\1\0\0\0"},
        {"vocab": "other"},
        {"status": "failed"},
        {"content_hash": "b2:0"},
        {"tenant": "ann "},
        {"parent_hash": None},
    ],
    ids=lambda altered: next(iter(altered)),
)
async def test_verify_names_a_row_that_was_altered(store, altered):
    hashes = await conversation(store, "conv_1", "hi", "hello", "hi", "bye")
    assert await store.verify("ann", hashes[-1]) == []
    async with store._database.write("test") as c:
        await c.execute(update(tables.messages).where(tables.messages.c.hash == hashes[2]).values(altered))
    wrong = await store.verify("ann", hashes[-1])
    assert hashes[2] in wrong
    assert not set(wrong) & set(hashes[:2])


async def test_a_row_that_cannot_be_read_is_the_databases_fault(store):
    (tip, _) = await conversation(store, "conv_1", "hi", "hello")
    async with store._database.write("test") as c:
        await c.execute(update(tables.messages).values(content="[{"))
    with pytest.raises(StoreError, match="holds a row that cannot be read"):
        await store.load_chain("ann", tip)


async def test_token_ids_without_their_vocab_are_a_callers_bug(store):
    with pytest.raises(AssertionError, match="vocab"):
        await store.begin_turn(begin("resp_1", NewMessage(role="user", content=text_content("hi"), token_ids=[1])))
    assert await rows(store) == 0
