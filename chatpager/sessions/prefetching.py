"""Bringing a conversation's blocks back to the device before somebody goes on with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from chatpager.engine.messages import AddRequest
from chatpager.engine.questions import Prefetch
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import ConversationNotFound, EngineStopped, RequestError, StoreError, TenantPaused
from chatpager.sessions.around import around_of
from chatpager.sessions.engine_host import EngineHost
from chatpager.sessions.heads import owner_of
from chatpager.sessions.keeping import Keeper
from chatpager.sessions.mistakes import log_mistake
from chatpager.sessions.prompting import Prompting
from chatpager.sessions.salts import Salts
from chatpager.store import Message, Store

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 8
"""Each makes a prompt on the one thread that all turns' prompts are made on."""


class Prefetcher:
    """``check_open`` raises TenantPaused."""

    def __init__(
        self,
        store: Store,
        prompting: Prompting,
        engine: EngineHost,
        keeper: Keeper,
        salts: Salts,
        check_open: Callable[[str], None],
    ) -> None:
        self._store = store
        self._prompting = prompting
        self._engine = engine
        self._keeper = keeper
        self._salts = salts
        self._check_open = check_open
        self.running: dict[tuple[str, str], asyncio.Task[ConversationNotFound | None]] = {}
        """Those that nobody waits for, by tenant and conversation."""

    async def bring(self, tenant: str, session_id: str) -> int:
        """Bring what is kept of a conversation below the device back to it; it then has a soft lease. Tokens brought:
        none while the engine computes, or where memory is short, or of what cannot be asked as it stands (its next turn
        will say why).

        Raises:
            ConversationNotFound, TenantPaused, StoreError, EngineStopped.
        """
        self._check_open(tenant)
        session = await self._store.session(tenant, session_id)
        owner = owner_of(tenant, session_id)
        cached = await self._keeper.cache_of(owner)
        if cached is None or not cached.host_tokens + cached.disk_tokens:
            return 0
        chain = await self._store.load_chain(tenant, session.tip_hash)
        turns = await self._store.turns_of(tenant, session_id, latest=1)
        try:
            return await self._ask(tenant, owner, chain, turns[-1].request if turns else {})
        except TenantPaused:
            raise
        except RequestError:
            return 0

    def soon(
        self, tenant: str, session_id: str, *, missing: Callable[[ConversationNotFound], None] = lambda error: None
    ) -> None:
        """The same, for whoever does not wait for it and hears of it only where the conversation is ``missing``; once
        at a time for a conversation, and not at all while many others are under way."""
        name = (tenant, session_id)
        task = self.running.get(name)
        if task is None:
            if len(self.running) >= MOST_AT_ONCE:
                return
            task = self.running[name] = asyncio.get_running_loop().create_task(self._quietly(tenant, session_id))
            task.add_done_callback(lambda done: self.running.pop(name))
        task.add_done_callback(partial(_tell, missing))

    async def close(self) -> None:
        for task in self.running.values():
            task.cancel()
        if self.running:
            await asyncio.wait(list(self.running.values()))

    async def _quietly(self, tenant: str, session_id: str) -> ConversationNotFound | None:
        try:
            await self.bring(tenant, session_id)
        except ConversationNotFound as error:
            return error
        except (RequestError, EngineStopped, StoreError) as error:
            log.debug("prefetch", session=session_id, reason=str(error))
        except Exception as error:
            log_mistake("prefetch.failed", error, session=session_id)
        return None

    async def _ask(self, tenant: str, owner: str, chain: Sequence[Message], parameters: Mapping[str, Any]) -> int:
        """``parameters``: of the last turn, whose instructions and tools the next one probably has too."""
        question = await self._prompting.question(tenant, chain, around_of(parameters).next_turn())
        request = AddRequest(
            request_id=f"prefetch-{owner}",
            prompt_token_ids=list(question.prompt.token_ids[: self._prompting.limit - 1]),
            params=SamplingParams(max_tokens=1),
            salt=self._salts.of(tenant),
            owner=owner,
        )
        self._check_open(tenant)  # it may have been paused meanwhile
        brought = await self._engine.ask(Prefetch(request))
        if brought:
            self._keeper.alive([owner])
        return brought


def _tell(missing: Callable[[ConversationNotFound], None], done: asyncio.Task[ConversationNotFound | None]) -> None:
    if not done.cancelled() and (error := done.result()):
        missing(error)
