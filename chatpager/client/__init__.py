"""The Python client: sessions over the Responses WebSocket (floor 5; it knows only the wire)."""

from chatpager.client.blocking import Client
from chatpager.client.client import AsyncClient, Session
from chatpager.client.events import Call, Created, Ended, Event, Lease, Prefill, Text, Thought
from chatpager.client.refusals import ClientError, UsageError
from chatpager.client.reply import Reply

__all__ = [
    "AsyncClient", "Call", "Client", "ClientError", "Created", "Ended", "Event", "Lease", "Prefill", "Reply", "Session",
    "Text", "Thought", "UsageError",
]  # fmt: skip
