"""Where turns begin, run and end: the join of engine and store.

A turn is stored before it is acknowledged, its tokens are journalled before they are shown, its end is stored before
it is told. One session has one running turn; others of the same session wait in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from chatpager.engine.facts import EngineFacts
from chatpager.engine.grammar_compiler import Compiled
from chatpager.engine.heads import LeaseEvent
from chatpager.engine.messages import AddRequest, AttendRequest, CancelRequest, StepOutput
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import (
    EngineStopped,
    Overloaded,
    ResponseNotFound,
    SessionBusy,
    StoreError,
    TurnTaken,
    shown,
)
from chatpager.sessions import leftovers
from chatpager.sessions.accounting import account
from chatpager.sessions.admission import Admission
from chatpager.sessions.aftermath import Aftermath
from chatpager.sessions.answers import call_id_of
from chatpager.sessions.beginning import Beginner, Begun, Served
from chatpager.sessions.constraining import Constraining
from chatpager.sessions.deleting import Deleting
from chatpager.sessions.delivery import AWAY_PAUSES, MERGE_AFTER, PAUSES, Delivery
from chatpager.sessions.drafting import Drafting
from chatpager.sessions.engine_host import Hearers
from chatpager.sessions.erasing import Erasing
from chatpager.sessions.heads import Heads
from chatpager.sessions.hosting import EngineSource, host_of
from chatpager.sessions.inspecting import Inspector
from chatpager.sessions.keeping import Keeper
from chatpager.sessions.live_turns import LiveTurns
from chatpager.sessions.orphans import Orphans
from chatpager.sessions.prefetching import Prefetcher
from chatpager.sessions.prompting import Prompting
from chatpager.sessions.publishing import Publisher, Room
from chatpager.sessions.quotas import Quotas
from chatpager.sessions.receipt import KeyDomain
from chatpager.sessions.recent import Recent
from chatpager.sessions.remembered import Remembered
from chatpager.sessions.rereading import Rereader
from chatpager.sessions.restarts import Breaker
from chatpager.sessions.revising import Revising
from chatpager.sessions.salts import Salts
from chatpager.sessions.stream import Ended, Started
from chatpager.sessions.tool_waits import ToolWaits
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import KeyTaken, TurnRequest
from chatpager.store import MessageHash, Store

log = structlog.get_logger(__name__)

REPLAY_BYTES = 80 << 20
"""Of all turns that can be told again: eight thousand of forty events without logprobs."""
REMEMBERED_TOKENS = 4 << 20
"""Token ids of past turns kept to say where a prompt diverged from the turn before; 4 bytes each."""


class SessionHub:
    """``engine`` makes one in this process, or is a process of its own, or several by their names. ``secret`` keeps
    tenants apart (salts.py). ``max_turns`` run or wait at once, of one tenant ``max_turns_per_tenant`` (None: as many
    as leave others room). An end that the store refuses is tried again after each of ``pauses``, in seconds, and tokens
    that it does not journal after each of ``journal_pauses`` (None: as befits a file, or a server that may be away for
    a while); what was said of a turn becomes one event where it waits for more than ``merge_after`` seconds to be told.
    A turn's events can be told again for ``replay_seconds`` from its end on. Of so many ``known_conversations`` it is
    known where they stand and what they asked last. ``on_end`` is told of every turn's end. ``clock`` is in seconds and
    never goes back, ``wall`` in milliseconds."""

    def __init__(
        self,
        store: Store,
        tokenizer: Tokenizer,
        engine: EngineSource,
        *,
        secret: bytes = b"",
        max_turns: int = 1024,
        max_turns_per_tenant: int | None = None,
        pauses: Sequence[float] | None = None,
        journal_pauses: Sequence[float] | None = None,
        merge_after: float = MERGE_AFTER,
        replay_seconds: float = 300.0,
        known_conversations: int = 1 << 16,
        breaker: Breaker | None = None,
        on_end: Callable[[LiveTurn, Ended], None] = lambda turn, ended: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.store = store
        self.tokenizer = tokenizer
        self.prompting = Prompting(tokenizer)
        self._constraining = Constraining(tokenizer)
        self.wall = wall
        self._salts = Salts(secret)
        self._on_end = on_end
        self._clock = clock
        self._admission = Admission(max_turns, max_turns_per_tenant)
        self.quotas = Quotas(clock=clock)
        self.rereader = Rereader(tokenizer)
        self._recent = Recent(replay_seconds, REPLAY_BYTES)
        self.turns = LiveTurns(self._recent, clock)
        self.orphans = Orphans(store, self.rereader, self.turns.has, wall)
        self._remembered = Remembered(REMEMBERED_TOKENS, known_conversations)
        self._heads = Heads(known_conversations)
        self._beginner = Beginner(store, tokenizer, self.prompting, self.orphans, self._remembered, wall)
        self.comparing = self._beginner.comparing
        hearers = Hearers(self._receive, self._leases_changed, self._engine_died, self._engine_restarted)
        self.engine = host_of(engine, hearers, breaker, self._constraining, clock=clock)
        self.keeper = Keeper(self.engine, clock)
        self.inspector = Inspector(self.engine, self.keeper)
        self.publisher = Publisher(
            store, self.prompting, self.engine, self.keeper, vocab=tokenizer.fingerprint, wall=wall
        )
        self.revising = Revising(store, self.prompting, self.orphans, self._remembered, self.keeper, wall)
        self.prefetcher = Prefetcher(
            store, self.prompting, self.engine, self.keeper, self._salts, self.quotas.check_open
        )
        self.drafting = Drafting(self._beginner, self.engine, self.turns, self._salts, self.quotas.check_open)
        self.tool_waits = ToolWaits(self.keeper, clock)
        self._aftermath = Aftermath(self._heads, self._remembered, self.keeper, self.tool_waits)
        self.deleting = Deleting(store, self._heads, self._recent, self.keeper, self.turns.of_session, self.end)
        self.erasing = Erasing(store, self.deleting, self.keeper, self._remembered, self._end_turns_of, self.end)
        self._delivery = Delivery(
            self.turns,
            store,
            tokenizer,
            cancel=self._cancel,
            account=lambda turn: account(turn, self.block_size, self.caching, self._domain(turn.request.tenant)),
            ended=self._turn_ended,
            pauses=(PAUSES if store.is_file else AWAY_PAUSES) if pauses is None else pauses,
            journal_pauses=(() if store.is_file else AWAY_PAUSES) if journal_pauses is None else journal_pauses,
            merge_after=merge_after,
            clock=clock,
            wall=wall,
        )
        self._delivering: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._republishing: set[asyncio.Task[None]] = set()
        self._closing = False

    # -- opening and closing ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load the model, end what a crash left running as ``interrupted``, and delete the blocks that it left on disk.

        Raises:
            ConfigError, ModelLoadError, StoreError: the server cannot start (also when another one has the database).
        """
        try:
            await self.store.claim()
            await self.orphans.end_all()
            facts = await self.engine.start()
            await leftovers.let_go(self.store, self.engine, self._heads)
            self._know(facts)
            longest = min(self.max_model_len, (self.num_blocks - 1) * self.block_size)
            await self.publisher.open(Room(self.block_size, self.max_model_len, longest, self.caching))
        except BaseException:
            await self.close()
            raise
        self._delivering = asyncio.get_running_loop().create_task(self._delivery.run())
        self._keeping = asyncio.get_running_loop().create_task(self.keeper.run())

    def _know(self, facts: EngineFacts) -> None:
        self.max_model_len = self.prompting.limit = facts.max_model_len
        self.block_size = facts.block_size
        self.num_blocks = facts.num_blocks
        self.num_tokens = max(facts.vocab_size, self.tokenizer.backend.get_vocab_size(with_added_tokens=True))
        self.warm_fraction = facts.warm_fraction
        self.is_fake = facts.is_fake
        self.caching = facts.caching
        self._fingerprint = facts.fingerprint
        self._beginner.served = Served(self.max_model_len, facts.max_num_seqs, facts.vocab_size, facts.eos_token_ids)
        self._constraining.open(facts.vocab_size, facts.eos_token_ids)

    async def drain(self, seconds: float) -> None:
        """Refuse new turns, and give those that run ``seconds`` to end."""
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._admission.emptied()

    async def close(self) -> None:
        """Stop the engine; turns that still run end as ``interrupted``. Right however far ``open`` came, and again."""
        self._closing = True
        if self._keeping:
            self._keeping.cancel()
        await self.prefetcher.close()
        await self.turns.all_begun()
        await self.engine.stop()
        if self._republishing:
            await asyncio.wait(self._republishing)
        self._delivery.close()
        if self._delivering:
            await self._delivering
        self.prompting.close()
        self._constraining.close()

    def _receive(self, outputs: list[StepOutput]) -> None:
        self.publisher.receive(outputs)
        self._delivery.receive(outputs, self.engine.stepped_at)

    def _engine_died(self) -> None:
        self.publisher.stopped()
        if not self._closing:
            for turn in list(self.turns.values()):
                self._delivery.end(turn, failed=(EngineStopped.code, self.engine.why))

    def _engine_restarted(self) -> None:
        """Its cache is cold, and leases come again with their conversations; what was published is published again."""
        if self._closing:
            return
        task = asyncio.get_running_loop().create_task(self.publisher.open_again())
        self._republishing.add(task)
        task.add_done_callback(self._republishing.discard)

    def _leases_changed(self, events: list[LeaseEvent]) -> None:
        self.keeper.tell(events)

    # -- turns --------------------------------------------------------------------------------------------------------

    async def submit(self, request: TurnRequest) -> LiveTurn:
        """Begin a turn that gives one answer; see ``submit_choices``."""
        (turn,) = await self.submit_choices(request)
        return turn

    async def submit_choices(self, request: TurnRequest) -> list[LiveTurn]:
        """Begin as many turns as ``request.params.n`` says, each of which gives an answer, from one computed prompt.
        When this returns their input is stored and their streams have begun.

        Raises:
            Overloaded, RateLimited, ConversationNotFound, PreviousResponseNotFound, SessionBusy,
            ContextLengthExceeded, InputTooLong, InvalidRequest, IdempotencyConflict, StoreError, EngineStopped,
            KeyTaken: nothing was begun.
        """
        self._check_open()
        self._beginner.check(request)
        self.quotas.ask(request.tenant)
        submitted = self._clock()
        await self._admission.enter(request.tenant, request.conversation, request.params.n)
        begun: list[Begun] = []
        try:
            self._check_open()
            if request.client_key and await self.store.turn_of_key(request.tenant, request.client_key):
                raise KeyTaken  # by one that it waited for
            request, compiled = await self._constraining.prepare(request, self._salts.of(request.tenant))
            begun = await self._begin(request, submitted, compiled)
            try:
                await self._store_and_start(begun)
            except SessionBusy:
                # The session has no other turn here: it was added to meanwhile, or has an orphan.
                await self.orphans.end(request.tenant)
                begun = await self._begin(request, submitted, compiled)
                await self._store_and_start(begun)
        except BaseException:
            if not begun or not begun[0].turn.stream.events:
                for _ in range(request.params.n):
                    self._admission.leave(request.tenant, request.conversation)
                for turn, _ in begun:
                    self.quotas.release(turn.id)
            raise
        return [turn for turn, _ in begun]

    async def _begin(self, request: TurnRequest, submitted: float, compiled: Compiled | None) -> list[Begun]:
        begun = await self._beginner.begin(request, submitted)
        self.quotas.reserve([turn for turn, _ in begun], self.max_model_len)
        for turn, _ in begun:
            turn.compiled = compiled
        return begun

    async def _store_and_start(self, begun: Sequence[Begun]) -> None:
        """All of it or nothing, also when the caller is cancelled meanwhile: a row without a turn is an orphan."""
        storing = asyncio.get_running_loop().create_task(self._acknowledge(begun))
        self.turns.beginning |= {turn.id: storing for turn, _ in begun}
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            while not storing.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([storing])
            raise

    async def _acknowledge(self, begun: Sequence[Begun]) -> None:
        try:
            self._check_open()
            if begun[0].turn.request.stored:
                stored = await self.store.begin_turns([row for _, row in begun])
                if stored[0].duplicate:
                    raise KeyTaken
                for (turn, _), done in zip(begun, stored, strict=True):
                    turn.input_tip = done.turn.input_tip
            self.turns |= {turn.id: turn for turn, _ in begun}
        finally:
            for turn, _ in begun:
                del self.turns.beginning[turn.id]
        for turn, row in begun:
            turn.parent = row.parent_hash
            turn.owner = self._heads.of(turn.request, turn.id, row.parent_hash)
        for turn, _ in begun:
            turn.stream.append(Started(turn.id, turn.created_at))
        request = begun[0].turn.request
        results = filter(None, (call_id_of(message.content) for message in request.messages))
        self.tool_waits.returned(request.tenant, request.session_id, results)
        self._start([turn for turn, _ in begun])

    def _start(self, turns: Sequence[LiveTurn]) -> None:
        first = turns[0]
        request = first.request
        command = AddRequest(
            request_id=request.id,
            prompt_token_ids=list(first.prompt),
            params=request.params,
            salt=self._salts.of(request.tenant),
            priority=request.priority,
            weight=self.quotas.weight(request.tenant),
            owner=first.owner,
            more_owners=[turn.owner for turn in turns[1:]],
        )
        try:
            self.engine.send(command)
        except EngineStopped as error:
            for turn in turns:
                self._delivery.end(turn, failed=(error.code, str(error)))

    def _domain(self, tenant: str) -> KeyDomain:
        return KeyDomain(self._fingerprint, self._salts.shown(tenant))

    def _cancel(self, turn: LiveTurn) -> None:
        self.engine.send(CancelRequest(turn.request.id, turn.index))

    def cancel(self, tenant: str, turn_id: str) -> LiveTurn:
        """Ask a running turn to end now, whatever its state; its stream tells when it has.

        Raises:
            ResponseNotFound: no such turn runs.
        """
        turn = self.turns.live(tenant, turn_id)
        if turn is None:
            raise ResponseNotFound(f"no response {shown(turn_id)} is running")
        self._cancel(turn)
        return turn

    def attend(self, turn: LiveTurn, is_read: bool) -> None:
        """Whether anybody reads a turn that runs: where blocks are short, the others give way first."""
        if turn.is_read != is_read and turn.stream.ended is None:
            turn.is_read = is_read
            with suppress(EngineStopped):  # then it ends
                self.engine.send(AttendRequest(turn.request.id, is_read))

    async def end(self, tenant: str, turn_id: str) -> None:
        """Cancel a turn, if it runs or is just beginning, and wait for its end."""
        await self.turns.begun(turn_id)
        if turn := self.turns.live(tenant, turn_id):
            with suppress(EngineStopped):  # then it ends all the same
                self.cancel(tenant, turn_id)
            await turn.stream.end()

    async def _end_turns_of(self, tenant: str) -> None:
        await self.turns.all_begun()  # some of them may be this tenant's
        for turn in self.turns.of_tenant(tenant):
            await self.end(tenant, turn.id)

    async def prompt(self, request: TurnRequest) -> Sequence[int]:
        """The ids that the request would ask the model with, of which nothing is computed.

        Raises:
            ConversationNotFound, PreviousResponseNotFound, SessionBusy, InputTooLong, InvalidRequest, StoreError.
        """
        return (await self._beginner.question(request))[2].prompt.token_ids

    def _check_open(self) -> None:
        if self._closing:
            raise Overloaded("the server is shutting down", retry_after=5.0)
        if not self.engine.alive:
            raise EngineStopped(self.engine.why)

    def _turn_ended(self, turn: LiveTurn, ended: Ended, tip: MessageHash | None) -> None:
        del self.turns[turn.id]
        turn.compiled = None
        self.quotas.settle(turn)
        self._admission.leave(turn.request.tenant, turn.request.conversation)
        self._aftermath.of(turn, ended, tip)
        self._on_end(turn, ended)
        request = turn.request
        if request.stored and request.kind == "response" and ended.error_code not in (StoreError.code, TurnTaken.code):
            self._recent.put(turn, self._clock())  # of another end than the store's nothing is told again
