"""From the engine's outputs to the readers: journal first, then show; store the end, then tell it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import msgspec
import structlog

from chatpager import failpoints
from chatpager.engine.messages import StepOutput
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import EngineStopped, StoreError
from chatpager.sessions.answers import answer_content
from chatpager.sessions.mistakes import INTERNAL, log_mistake
from chatpager.sessions.receipt import Receipt
from chatpager.sessions.stream import Ended, Prefilled
from chatpager.sessions.turn import Happening, LiveTurn, TurnState, choice_id
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


class Delivery:
    """``turns`` are the hub's, by id. ``cancel`` asks the engine to end a turn, ``account`` makes a turn's receipt;
    ``ended`` is told of every end, with the message it led to. An end that the store refuses is tried again after each
    of ``pauses``, in seconds."""

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
        clock: Callable[[], float],
        wall: Callable[[], int],
    ) -> None:
        self._turns = turns
        self._store = store
        self._tokenizer = tokenizer
        self._cancel = cancel
        self._account, self._ended = account, ended
        self._pauses = pauses
        self._clock, self._wall = clock, wall
        self._inbox: list[StepOutput] = []
        self._arrived = asyncio.Event()
        self._finishing: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    def receive(self, outputs: list[StepOutput]) -> None:
        """What one step of the engine brought; called on the loop, once a step."""
        self._inbox += outputs
        self._arrived.set()

    async def run(self) -> None:
        """Deliver what has arrived. While one commit runs the next steps gather, and share the next commit."""
        while self._inbox or not self._closing:
            await self._arrived.wait()
            self._arrived.clear()
            outputs, self._inbox = self._inbox, []
            try:
                await self._deliver(outputs)
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

    async def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        shown: list[tuple[LiveTurn, str, bool, Prefilled | None]] = []
        entries: list[JournalEntry] = []
        now = self._clock()
        for output in outputs:
            turn = self._turns.get(choice_id(output.request_id, output.index))
            if turn is None:
                continue
            with self._alone(turn):
                text, entry = turn.take(output, now)
                if entry and turn.request.stored:
                    entries.append(entry)
                last = turn.state is TurnState.CLOSING
                shown.append((turn, text, last, Prefilled(*output.prefilled) if output.prefilled else None))
                if turn.stopped_by_string and not output.finish_reason:
                    self._cancel_quietly(turn)
        if entries:
            await self._journal(entries)
        for turn, text, last, progress in shown:
            with self._alone(turn):
                self._show(turn, text, last, progress)
        for turn, *_ in shown:
            if turn.state is TurnState.CLOSING:
                self.end(turn)

    @contextmanager
    def _alone(self, turn: LiveTurn) -> Iterator[None]:
        """A mistake in what concerns one turn ends that turn and no other."""
        try:
            yield
        except Exception as error:
            log_mistake("turn.failed", error, turn=turn.id)
            self.end(turn, failed=INTERNAL)

    async def _journal(self, entries: Sequence[JournalEntry]) -> None:
        """A token that is not in the journal is never shown: its turn ends here."""
        refused, failed = {entry.turn_id for entry in entries}, (StoreError.code, NOT_STORED)
        try:
            refused = await self._store.journal(entries)
            if refused:
                log.error("journal.refused", reason="the turns have another end in the database", turns=len(refused))
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
            if turn := self._turns.get(turn_id):
                self.end(turn, failed=failed)

    def _show(self, turn: LiveTurn, text: str, last: bool, progress: Prefilled | None) -> None:
        if self._is_ending(turn):
            return
        if progress:
            turn.stream.append(progress)
        for event in turn.shown(text, last=last):
            turn.stream.append(event)

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
            except StoreError as error:
                log.error("turn.end_not_stored", turn=turn.id, reason=str(error))
                turn.fail(StoreError.code, NOT_STORED)
                break
            except Exception as error:
                log_mistake("turn.end_failed", error, turn=turn.id)
                turn.fail(*INTERNAL)
                status = None
        ended = turn.ended(self._clock(), self._wall())
        return msgspec.structs.replace(ended, **turn.stream.answer._asdict()), None

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
        if stored.status != done.status:
            raise StoreError(f"another end of the turn was stored: {stored.status or 'it is gone'}")
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
        ids, decode = turn.answer_ids(), self._tokenizer.decode
        if not turn.stopped_by_string:
            return ids
        kept, excess = len(ids), len(decode(ids)) - len(turn.text)
        while kept and len(decode(ids[kept:])) < excess:
            kept -= 1  # a guess from the end alone: decoding the whole answer for each token would be slow
        kept = min(kept + 1, len(ids))
        while not turn.text.startswith(text := decode(ids[:kept])):
            kept -= 1
        return [*ids[:kept], *self._tokenizer.encode_plain(turn.text[len(text) :])]
