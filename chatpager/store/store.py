"""The store as the rest of chatpager sees it: each method is one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import UNSET, UnsetType
from sqlalchemy.ext.asyncio import AsyncConnection

from chatpager.store import history, journal, messages, ownership, schema, sessions, standing, turns
from chatpager.store.auditing import Audit
from chatpager.store.chain import MessageHash
from chatpager.store.database import BUSY_TIMEOUT_MS, Database
from chatpager.store.history import History
from chatpager.store.keys import Keys
from chatpager.store.prefixes import Prefixes
from chatpager.store.records import (
    BegunTurn,
    DeletedSession,
    Finished,
    FinishedTurn,
    Journaled,
    JournalEntry,
    Message,
    NewMessage,
    NewTurn,
    ReadContent,
    Recovered,
    Session,
    Turn,
    TurnAlone,
)
from chatpager.store.step_log import StepLog
from chatpager.store.tenants import Tenants


class Store:
    """Conversations in a database. Another tenant's id is an unknown id. What is no tenant's is in parts of their own:
    the operator's ``keys``, ``tenants`` and ``prefixes``, the ``audit`` and the ``history``.

    Every method raises ``StoreError`` where the database is locked, full, read-only or away; then nothing was changed,
    unless the connection broke during the commit itself, which nobody can tell. A method that is cancelled may have
    committed all the same: shield what must be known.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.owner = database.owner
        """The name of this store among those that share the database."""
        self._steps = StepLog(self.owner)
        self.keys = Keys(database)
        self.tenants = Tenants(database)
        self.prefixes = Prefixes(database)
        self.audit = Audit(database)
        self.history = History(database)

    @classmethod
    async def open(
        cls, url: str, *, migrate: bool, busy_timeout_ms: int = BUSY_TIMEOUT_MS, share: bool = False
    ) -> Store:
        """Open the database at ``url``; ``migrate`` makes it, if need be, and brings its schema up to date. For that
        it is claimed: no server may run on what is migrated, unless all ``share`` it (PostgreSQL), as the chatpager
        before this one can go on with what a revision makes.

        Raises:
            ConfigError: the URL cannot be read, or names another kind of database or one that cannot be shared.
            StoreError: the database is away, has an older schema and ``migrate`` is off or a server runs on it, or has
                a newer one.
        """
        database = Database(url, busy_timeout_ms=busy_timeout_ms, share=share)
        try:
            if migrate:
                database.make_file()
            await database.connect()
            if migrate and await schema.revision(database) != schema.head():
                await database.claim_to_migrate()
                await schema.upgrade(url)
            await schema.require_head(database)
        except BaseException:
            await database.close()
            raise
        return cls(database)

    @property
    def transactions(self) -> Mapping[str, int]:
        """Begun since it was opened, by kind: "read" and "write"; none is a lease's renewal."""
        return self._database.transactions

    @property
    def is_file(self) -> bool:
        """Of this machine's; else a server's, which may be away for a while."""
        return self._database.file is not None

    @property
    def unusable(self) -> str:
        """Why nothing can be read or written any more before a restart, or nothing: a disk failed under a write, or
        the database's file went away."""
        return self._database.condition.unusable

    @property
    def refuses(self) -> str:
        """Why the last write failed, where others would too: "is full: ..."; nothing since one was stored."""
        return self._database.condition.refuses

    async def probe(self, size: int) -> None:
        """Write ``size`` bytes that nobody reads, to see whether that can be done."""
        await self._database.writing("probe", lambda c: history.probe(c, size))

    async def keep_reserve(self) -> None:
        """Room for deletions, where the disk has much more."""
        if self._database.reserve is not None:
            await asyncio.to_thread(self._database.reserve.keep)

    async def claim(self) -> None:
        """Become, or stay, the only server of this database, until it is closed or the process ends in whatever way. If
        PostgreSQL drops the claim meanwhile, the next turn's beginning takes it again, or raises StoreError where
        another server was faster. Of one that is shared: one of its servers, see ``ownership``.

        Raises:
            StoreError: another server is, or shares it where this one does not, or the other way round.
        """
        await self._database.claim()

    async def close(self) -> None:
        await self._database.close()

    @property
    def shown(self) -> str:
        """The database's address without its password."""
        return self._database.shown

    # -- sessions

    async def create_session(
        self,
        tenant: str,
        *,
        id: str,
        title: str = "",
        metadata: dict[str, Any] | None = None,
        parameters: dict[str, Any] | None = None,
        said: Sequence[NewMessage] = (),
        now: int,
        most: int | None = None,
    ) -> Session:
        """``said`` are its first messages: it begins with all of them or not at all.

        Raises:
            TooManyConversations: the tenant has ``most``.
            TenantPaused.
        """
        new = Session(
            id=id,
            tenant=tenant,
            tip_hash=None,
            forked_from=None,
            title=title,
            metadata=metadata or {},
            parameters=parameters or {},
            created_at=now,
            updated_at=now,
        )
        return await self._database.writing(
            "create_session", lambda c: sessions.create(c, new, said, most), tenant, alone=most is not None
        )

    async def session(self, tenant: str, id: str) -> Session:
        """Raises ConversationNotFound."""
        return await self._database.reading(lambda c: sessions.get(c, tenant, id))

    async def conversation(self, tenant: str, id: str) -> tuple[Session, list[Message]]:
        """A session and its messages, root first, as they were at one moment. Raises ConversationNotFound."""

        async def read(c: AsyncConnection) -> tuple[Session, list[Message]]:
            session = await sessions.get(c, tenant, id)
            return session, await messages.load(c, tenant, session.tip_hash)

        return await self._database.reading(read)

    async def list_sessions(
        self, tenant: str, *, limit: int, after: str | None = None, search: str | None = None
    ) -> tuple[list[Session], bool]:
        """A page of sessions, the latest activity first, and whether more follow ``after`` the last one's ``cursor``;
        only those with ``search`` in their title or in what was said.

        Raises:
            InvalidRequest: ``after`` is no cursor.
        """
        return await self._database.reading(
            lambda c: sessions.page(c, tenant, limit, after, search), long=search is not None
        )

    async def update_session(
        self,
        tenant: str,
        id: str,
        *,
        title: str | UnsetType = UNSET,
        metadata: dict[str, Any] | UnsetType = UNSET,
        parameters: dict[str, Any] | UnsetType = UNSET,
        expected: Session | None = None,
    ) -> Session:
        """Replace what is given, where title and metadata are still those of ``expected``.

        Raises:
            ConversationNotFound.
            ConversationChanged: they are others; nothing was replaced.
        """
        return await self._database.writing(
            "update_session", lambda c: sessions.change(c, tenant, id, title, metadata, parameters, expected)
        )

    async def delete_session(self, tenant: str, id: str, unused_since: int | None = None) -> DeletedSession:
        """Delete the session, its turns that have ended, and every message that nothing else needs.

        Raises:
            ConversationNotFound: there is none.
            ConversationInUse: a turn of it began after ``unused_since``.
        """
        return await self._database.writing(
            "delete_session", lambda c: sessions.remove(c, tenant, id, unused_since), tenant, deletes=True
        )

    async def fork_session(
        self,
        tenant: str,
        id: str,
        *,
        new_id: str,
        at: MessageHash | None = None,
        now: int,
        most: int | None = None,
        most_of_tenant: int | None = None,
    ) -> Session:
        """Another session with the same messages up to ``at``; one row, nothing is copied.

        Raises:
            ConversationNotFound: there is no session ``id``.
            InvalidRequest: ``at`` is no message of it.
            TooManyForks: there are ``most`` that came from where this one did.
            TooManyConversations: the tenant has ``most_of_tenant``.
            TenantPaused.
        """
        counts = most is not None or most_of_tenant is not None
        return await self._database.writing(
            "fork_session",
            lambda c: sessions.fork(c, tenant, id, new_id, at, now, most, most_of_tenant),
            tenant,
            alone=counts,
        )

    async def rewind_session(self, tenant: str, id: str, *, to: MessageHash) -> Session:
        """The session ends with message ``to`` again; what turns said and were asked stays stored.

        Raises:
            ConversationNotFound: there is no session ``id``.
            InvalidRequest: ``to`` is no message of it.
            SessionBusy: a turn of it runs.
        """
        return await self._database.writing(
            "rewind_session", lambda c: sessions.rewind(c, tenant, id, to), tenant, deletes=True
        )

    async def compact_session(
        self, tenant: str, id: str, *, expected: MessageHash | None, new: Sequence[NewMessage], now: int
    ) -> Session:
        """The session consists of ``new`` messages instead of those up to ``expected``.

        Raises:
            ConversationNotFound: there is no session ``id``.
            SessionBusy: it does not stand at ``expected``, or a turn of it runs.
        """
        return await self._database.writing(
            "compact_session", lambda c: sessions.compact(c, tenant, id, expected, new, now), tenant, deletes=True
        )

    # -- messages

    async def append_messages(
        self, tenant: str, id: str, new: Sequence[NewMessage], *, now: int
    ) -> tuple[MessageHash, ...]:
        """Add messages to a session without a turn; returns their hashes.

        Raises:
            ConversationNotFound: there is no session ``id``.
            SessionBusy: a turn of it runs.
        """
        return await self._database.writing(
            "append_messages", lambda c: sessions.append(c, tenant, id, new, now), tenant
        )

    async def load_chain(self, tenant: str, tip: MessageHash | None) -> list[Message]:
        """The messages up to ``tip``, root first. Raises NotFound."""
        return await self._database.reading(lambda c: messages.load(c, tenant, tip))

    async def has_message(self, tenant: str, hash: MessageHash | None) -> bool:
        return hash is not None and await self._database.reading(lambda c: messages.is_stored(c, tenant, hash))

    async def match_content(self, tenant: str, sent: Sequence[NewMessage]) -> list[Message]:
        """The longest stored chain with the contents of the first of ``sent``, root first; often one shorter."""
        return await self._database.reading(lambda c: messages.match(c, tenant, sent))

    async def verify(self, tenant: str, tip: MessageHash) -> list[MessageHash]:
        """Derive every hash of a chain again; returns those whose rows were altered. Raises NotFound."""
        return await self._database.reading(lambda c: messages.verify(c, tenant, tip))

    # -- turns

    async def begin_turn(self, new: NewTurn) -> BegunTurn:
        """Store a turn and its input: once this returns, the input is acknowledged and outlives a power cut.

        Raises:
            ConversationNotFound, PreviousResponseNotFound: what the turn follows does not exist.
            SessionBusy: the session is elsewhere than the caller believes, or another turn of it runs.
            IdempotencyConflict: ``client_key`` came before with another request.
        """
        (begun,) = await self.begin_turns([new])
        return begun

    async def begin_turns(self, new: Sequence[NewTurn]) -> list[BegunTurn]:
        """``begin_turn`` for several of one tenant: all of them or none."""
        tenant, deletes = new[0].tenant, any(map(turns.leaves_a_branch, new))

        async def begin(c: AsyncConnection) -> list[BegunTurn]:
            begun: list[BegunTurn] = []
            for each in new:
                alike = begun and each.messages is new[0].messages and each.parent_hash == new[0].parent_hash
                begun.append(await turns.begin(c, each, self.owner, begun[0].messages if alike else None))
            return begun

        return await self._database.writing("begin_turn", begin, tenant, deletes=deletes, owned=True, frees=False)

    async def journal(self, entries: Sequence[JournalEntry]) -> set[str]:
        """Write the tokens of one step, of any number of turns, before they are sent: they outlive the process, and
        PostgreSQL's, too.

        Returns the turns that have ended, are gone or were ``taken``: of these nothing is written. Entries that were
        written before are left alone.
        """
        if not entries:
            return set()
        if self._database.file:
            steps = self._steps
            return await self._database.write_in_one_visit("journal", partial(steps.write, entries), steps.committed)
        async with self._database.write("journal") as c:
            return await journal.write(c, entries, self.owner)

    async def taken(self, ids: Collection[str]) -> set[str]:
        """Those of these turns that another server has taken over: this one writes nothing of them any more."""
        return await self._database.reading(lambda c: ownership.taken(c, ids, self.owner))

    async def gone(self, ids: Collection[str]) -> set[str]:
        """Those of these turns that were deleted."""
        return await self._database.reading(lambda c: ownership.gone(c, ids))

    async def journaled(self, tenant: str, id: str) -> Journaled:
        """The tokens of a live turn so far; nothing of one that has ended. Raises ResponseNotFound."""

        async def read(c: AsyncConnection) -> Journaled:
            await turns.get(c, tenant, id)
            return await journal.read(c, id, await journal.steps(c))

        return await self._database.reading(read)

    async def finish_turn(self, done: FinishedTurn) -> Finished:
        """Store a turn's answer and its end; never refuses, but says which end is stored and what became of the
        session's tip."""
        return await self._database.writing("finish_turn", lambda c: turns.finish(c, done, self.owner), done.tenant)

    async def recover(
        self,
        now: int,
        ids: Collection[str] | None = None,
        *,
        tenant: str | None = None,
        content: ReadContent = turns.text_told,
    ) -> list[Recovered]:
        """End live turns as ``interrupted``, with what ``content`` reads in what the journal kept of their answers:
        every one, or those of ``ids``, which may have ended; beside other writers only those of one ``tenant``.

        For a server that has claimed the database. Turns of another that shares it are left alone while its lease
        lasts; of any that is ended its owner writes nothing any more.
        """
        return await self._database.writing(
            "recover", lambda c: turns.recover(c, self.owner, now, ids, content), tenant, owned=True
        )

    async def turn(self, tenant: str, id: str) -> Turn:
        """Raises ResponseNotFound."""
        return await self._database.reading(lambda c: turns.get(c, tenant, id))

    async def turn_of_key(self, tenant: str, client_key: str) -> Turn | None:
        """The turn that the key began."""
        return await self._database.reading(lambda c: turns.of_key(c, tenant, client_key))

    async def turn_of_answer(self, tenant: str, answer: MessageHash) -> Turn | None:
        """The turn that gave this answer; of several, which gave the very same, the latest. None: it was deleted."""
        return await self._database.reading(lambda c: turns.of_answer(c, tenant, answer))

    async def turns_of(self, tenant: str, session_id: str, *, latest: int | None = None) -> list[Turn]:
        """A session's turns, oldest first, with those that it inherited when it was forked: at most one of these
        for each message, its ``tip_hash``. Of all of them the ``latest``, one or more. Raises ConversationNotFound.
        """
        return await self._database.reading(lambda c: turns.of_session(c, tenant, session_id, latest))

    async def active_turns(self, tenant: str) -> list[Turn]:
        """The turns in progress, oldest first."""
        return await self._database.reading(lambda c: turns.live(c, tenant))

    async def response(self, tenant: str, id: str) -> dict[str, Any] | None:
        """The response's body at its end; None while it runs, or if it ended without. Raises ResponseNotFound."""
        return await self._database.reading(lambda c: turns.body(c, tenant, id))

    async def responses(self, tenant: str, ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """The bodies of those of these responses that have ended with one, by id."""
        return await self._database.reading(lambda c: turns.bodies(c, tenant, ids))

    async def delete_turn(self, tenant: str, id: str) -> int:
        """Delete a turn, its response, and the messages that nothing else needs; returns how many those were.

        Raises:
            ResponseNotFound: there is none.
        """
        return await self._database.writing("delete_turn", lambda c: turns.remove(c, tenant, id), tenant, deletes=True)

    # -- which conversations there are

    async def unknown(self, names: Collection[str], name_of: Callable[[str, str], str]) -> set[str]:
        """Those of ``names`` that ``name_of`` makes of the tenant and id of nothing that is stored. It is asked in a
        thread."""
        return await self._database.reading(lambda c: standing.unknown(c, names, name_of), long=True)

    async def alone(self, most: int) -> list[TurnAlone]:
        """The latest turns without a session, of all tenants, in the order in which they began."""
        return await self._database.reading(lambda c: standing.alone(c, most), long=True)
