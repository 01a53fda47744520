"""From the engine's outputs to the readers: journal first, then show; store the end, then tell it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from chatpager import failpoints
from chatpager.engine.messages import StepOutput
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import EngineStopped, StoreError
from chatpager.sessions.receipt import receipt
from chatpager.sessions.stream import Delta, Ended, Prefilled
from chatpager.sessions.turn import Happening, LiveTurn, TurnState
from chatpager.store import EndStatus, FinishedTurn, JournalEntry, MessageHash, NewMessage, Store

log = structlog.get_logger(__name__)

NOT_STORED = "the answer could not be stored"


class Delivery:
    """``turns`` are the hub's, by id. ``cancel`` asks the engine to end a request; ``ended`` is told of every end, with
    the message it led to."""

    def __init__(
        self,
        turns: dict[str, LiveTurn],
        store: Store,
        tokenizer: Tokenizer,
        *,
        cancel: Callable[[str], None],
        ended: Callable[[LiveTurn, Ended, MessageHash | None], None],
        block_size: int,
        caching: bool,
        clock: Callable[[], float],
        wall: Callable[[], int],
    ) -> None:
        self._turns = turns
        self._store = store
        self._tokenizer = tokenizer
        self._cancel = cancel
        self._ended = ended
        self._block_size, self._caching = block_size, caching
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
            except Exception:
                log.exception("delivery.failed")
                self.fail_all("internal_error", "the server made a mistake; the turn ended")
        if self._finishing:
            await asyncio.wait(list(self._finishing.values()))

    def close(self) -> None:
        """Let ``run`` return once everything that has arrived is delivered and every end is stored."""
        self._closing = True
        self._arrived.set()

    def fail_all(self, code: str, message: str) -> None:
        for turn in list(self._turns.values()):
            if turn.id not in self._finishing:
                turn.fail(code, message)
                self._cancel_quietly(turn)
                self.finish_soon(turn)

    async def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        shown: list[tuple[LiveTurn, str, Prefilled | None]] = []
        entries: list[JournalEntry] = []
        now = self._clock()
        for output in outputs:
            turn = self._turns.get(output.request_id)
            if turn is None:
                continue
            text, entry = turn.take(output, now)
            if entry and turn.request.stored:
                entries.append(entry)
            shown.append((turn, text, Prefilled(*output.prefilled) if output.prefilled else None))
            if turn.stopped_by_string and not output.finish_reason:
                self._cancel_quietly(turn)
        try:
            await self._store.journal(entries)
        except StoreError as error:
            self._fail_unjournalled(entries, error)
        for turn, text, progress in shown:
            if progress:
                turn.stream.append(progress)
            if text and not turn.error:
                turn.stream.append(Delta(text))
            if turn.state is TurnState.CLOSING:
                self.finish_soon(turn)

    def _fail_unjournalled(self, entries: Sequence[JournalEntry], error: StoreError) -> None:
        """A token that is not in the journal is never shown: its turn ends here."""
        log.error("journal.failed", reason=str(error), turns=len(entries))
        for entry in entries:
            turn = self._turns[entry.turn_id]
            turn.fail(StoreError.code, NOT_STORED)
            self._cancel_quietly(turn)

    def _cancel_quietly(self, turn: LiveTurn) -> None:
        try:
            self._cancel(turn.id)
        except EngineStopped:
            log.info("cancel.engine_stopped", turn=turn.id)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def finish_soon(self, turn: LiveTurn) -> None:
        if turn.id in self._turns and turn.id not in self._finishing:
            task = asyncio.get_running_loop().create_task(self.finish(turn))
            self._finishing[turn.id] = task
            task.add_done_callback(lambda _: self._finishing.pop(turn.id, None))

    async def finish(self, turn: LiveTurn, status: EndStatus | None = None) -> None:
        """Store the end, then tell it. If it cannot be stored the readers are told so, and recovery will find it."""
        if turn.usage and turn.usage.admitted:
            turn.receipt = receipt(
                turn.prompt,
                turn.usage.cached_tokens,
                turn.previous,
                block_size=self._block_size,
                caching=self._caching,
                template=turn.template,
            )
        ended = turn.ended(self._clock(), self._wall(), status)
        tip: MessageHash | None = None
        try:
            if turn.request.stored:
                tip = await self._store_end(turn, ended)
        except StoreError as error:
            log.error("turn.end_not_stored", turn=turn.id, reason=str(error))
            turn.error = (StoreError.code, NOT_STORED)
            ended = turn.ended(self._clock(), self._wall(), "failed")
        failpoints.hit("sessions.before_terminal_event")
        if turn.state is TurnState.CLOSING:
            turn.happen(Happening.STORED)
        turn.stream.append(ended)
        self._ended(turn, ended, tip)

    async def _store_end(self, turn: LiveTurn, ended: Ended) -> MessageHash | None:
        message = None
        if turn.token_ids:
            message = NewMessage(
                role="assistant",
                content=[{"type": "text", "text": turn.text}],
                status=ended.status,
                vocab=self._tokenizer.fingerprint,
                token_ids=self._exact_ids(turn),
            )
        facts = ended.facts()
        finished = await self._store.finish_turn(
            FinishedTurn(
                id=turn.id,
                tenant=turn.request.tenant,
                status=ended.status,
                message=message,
                now=ended.at,
                usage=turn.stored_usage(ended),
                receipt=facts["cache"],
                timings=facts["timings"],
                error={"code": ended.error_code, "message": ended.error_message} if ended.error_code else None,
                response=turn.request.body(turn, ended) if turn.request.body else None,
            )
        )
        return finished.tip_hash

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
