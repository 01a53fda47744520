"""The wire's objects: each has its tag, and none shares what can be changed."""

import json

import msgspec
import pytest

from chatpager.server import wire, wire_chat, wire_conversations, wire_events

EMPTY = {"id": "x", "created_at": 1, "status": "completed", "model": "tiny", "output": []}


def test_text_stays_what_it_is():
    for text in ["", "\N{GRINNING FACE}", "你好", "\u2028", '"\\', "</script>"]:
        assert json.loads(wire.encode(wire.TextPart("output_text", text)))["text"] == text


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        (wire.Response(**EMPTY), "response"),
        (wire_conversations.Conversation(id="x", created_at=1, metadata={}, chatpager={}), "conversation"),
        (wire.Page(data=[], first_id=None, last_id=None, has_more=False), "list"),
        (wire.Model(id="x", created=1), "model"),
        (wire_chat.ChatChunk(id="x", created=1, model="tiny", choices=[]), "chat.completion.chunk"),
    ],
)
def test_objects_name_what_they_are(value, tag):
    assert json.loads(wire.encode(value))["object"] == tag


def test_events_name_what_they_are():
    delta = wire_events.TextDelta(sequence_number=0, item_id="x", delta="a")
    assert json.loads(wire.encode(delta)) == {
        "type": "response.output_text.delta", "sequence_number": 0, "item_id": "x", "output_index": 0,
        "content_index": 0, "delta": "a", "logprobs": [],
    }  # fmt: skip


def test_an_item_shows_no_account_where_there_is_none():
    item = wire.Item(id="x", status="completed", role="assistant", content=[])
    assert json.loads(wire.encode(item)) == {
        "id": "x", "type": "message", "status": "completed", "role": "assistant", "content": [],
    }  # fmt: skip


def test_defaults_are_each_object_s_own():
    one, other = wire.Response(**EMPTY), wire.Response(**EMPTY)
    one.metadata["a"] = 1
    assert other.metadata == {}


def test_objects_are_frozen():
    with pytest.raises(AttributeError):
        wire.Response(**EMPTY).status = "failed"
    assert msgspec.to_builtins(wire.Deleted(id="x", object="y")) == {"id": "x", "object": "y", "deleted": True}
