"""What the address with which a WebSocket is opened asks for, checked before it is: afterwards nobody would hear of a
mistake in it."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import web
from multidict import MultiMapping

from chatpager.errors import ConversationNotFound, InvalidRequest
from chatpager.server.input_items import check_text
from chatpager.server.keyring import tenant_of
from chatpager.server.resuming import event_number
from chatpager.server.service import SERVICE


class Opening(NamedTuple):
    """``resume``: the response that the client was reading when it lost its last socket, and the number of the last
    event it got. ``conversation``: what it will speak in."""

    resume: tuple[str, int] | None
    conversation: str | None


def opening(query: MultiMapping[str]) -> Opening:
    """Of a query whose names are known (``queries``). Raises InvalidRequest: the socket is not opened."""
    if "response_id" not in query and "starting_after" in query:
        raise InvalidRequest("starting_after: send the response's response_id with it", param="starting_after")
    named = {name: check_text(query[name], name) for name in ("response_id", "conversation") if name in query}
    if empty := [name for name, value in named.items() if not value]:
        raise InvalidRequest(f"{empty[0]} is empty; leave it out, or name one", param=empty[0])
    resume = (named["response_id"], event_number(query.get("starting_after", "-1"))) if "response_id" in named else None
    return Opening(resume, named.get("conversation"))


async def conversation_known(request: web.Request, asked: Opening) -> None:
    """Raises ConversationNotFound: the socket is not opened."""
    if asked.conversation is not None:
        try:
            await request.app[SERVICE].store.session(tenant_of(request), asked.conversation)
        except ConversationNotFound as error:
            raise ConversationNotFound(error.message, param="conversation") from error
