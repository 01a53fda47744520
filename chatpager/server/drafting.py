"""What somebody is writing on one WebSocket, passed on to the engine while it is being written."""

from __future__ import annotations

from contextlib import suppress

from chatpager.errors import ChatpagerError
from chatpager.server.input_items import Json
from chatpager.server.requests import response_request
from chatpager.server.service import Service


class Drafts:
    """One after the other, but of those that came meanwhile only the last. ``writer`` names the socket."""

    def __init__(self, service: Service, tenant: str, writer: str) -> None:
        self._service = service
        self._tenant = tenant
        self._writer = writer
        self.waiting: list[Json | None] = []
        """The one that is being passed on, and what was written since."""
        self._ended = 0

    def add(self, body: Json | None) -> bool:
        """Take the next one (None: it is given up); whether ``pass_on`` must run now."""
        self.waiting.append(body)
        return len(self.waiting) == 1

    async def pass_on(self) -> None:
        while self.waiting:
            body = self.waiting[-1]
            del self.waiting[:-1]
            if body is None:
                self.end()
            else:
                with suppress(ChatpagerError):
                    await self._pass(body)
            if self.waiting[-1] is body:
                self.waiting.clear()

    async def _pass(self, body: Json) -> None:
        request, ended = response_request(body, self._service.served, self._tenant, draft=True), self._ended
        await self._service.hub.draft(request, self._writer, lambda: self._ended == ended)

    def end(self) -> None:
        """It was sent, or will not be."""
        self._ended += 1
        self._service.hub.end_draft(self._writer)
