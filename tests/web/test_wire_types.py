"""The page's wire types against the server's structs: a field that the page reads is one that the server writes."""

import re
from pathlib import Path

import msgspec
import pytest

from chatpager.server import openapi_shapes as shapes
from chatpager.server import wire, wire_conversations, wire_events
from chatpager.server.request_bodies import ResponseCreate
from chatpager.sessions.comparing import Explanation
from chatpager.sessions.receipt import Break, Eviction, Receipt

WEB = Path(__file__).parent.parent.parent / "web" / "src"
SOURCE = "".join((WEB / name).read_text() for name in ("wire.ts", "events.ts"))
INTERFACE = re.compile(r"export interface (\w+)(?:<\w+>)?(?: extends (\w+))? \{\n(.*?)\n\}", re.DOTALL)
INTERFACES = {name: (base, body) for name, base, body in INTERFACE.findall(SOURCE)}
PAIRS = {
    "Usage": wire.Usage,
    "CacheReceipt": Receipt,
    "Eviction": Eviction,
    "Break": Break,
    "Item": wire.Item,
    "ReasoningItem": wire.ReasoningItem,
    "CallItem": wire.FunctionCallItem,
    "CallOutputItem": wire.FunctionOutputItem,
    "ResponseObject": wire.Response,
    "Conversation": wire_conversations.Conversation,
    "Explanation": Explanation,
    "Export": shapes.Export,
    "Page": wire.Page,
    "ErrorBody": wire.ErrorBody,
    "TurnError": wire.ErrorDetails,
    "Health": shapes.Health,
    "Wishes": ResponseCreate,
    "CreateRequest": ResponseCreate,
    "DraftRequest": ResponseCreate,
}
OF_FRAMES = {"type", "idempotency_key"}
"""What a frame has that a body has not."""
OUR_EVENTS = {"chatpager.prefill": wire_events.PrefillEvent, "chatpager.resumed": wire_events.ResumedFrame}


def fields_of(name: str) -> set[str]:
    base, body = INTERFACES[name]
    return set(re.findall(r"^  (\w+)\??:", body, re.MULTILINE)) | (fields_of(base) if base else set())


def written(struct: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


@pytest.mark.parametrize("name", PAIRS)
def test_every_field_is_the_servers(name):
    frames = OF_FRAMES if name.endswith("Request") else set()
    assert fields_of(name) - frames <= written(PAIRS[name])


def test_every_interface_that_stands_on_the_wire_is_compared():
    alone = {"TurnAccount", "TextPart", "Timings", "CancelRequest", "WithdrawRequest", "ResumeRequest"}
    assert INTERFACES.keys() - PAIRS.keys() == alone


@pytest.mark.parametrize("kind", OUR_EVENTS)
def test_our_events_have_the_servers_fields(kind):
    [body] = re.findall(rf'\{{ type: "{re.escape(kind)}"; (.*?) \}}', SOURCE)
    assert set(re.findall(r"(\w+):", body)) <= written(OUR_EVENTS[kind])


def test_the_page_knows_only_events_that_the_server_sends():
    [known] = re.findall(r"KNOWN.*?\[(.*?)\]", SOURCE, re.DOTALL)
    names = set(re.findall(r'"([\w.]+)"', known))
    told = (Path(__file__).parent.parent.parent / "docs" / "protocol.md").read_text()
    assert names
    assert names <= set(re.findall(r"`([\w.]+)`", told))
