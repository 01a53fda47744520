"""Short ways to say messages and turns."""

from sqlalchemy import func, select

from chatpager.store import FinishedTurn, JournalEntry, NewMessage, NewTurn, tables, text_content

VOCAB = "tokenizer-1"


def user(text, **fields):
    """A message whose token ids are its characters'."""
    return NewMessage(role="user", content=text_content(text), vocab=VOCAB, token_ids=[ord(c) for c in text], **fields)


def answer(text, **fields):
    ids = [ord(c) for c in text]
    return NewMessage(role="assistant", content=text_content(text), vocab=VOCAB, token_ids=ids, **fields)


def begin(id, *messages, now=10, tenant="ann", **fields):
    return NewTurn(
        id=id, tenant=tenant, kind="response", model="m", vocab=VOCAB, messages=messages, now=now, **fields
    )  # fmt: skip


def end(id, text=None, now=20, tenant="ann", status="completed", **fields):
    message = None if text is None else answer(text, status=status)
    return FinishedTurn(id=id, tenant=tenant, status=status, message=message, now=now, **fields)


def entry(turn_id, first_index, text):
    return JournalEntry(turn_id=turn_id, first_index=first_index, token_ids=[ord(c) for c in text], text=text)


async def conversation(store, id, *texts, tenant="ann", now=1):
    """A session with a turn for each pair of texts; returns the hashes of its messages."""
    await store.create_session(tenant, id=id, now=now)
    hashes = []
    for n, (asked, said) in enumerate(zip(texts[::2], texts[1::2], strict=True)):
        turn_id = f"resp_{id}_{n}"
        parent = hashes[-1] if hashes else None
        begun = await store.begin_turn(
            begin(turn_id, user(asked), session_id=id, parent_hash=parent, tenant=tenant, now=now)
        )
        done = await store.finish_turn(end(turn_id, said, tenant=tenant, now=now))
        hashes += [*begun.messages, done.tip_hash]
    return hashes


async def texts(store, session_id, tenant="ann"):
    """What a session says."""
    session, chain = await store.conversation(tenant, session_id)
    assert session.tip_hash == (chain[-1].hash if chain else None)
    return [message.content[0]["text"] for message in chain]


async def tip(store, session_id, tenant="ann"):
    return (await store.session(tenant, session_id)).tip_hash


_NOT_OF_CONVERSATIONS = (
    tables.api_keys, tables.audit, tables.prefixes, tables.history, tables.limits, tables.owners
)  # fmt: skip


async def count(store):
    """The number of rows in each table of conversations."""
    async with store._database.read() as c:
        return {
            table.name: (await c.execute(select(func.count()).select_from(table))).scalar()
            for table in tables.metadata.sorted_tables
            if table not in _NOT_OF_CONVERSATIONS
        }
