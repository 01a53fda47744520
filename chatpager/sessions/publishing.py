"""Publishing what conversations of every tenant begin with: stored, computed once, and shared by the engine.

It is an operator's act. The instructions are rendered as the system message of any conversation, and what all of these
begin with, in whole blocks, is the prefix. It outlives a restart: its blocks come back from the disk when they are
asked for.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
import structlog

from chatpager.engine.heads import LeaseEvent, Strength
from chatpager.engine.messages import AddRequest, CancelRequest, PublishPrefix, StepOutput, WithdrawPrefix
from chatpager.engine.published import owner_of
from chatpager.engine.questions import PublishedWanted, Publishing
from chatpager.engine.sampling_params import SamplingParams
from chatpager.engine.stats import PublishedCache
from chatpager.errors import (
    CapacityExceeded,
    ContextLengthExceeded,
    EngineStopped,
    InvalidRequest,
    NothingCached,
    PrefixTooShort,
    StepFailed,
    StoreError,
)
from chatpager.sessions.engine_host import EngineHost
from chatpager.sessions.keeping import Keeper
from chatpager.sessions.prompting import Prompting
from chatpager.sessions.to_the_end import to_the_end
from chatpager.store import Prefix, Store

log = structlog.get_logger(__name__)

ONE_TOKEN = SamplingParams(temperature=0.0, max_tokens=1)


class Known(msgspec.Struct, frozen=True):
    """A stored prefix, and what the engine has of it; None of another model's."""

    prefix: Prefix
    cache: PublishedCache | None


class Room(msgspec.Struct, frozen=True):
    """What the engine has room for, in tokens; ``caching`` False: it finds nothing again."""

    block_size: int
    max_model_len: int
    longest: int
    caching: bool


class Publisher:
    """``vocab`` is the fingerprint of the served model's. ``wall`` is in milliseconds."""

    room: Room

    def __init__(
        self,
        store: Store,
        prompting: Prompting,
        engine: EngineHost,
        keeper: Keeper,
        *,
        vocab: str,
        wall: Callable[[], int],
    ) -> None:
        self._store = store
        self._prompting = prompting
        self._engine = engine
        self._keeper = keeper
        self._vocab = vocab
        self._wall = wall
        self._is_open = False
        self._changing = asyncio.Lock()
        """The store and the engine change together."""
        self._computing: dict[str, asyncio.Future[StepOutput]] = {}
        self._names = itertools.count(1)

    async def open(self, room: Room) -> None:
        """Hand the engine what was published before. Raises StoreError."""
        self.room, self._is_open = room, True
        await self._hand_over()

    async def open_again(self) -> None:
        """An engine that took another's place has nothing that was published. Before ``open``, that tells it."""
        if not self._is_open:
            return
        try:
            await self._hand_over()
        except StoreError as error:
            log.error("prefixes.not_published_again", reason=str(error))

    async def _hand_over(self) -> None:
        """What is stored and nothing else: other servers may have the engine, too, and have withdrawn what it was told,
        or published something else under that label. It is asked before the store, which is told of all before it."""
        async with self._changing:
            with suppress(EngineStopped):  # the next one is told
                known = {cache.label for cache in await self._engine.ask(PublishedWanted())}
                stored = {
                    prefix.label: PublishPrefix(label=prefix.label, token_ids=tokens)
                    for prefix in await self._store.prefixes.every()
                    if prefix.vocab == self._vocab and (tokens := self._in_blocks(prefix.token_ids))
                }
                for label in known - stored.keys():
                    self._take_back(label)
                await asyncio.gather(*(self._publish_anew(stored[label]) for label in known & stored.keys()))
                for label, command in stored.items():
                    if label not in known:
                        self._engine.send(command)

    async def _publish_anew(self, command: PublishPrefix) -> None:
        """Raises EngineStopped."""
        try:
            await self._engine.ask(Publishing(command))
        except InvalidRequest:  # the label has other tokens
            self._take_back(command.label)
            self._engine.send(command)

    def _take_back(self, label: str) -> None:
        self._keeper.closed(owner_of(label))
        with suppress(EngineStopped):
            self._engine.send(WithdrawPrefix(label))

    def _in_blocks(self, token_ids: Sequence[int]) -> list[int]:
        """The block size may have changed since they were stored, so the store has them all."""
        return list(token_ids[: len(token_ids) // self.room.block_size * self.room.block_size])

    # -- publishing ---------------------------------------------------------------------------------------------------

    async def publish(
        self, label: str, instructions: str, model: str, seconds: float | None = None
    ) -> tuple[Known, LeaseEvent | None]:
        """Publish instructions, compute what they come to, and keep it on the device for so long, if asked; what was
        granted of that. To publish the same again is no mistake: what was lost is computed again.

        Raises:
            PrefixTooShort, ContextLengthExceeded, InputTooLong, InvalidRequest, NothingCached, CapacityExceeded,
            PrefixExists, StoreError: nothing was published.
            StepFailed: it is published, and could not be computed; whoever asks for it first will.
            EngineStopped: the next start may find it published.
        """
        if not self.room.caching:
            raise NothingCached("prefix caching is off on this server (enable_prefix_caching)")
        if not instructions.strip():
            raise InvalidRequest("there are no instructions", param="instructions")
        ids = await self._prompting.shared(instructions)
        self._check(ids, self._in_blocks(ids))
        new = Prefix(
            label=label,
            instructions=instructions,
            model=model,
            vocab=self._vocab,
            token_ids=tuple(ids),
            created_at=self._wall(),
        )
        tokens = await to_the_end(self._publish(new))
        await self._compute(tokens)
        pinned = None
        if seconds is not None:
            pinned = await self._keeper.pin(owner_of(label), Strength.HARD, seconds)
        return await self.known(label), pinned

    async def _publish(self, new: Prefix) -> Sequence[int]:
        """Its tokens in whole blocks, which the engine shares from now on."""
        async with self._changing:
            stored = await self._store.prefixes.publish(new)
            tokens = self._in_blocks(stored.token_ids)
            command = PublishPrefix(label=new.label, token_ids=tokens)
            await self._engine.ask(Publishing(command))
        return tokens

    def _check(self, ids: Sequence[int], tokens: Sequence[int]) -> None:
        if not tokens:
            raise PrefixTooShort(len(ids), self.room.block_size)
        if len(tokens) + 1 > self.room.max_model_len:
            raise ContextLengthExceeded(len(tokens), 1, self.room.max_model_len)
        if len(tokens) + 1 > self.room.longest:
            raise CapacityExceeded(
                f"the prefix has {len(tokens)} tokens, the KV pool has room for {self.room.longest}",
                param="instructions",
            )

    async def _compute(self, tokens: Sequence[int]) -> None:
        """Ask the engine for what a prompt without an answer asks for, as nobody."""
        name = owner_of(str(next(self._names)))
        done = self._computing[name] = asyncio.get_running_loop().create_future()
        try:
            self._engine.send(AddRequest(request_id=name, prompt_token_ids=list(tokens), params=ONE_TOKEN))
            output = await done
        except asyncio.CancelledError:
            with suppress(EngineStopped):
                self._engine.send(CancelRequest(name))
            raise
        finally:
            del self._computing[name]
        if output.error_code:
            raise StepFailed(f"the prefix is published, and was not computed: {output.error_message}")

    def receive(self, outputs: Sequence[StepOutput]) -> None:
        """What a step brought; called on the loop."""
        for output in outputs:
            done = self._computing.get(output.request_id)
            if done is not None and output.finish_reason and not done.done():
                done.set_result(output)

    def stopped(self) -> None:
        """The engine brings nothing any more."""
        for done in self._computing.values():
            if not done.done():
                done.set_exception(EngineStopped(self._engine.why))

    async def withdraw(self, label: str) -> None:
        """Prompts that come from now on share it no more.

        Raises:
            PrefixNotFound, StoreError: nothing was changed.
        """
        await to_the_end(self._withdraw(label))

    async def _withdraw(self, label: str) -> None:
        async with self._changing:
            await self._store.prefixes.withdraw(label)
            self._take_back(label)

    # -- what there is ------------------------------------------------------------------------------------------------

    async def every(self) -> list[Known]:
        """Raises StoreError, EngineStopped."""
        found = await self._engine.ask(PublishedWanted())
        cached = {cache.label: cache for cache in found}
        return [self._known(prefix, cached.get(prefix.label)) for prefix in await self._store.prefixes.every()]

    async def known(self, label: str) -> Known:
        """Raises PrefixNotFound, StoreError, EngineStopped."""
        prefix = await self._store.prefixes.get(label)
        found = await self._engine.ask(PublishedWanted())
        return self._known(prefix, next((cache for cache in found if cache.label == label), None))

    def _known(self, prefix: Prefix, cache: PublishedCache | None) -> Known:
        return Known(prefix, cache and self._keeper.with_pin(owner_of(prefix.label), cache))
