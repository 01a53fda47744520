"""From the engine's outputs to the readers: journal first, then show; store the end, then tell it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import msgspec
import structlog

from chatpager import failpoints
from chatpager.engine.answer_marks import unmarked
from chatpager.engine.messages import StepOutput
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import ConversationNotFound, EngineStopped, StoreError, TurnTaken
from chatpager.sessions.answers import Said, answer_content, joined
from chatpager.sessions.mistakes import INTERNAL, log_mistake
from chatpager.sessions.receipt import Receipt
from chatpager.sessions.stream import Ended, Event, Prefilled
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import choice_id
from chatpager.sessions.turn_states import Happening, TurnState
from chatpager.store import (
    EndStatus,
    Finished,
    FinishedTurn,
    JournalEntry,
    MessageHash,
    NewMessage,
    Store,
)

log = structlog.get_logger(__name__)

NOT_STORED = "the answer could not be stored"
MERGE_AFTER = 0.05
"""Seconds that what a step brought may have waited for those before it; who reads sees no token come later by that."""
PAUSES = (0.1, 0.5, 2.0)
"""Seconds, for which an end that a file's disk refuses waits."""
AWAY_PAUSES = (0.1, 0.2, 0.5, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0)
"""Seconds, nine in all, for which tokens and ends wait: a database that is started again is back by then."""
ATTEMPT_SECONDS = 5.0
"""Beside these, where the database does not even refuse."""
AT_A_TIME = 64
"""Turns that are served before others than turns have theirs."""


class News:
    """What some steps brought for one turn. ``stepped_at``: when the first of them ended."""

    __slots__ = ("entry", "events", "stepped_at", "turn")

    def __init__(self, turn: LiveTurn, stepped_at: float, events: Sequence[Event], entry: JournalEntry | None) -> None:
        self.turn, self.stepped_at = turn, stepped_at
        self.events = list(events)
        self.entry = entry
        """What must be written before anyone sees it."""

    def add(self, events: Sequence[Event], entry: JournalEntry | None, *, merges: bool) -> None:
        """``merges``: what goes on with what is there already becomes one with it."""
        if entry is not None:
            self.entry = entry if self.entry is None else self.entry.then(entry)
        if not merges:
            self.events += events
            return
        for more in events:
            last = self.events[-1] if self.events else None
            if isinstance(last, Said) and isinstance(more, Said) and (both := joined(last, more)):
                self.events[-1] = both
            else:
                self.events.append(more)


class _Deleted(Exception):
    """The turn was, at another server of the same database."""


class Delivery:
    """``turns`` are the hub's, by id. ``cancel`` asks the engine to end a turn, ``account`` makes a turn's receipt;
    ``ended`` is told of every end, with the message it led to. An end that the store refuses is tried again after each
    of ``pauses``, in seconds, and what it does not journal after each of ``journal_pauses``."""

    def __init__(
        self,
        turns: dict[str, LiveTurn],
        store: Store,
        tokenizer: Tokenizer,
        *,
        cancel: Callable[[LiveTurn], None],
        account: Callable[[LiveTurn], Receipt | None],
        ended: Callable[[LiveTurn, Ended, MessageHash | None], None],
        pauses: Sequence[float],
        journal_pauses: Sequence[float],
        merge_after: float = MERGE_AFTER,
        clock: Callable[[], float],
        wall: Callable[[], int],
    ) -> None:
        self._turns = turns
        self._store = store
        self._tokenizer = tokenizer
        self._cancel = cancel
        self._account, self._ended = account, ended
        self._pauses, self._journal_pauses, self._merge_after = pauses, journal_pauses, merge_after
        self._clock, self._wall = clock, wall
        self._inbox: list[tuple[float, list[StepOutput]]] = []
        self._arrived = asyncio.Event()
        self._finishing: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    def receive(self, outputs: list[StepOutput], stepped_at: float = 0.0) -> None:
        """What one step of the engine brought, which ended ``stepped_at``; called on the loop, once a step."""
        self._inbox.append((stepped_at, outputs))
        self._arrived.set()

    async def run(self) -> None:
        """Deliver what has arrived. While one commit runs the next steps gather, and share the next commit."""
        while self._inbox or not self._closing:
            await self._arrived.wait()
            self._arrived.clear()
            steps, self._inbox = self._inbox, []
            try:
                await self._deliver(steps)
            except Exception as error:
                log_mistake("delivery.failed", error)
                for turn in list(self._turns.values()):
                    self.end(turn, failed=INTERNAL)
        for turn in list(self._turns.values()):
            self.end(turn, status="interrupted")
        if self._finishing:
            await asyncio.wait(list(self._finishing.values()))

    def close(self) -> None:
        """Let ``run`` return once everything that has arrived is delivered and every end is stored; what has no end by
        then is interrupted."""
        self._closing = True
        self._arrived.set()

    async def _deliver(self, steps: Sequence[tuple[float, Sequence[StepOutput]]]) -> None:
        """What has waited for longer than ``merge_after`` is told of each turn as one event: there are fewer to send
        then, and all readers get the same ones, for events have no numbers before."""
        news: dict[str, News] = {}
        now = self._clock()
        merges = any(at and time.monotonic() - at > self._merge_after for at, _ in steps)
        for stepped_at, outputs in steps:
            for place, output in enumerate(outputs, 1):
                self._take(output, stepped_at, now, news, merges)
                if place % AT_A_TIME == 0:
                    await asyncio.sleep(0)
        if entries := [one.entry for one in news.values() if one.entry]:
            await self._journal(entries)
        for place, one in enumerate(news.values(), 1):
            try:
                if one.events and not self._is_ending(one.turn):
                    one.turn.stream.extend(one.events, one.stepped_at)
            except Exception as error:
                self._went_wrong(one.turn, error)
            if place % AT_A_TIME == 0:
                await asyncio.sleep(0)
        for one in news.values():
            if one.turn.state is TurnState.CLOSING:
                self.end(one.turn)

    def _take(self, output: StepOutput, stepped_at: float, now: float, news: dict[str, News], merges: bool) -> None:
        id = choice_id(output.request_id, output.index) if output.index else output.request_id
        turn = self._turns.get(id)
        if turn is None:
            return
        try:
            said, entry = turn.take(output, now)
            events: Sequence[Event] = [Prefilled(*output.prefilled), *said] if output.prefilled else said
            if not turn.request.stored:
                entry = None
            if id in news or merges:
                news.setdefault(id, News(turn, stepped_at, [], None)).add(events, entry, merges=merges)
            else:
                news[id] = News(turn, stepped_at, events, entry)
            if not output.finish_reason and turn.stopped_by_string:
                self._cancel_quietly(turn)
        except Exception as error:
            self._went_wrong(turn, error)

    def _went_wrong(self, turn: LiveTurn, error: Exception) -> None:
        """A mistake in what concerns one turn ends that turn and no other."""
        log_mistake("turn.failed", error, turn=turn.id)
        self.end(turn, failed=INTERNAL)

    async def _journal(self, entries: Sequence[JournalEntry]) -> None:
        """A token that is not in the journal is never shown: its turn ends here."""
        refused, failed = {entry.turn_id for entry in entries}, (StoreError.code, NOT_STORED)
        taken: set[str] = set()
        gone: set[str] = set()
        try:
            refused = await self._journalled(entries)
            # The end of a turn may have been written first.
            refused = {id for id in refused if (turn := self._turns.get(id)) and not self._is_ending(turn)}
            if refused:
                taken, gone = await self._store.taken(refused), await self._store.gone(refused)
            if others := refused - gone:
                log.error("journal.refused", reason="the turns have another end in the database", turns=len(others))
        except StoreError as error:
            log.error("journal.failed", reason=str(error), turns=len(entries))
        except Exception as error:
            if len(entries) > 1:
                for entry in entries:
                    await self._journal([entry])
                return
            log_mistake("journal.failed", error, turn=entries[0].turn_id)
            failed = INTERNAL
        for turn_id in refused:
            turn = self._turns.get(turn_id)
            if turn and turn_id in gone:  # by another server's client: as if it had been here
                self.end(turn, status="cancelled")
            elif turn:
                self.end(turn, failed=_failure(TurnTaken()) if turn_id in taken else failed)

    async def _journalled(self, entries: Sequence[JournalEntry]) -> set[str]:
        """As the store says it. While it is away nobody is shown anything, and what comes gathers."""
        if not self._journal_pauses:
            return await self._store.journal(entries)
        try:
            async with asyncio.timeout(sum(self._journal_pauses) + ATTEMPT_SECONDS):
                for pause in self._journal_pauses:
                    try:
                        return await self._store.journal(entries)
                    except StoreError as error:
                        if self._closing:
                            raise
                        log.warning("journal.delayed", reason=str(error), turns=len(entries), seconds=pause)
                        await asyncio.sleep(pause)
                return await self._store.journal(entries)
        except TimeoutError as error:  # what was written all the same is left alone when it comes again
            raise StoreError("the database does not answer") from error

    def _cancel_quietly(self, turn: LiveTurn) -> None:
        with suppress(EngineStopped):
            self._cancel(turn)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def end(self, turn: LiveTurn, *, failed: tuple[str, str] | None = None, status: EndStatus | None = None) -> None:
        """The one way a turn ends: as the engine said, or else now, ``failed`` with a code and a message or with
        ``status``. The first end counts."""
        if self._is_ending(turn):
            return
        if turn.state is not TurnState.CLOSING:
            self._cancel_quietly(turn)
        if failed:
            turn.fail(*failed)
        task = asyncio.get_running_loop().create_task(self._finish(turn, status))
        self._finishing[turn.id] = task
        task.add_done_callback(partial(self._finished, turn))

    def _is_ending(self, turn: LiveTurn) -> bool:
        return turn.id in self._finishing or self._turns.get(turn.id) is not turn

    def _finished(self, turn: LiveTurn, task: asyncio.Task[None]) -> None:
        del self._finishing[turn.id]
        if not task.cancelled() and (error := task.exception()):
            log_mistake("turn.end_failed", error, turn=turn.id)

    async def _finish(self, turn: LiveTurn, status: EndStatus | None) -> None:
        """Store the end, then tell it, whatever went wrong: nobody else will, and the session waits for it."""
        ended, tip = await self._stored_end(turn, status)
        try:
            failpoints.hit("sessions.before_terminal_event")
        finally:
            if turn.state is TurnState.CLOSING:
                turn.happen(Happening.STORED)
            turn.stream.append(ended)
            self._ended(turn, ended, tip)

    async def _stored_end(self, turn: LiveTurn, status: EndStatus | None) -> tuple[Ended, MessageHash | None]:
        """The end, and the message that it led to. After a mistake the turn fails with the plainest account that can be
        given of it; what the store did not take stays in the journal, and the hub ends it when it next comes by."""
        for plain in (False, True):
            try:
                if not plain:
                    turn.receipt = self._account(turn)
                ended = turn.ended(self._clock(), self._wall(), status)
                return ended, await self._store_end(turn, ended, plain) if turn.request.stored else None
            except _Deleted:
                turn.is_deleted = not await self._has_session(turn)
                return turn.ended(self._clock(), self._wall(), None if turn.error else "cancelled"), None
            except StoreError as error:
                log.error("turn.end_not_stored", turn=turn.id, reason=str(error))
                turn.fail(*_failure(error))
                break
            except Exception as error:
                log_mistake("turn.end_failed", error, turn=turn.id)
                turn.fail(*INTERNAL)
                status = None
        ended = turn.ended(self._clock(), self._wall())
        return msgspec.structs.replace(ended, **turn.stream.answer._asdict()), None

    async def _has_session(self, turn: LiveTurn) -> bool:
        """Whether a turn that is deleted leaves a session behind; False too where the store does not tell, because what
        is deleted must stay nowhere."""
        request = turn.request
        if request.session_id is None:
            return False
        try:
            await self._store.session(request.tenant, request.session_id)
        except ConversationNotFound:
            return False
        except StoreError as error:
            log.warning("turn.session_unknown", turn=turn.id, reason=str(error))
            return False
        return True

    async def _store_end(self, turn: LiveTurn, ended: Ended, plain: bool) -> MessageHash | None:
        """``plain``: without the wire's object, and an answer that a stop string cut without its ids."""
        message = None
        if turn.token_ids:
            ids = None if plain and turn.stopped_by_string else self._exact_ids(turn)
            message = NewMessage(
                role="assistant",
                content=answer_content(ended.text, ended.calls),
                status=ended.status,
                vocab=None if ids is None else self._tokenizer.fingerprint,
                token_ids=ids,
            )
        facts = ended.facts()
        done = FinishedTurn(
            id=turn.id,
            tenant=turn.request.tenant,
            status=ended.status,
            message=message,
            now=ended.at,
            usage=turn.stored_usage(ended),
            receipt=facts["cache"],
            timings=facts["timings"],
            error={"code": ended.error_code, "message": ended.error_message} if ended.error_code else None,
            response=turn.request.body(turn, ended) if turn.request.body and not plain else None,
        )
        stored = await self._finish_turn(done)
        if stored.tip == "turn_taken":
            raise TurnTaken
        if stored.tip == "turn_gone":
            raise _Deleted
        if stored.status != done.status:
            raise StoreError(f"another end of the turn was stored: {stored.status}")
        if stored.tip == "no_session" and turn.request.session_id is not None:  # and the turn is about to be deleted
            turn.is_deleted = True
            return None
        return stored.tip_hash

    async def _finish_turn(self, done: FinishedTurn) -> Finished:
        for pause in self._pauses:
            try:
                return await self._store.finish_turn(done)
            except StoreError as error:
                log.warning("turn.end_delayed", turn=done.id, reason=str(error), seconds=pause)
                await asyncio.sleep(pause)
        return await self._store.finish_turn(done)

    def _exact_ids(self, turn: LiveTurn) -> list[int]:
        """The answer's ids; where a stop string cut the text inside a token, the ids of the text that is left."""
        ids, unsaid = turn.answer_ids(), self._tokenizer.structure_ids

        def decode(ids: Sequence[int]) -> str:
            return self._tokenizer.decode([i for i in ids if i not in unsaid])

        if not turn.stopped_by_string:
            return ids
        said = unmarked(turn.text)
        kept, excess = len(ids), len(decode(ids)) - len(said)
        while kept and len(decode(ids[kept:])) < excess:
            kept -= 1  # a guess from the end alone: decoding the whole answer for each token would be slow
        kept = min(kept + 1, len(ids))
        while not said.startswith(text := decode(ids[:kept])):
            kept -= 1
        return [*ids[:kept], *self._tokenizer.encode_plain(said[len(text) :])]


def _failure(error: StoreError) -> tuple[str, str]:
    """The code and the message of a turn that ends so; what the database said is the operator's to read."""
    return error.code, str(error) if isinstance(error, TurnTaken) else NOT_STORED
