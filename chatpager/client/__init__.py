"""The Python client: sessions over the Responses WebSocket (floor 5; it knows only the wire)."""

from chatpager.client.client import AsyncClient, Session
from chatpager.client.refusals import ClientError
from chatpager.client.reply import Reply

__all__ = ["AsyncClient", "ClientError", "Reply", "Session"]
