"""Where turns begin, run and end: the join of engine and store.

A turn is stored before it is acknowledged, its tokens are journalled before they are shown, its end is stored before
it is told. One session has one running turn; others of the same session wait in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from chatpager.engine.chat_template import ChatMessage, ChatTemplate, Prompt
from chatpager.engine.engine import Engine
from chatpager.engine.messages import AddRequest, CancelRequest, StepOutput
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import (
    ContextLengthExceeded,
    EngineStopped,
    Overloaded,
    PreviousResponseNotFound,
    ResponseNotFound,
    SessionBusy,
    StoreError,
)
from chatpager.sessions.delivery import Delivery
from chatpager.sessions.engine_thread import EngineThread
from chatpager.sessions.locks import KeyedLocks
from chatpager.sessions.remembered import Remembered
from chatpager.sessions.stream import Ended, Started
from chatpager.sessions.turn import LiveTurn, TurnRequest
from chatpager.store import Message, MessageHash, NewMessage, NewTurn, Store

log = structlog.get_logger(__name__)

TITLE_CHARS = 80
REMEMBERED_TOKENS = 4 << 20
"""Token ids of past turns kept to say where a prompt diverged from the turn before; 4 bytes each."""


class SessionHub:
    """``on_end`` is told of every turn's end. ``clock`` is in seconds and never goes back, ``wall`` in milliseconds."""

    def __init__(
        self,
        store: Store,
        tokenizer: Tokenizer,
        build_engine: Callable[[], Engine],
        *,
        max_turns: int = 1024,
        on_end: Callable[[LiveTurn, Ended], None] = lambda turn, ended: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.store = store
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer)
        self.turns: dict[str, LiveTurn] = {}
        self.wall = wall
        self._build_engine = build_engine
        self._max_turns = max_turns
        self._on_end = on_end
        self._clock = clock
        self._locks = KeyedLocks()
        self._remembered = Remembered(REMEMBERED_TOKENS)
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="chatpager-tokenizer")
        self._closing = False

    # -- opening and closing ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load the model, and end what a crash left running as ``interrupted``.

        Raises:
            ConfigError, ModelLoadError, StoreError: the server cannot start (also when another one has the database).
        """
        await self.store.claim()
        self.engine = EngineThread(self._build_engine, self._receive)
        engine = await self.engine.start()
        self.max_model_len = engine.runner.max_model_len
        self.block_size = engine.config.block_size
        self.num_blocks = engine.pool.usable
        self._eos = engine.runner.eos_token_ids
        for turn in await self.store.recover(self.wall()):
            log.info("turn.interrupted", turn=turn.turn_id, session=turn.session_id, tokens=turn.tokens)
        self._delivery = Delivery(
            self.turns,
            self.store,
            self.tokenizer,
            cancel=lambda turn_id: self.engine.send(CancelRequest(turn_id)),
            ended=self._turn_ended,
            block_size=self.block_size,
            caching=engine.config.enable_prefix_caching,
            clock=self._clock,
            wall=self.wall,
        )
        self._delivering = asyncio.get_running_loop().create_task(self._delivery.run())

    async def drain(self, seconds: float) -> None:
        """Refuse new turns, and give those that run ``seconds`` to end."""
        self._closing = True
        live = [asyncio.ensure_future(turn.stream.end()) for turn in self.turns.values()]
        if live:
            await asyncio.wait(live, timeout=seconds)
        for waiter in live:
            waiter.cancel()
        await asyncio.gather(*live, return_exceptions=True)

    async def close(self) -> None:
        """Stop the engine; turns that still run end as ``interrupted``."""
        self._closing = True
        await self.engine.stop()
        self._delivery.close()
        await self._delivering
        self._tokenizing.shutdown()

    def _receive(self, outputs: list[StepOutput]) -> None:
        self._delivery.receive(outputs)
        if not self.engine.alive and not self._closing:
            for turn in list(self.turns.values()):
                self._delivery.end(turn, failed=(EngineStopped.code, "the engine has stopped"))

    # -- turns --------------------------------------------------------------------------------------------------------

    async def submit(self, request: TurnRequest) -> LiveTurn:
        """Begin a turn. When this returns its input is stored and its stream has begun.

        Raises:
            Overloaded, ConversationNotFound, PreviousResponseNotFound, SessionBusy, ContextLengthExceeded,
            InvalidRequest, StoreError, EngineStopped: nothing was begun.
        """
        self._check_open()
        submitted = self._clock()
        await self._locks.acquire(request.conversation)
        try:
            self._check_open()
            turn = await self._begin(request, submitted)
            self.turns[turn.id] = turn
        except BaseException:
            self._locks.release(request.conversation)
            raise
        turn.stream.append(Started(turn.id, turn.created_at))
        self._start(turn)
        return turn

    def _start(self, turn: LiveTurn) -> None:
        request = turn.request
        command = AddRequest(
            request_id=turn.id,
            prompt_token_ids=list(turn.prompt),
            params=request.params,
            salt=request.tenant.encode(),
            priority=request.priority,
        )
        try:
            self.engine.send(command)
        except EngineStopped as error:
            self._delivery.end(turn, failed=(error.code, str(error)))

    def cancel(self, tenant: str, turn_id: str) -> LiveTurn:
        """Ask a running turn to end now, whatever its state; its stream tells when it has.

        Raises:
            ResponseNotFound: no such turn runs.
        """
        turn = self.live(tenant, turn_id)
        if turn is None:
            raise ResponseNotFound(f"no response {turn_id!r} is running")
        self.engine.send(CancelRequest(turn_id))
        return turn

    def live(self, tenant: str, turn_id: str) -> LiveTurn | None:
        turn = self.turns.get(turn_id)
        return turn if turn and turn.request.tenant == tenant else None

    def live_of_session(self, tenant: str, session_id: str) -> LiveTurn | None:
        found = (t for t in self.turns.values() if t.request.session_id == session_id and t.request.tenant == tenant)
        return next(found, None)

    def _check_open(self) -> None:
        if self._closing:
            raise Overloaded("the server is shutting down", retry_after=5.0)
        if len(self.turns) + self._locks.waiting >= self._max_turns:
            raise Overloaded(f"{self._max_turns} turns are running or waiting", retry_after=1.0)
        if not self.engine.alive:
            raise EngineStopped("the engine has stopped; restart the server")

    def _turn_ended(self, turn: LiveTurn, ended: Ended, tip: MessageHash | None) -> None:
        del self.turns[turn.id]
        self._locks.release(turn.request.conversation)
        if tip and turn.receipt:
            self._remembered.put(tip, turn.computed_ids())
        self._on_end(turn, ended)

    # -- beginning ----------------------------------------------------------------------------------------------------

    async def _begin(self, request: TurnRequest, submitted: float) -> LiveTurn:
        history, fresh = await self._history(request)
        conversation: list[Message | NewMessage] = [*history, *fresh]
        messages = [self._chat_message(m) for m in conversation]
        if request.instructions:
            messages.insert(0, ChatMessage("system", request.instructions))
        prompt = await self._tokenize(messages)
        wanted = max(1, request.params.min_tokens)
        if len(prompt.token_ids) + wanted > self.max_model_len:
            raise ContextLengthExceeded(len(prompt.token_ids), wanted, self.max_model_len)
        now = self.wall()
        turn = LiveTurn(
            request,
            prompt.token_ids,
            self.tokenizer.text_stream(request.params),
            template=prompt.form,
            eos=self._eos,
            created_at=now,
            submitted=submitted,
        )
        parent = history[-1].hash if history else None
        turn.previous = self._remembered.get(parent)
        if request.stored:
            turn.input_tip = await self._store_beginning(request, parent, fresh, now)
        return turn

    async def _history(self, request: TurnRequest) -> tuple[list[Message], Sequence[NewMessage]]:
        """What is stored of the conversation, and what the request adds."""
        store, tenant = self.store, request.tenant
        if request.whole:
            stored = await store.match_content(tenant, request.messages)
            return stored, request.messages[len(stored) :]
        tip: MessageHash | None = None
        if request.session_id is not None:
            tip = (await store.session(tenant, request.session_id)).tip_hash
        elif request.previous_turn_id is not None:
            tip = await self._tip_of(tenant, request.previous_turn_id)
        return await store.load_chain(tenant, tip), request.messages

    async def _tip_of(self, tenant: str, turn_id: str) -> MessageHash:
        try:
            turn = await self.store.turn(tenant, turn_id)
        except ResponseNotFound as error:
            message = f"no response {turn_id!r}; send the whole input without previous_response_id"
            raise PreviousResponseNotFound(message, param="previous_response_id") from error
        if turn.status == "in_progress":
            raise SessionBusy(f"response {turn_id!r} is still running; follow it to its end first")
        return turn.tip_hash or turn.input_tip

    def _chat_message(self, message: Message | NewMessage) -> ChatMessage:
        """Ids of another vocabulary mean nothing here, so such an answer is rendered from its text."""
        text = "".join(part["text"] for part in message.content if part.get("type") == "text")
        known = message.role == "assistant" and message.vocab == self.tokenizer.fingerprint
        return ChatMessage(message.role, text, message.token_ids if known else None)

    async def _tokenize(self, messages: Sequence[ChatMessage]) -> Prompt:
        """Rendering and tokenising a long conversation takes milliseconds that the event loop does not have."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, self.template.prompt, messages)

    async def _store_beginning(
        self, request: TurnRequest, parent: MessageHash | None, fresh: Sequence[NewMessage], now: int
    ) -> MessageHash:
        begun = await self.store.begin_turn(
            NewTurn(
                id=request.id,
                tenant=request.tenant,
                kind=request.kind,
                model=request.model,
                vocab=self.tokenizer.fingerprint,
                messages=fresh,
                now=now,
                session_id=request.session_id,
                previous_turn_id=request.previous_turn_id,
                parent_hash=parent,
                request=request.parameters,
            )
        )
        if request.session_id is not None and parent is None:
            await self._give_title(request.tenant, request.session_id, fresh)
        return begun.turn.input_tip

    async def _give_title(self, tenant: str, session_id: str, fresh: Sequence[NewMessage]) -> None:
        """A conversation without a title is called by its first words. That is no reason to fail a stored turn."""
        words = next((self._chat_message(m).text for m in fresh if m.role == "user"), "")
        title = " ".join(words.replace("\0", " ").split())[:TITLE_CHARS]
        try:
            if title and not (await self.store.session(tenant, session_id)).title:
                await self.store.update_session(tenant, session_id, title=title)
        except StoreError as error:
            log.warning("title.not_stored", session=session_id, reason=str(error))
