"""What somebody is writing on one WebSocket, passed on to the engine while it is being written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from chatpager.errors import ChatpagerError, InvalidRequest, NotFound
from chatpager.server.client_events import Draft
from chatpager.server.input_items import Json
from chatpager.server.reading import made_of
from chatpager.server.requests import response_request
from chatpager.server.service import Service

log = structlog.get_logger(__name__)

Refuse = Callable[[ChatpagerError], Awaitable[None]]


class Drafts:
    """One after the other, but of those that came meanwhile only the last. ``writer`` names the socket."""

    def __init__(self, service: Service, tenant: str, writer: str) -> None:
        self._service = service
        self._tenant = tenant
        self._writer = writer
        self.waiting: list[Draft] = []
        """The one that is being passed on, and what was written since."""
        self._ended = 0
        self._passed = False
        """Since then: most sockets have no draft, and thousands may close at once."""

    def add(self, draft: Draft) -> bool:
        """Take the next one; whether ``pass_on`` must run now."""
        for superseded in self.waiting[1:]:
            superseded.let_go()
        self.waiting[1:] = [draft]
        return len(self.waiting) == 1

    async def pass_on(self, refuse: Refuse) -> None:
        """``refuse`` tells the socket what is wrong with a draft of which no response could come, now or later."""
        while self.waiting:
            draft = self.waiting.pop()
            while self.waiting:
                self.waiting.pop().let_go()
            self.waiting.append(draft)
            try:
                if draft.body is None:
                    self.end()
                else:
                    await self._pass(draft.body, refuse)
            finally:
                draft.let_go()
            del self.waiting[0]

    async def _pass(self, body: Json, refuse: Refuse) -> None:
        ended = self._ended
        self._passed = True
        try:
            asked = partial(response_request, draft=True)
            request = await made_of(body, asked, self._service.served, self._tenant)
            await self._service.hub.drafting.draft(request, self._writer, lambda: self._ended == ended)
        except (InvalidRequest, NotFound) as error:
            if self._ended == ended:  # of what was sent since, the response says it
                await refuse(error)
        except ChatpagerError as error:
            log.debug("draft.passed_over", writer=self._writer, reason=str(error))

    def end(self) -> None:
        """It was sent, or will not be."""
        self._ended += 1
        if self._passed:
            self._passed = False
            self._service.hub.drafting.end(self._writer)
