"""What happens while an answer comes, as typed events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager import AsyncClient
from chatpager.client import Call, Created, Ended, Lease, Prefill, Text, Thought
from chatpager.client.events import event_of
from tests.serving import GREEDY

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


async def test_an_answer_s_events_in_their_order(serve):
    async with serve(step=32) as server, AsyncClient(server.url) as client:
        session = await client.session()
        async with session.send("word " * 30, **GREEDY) as answer:
            events = [event async for event in answer.events()]
    assert events[0] == Created(answer.reply.id)
    assert events[-1] == Ended("incomplete")
    kinds = [type(event) for event in events]
    assert set(kinds) == {Created, Prefill, Text, Ended}
    assert kinds.index(Prefill) < kinds.index(Text)
    assert next(e for e in events if isinstance(e, Prefill))[:2] == (32, answer.reply.input_tokens)
    assert "".join(e.text for e in events if isinstance(e, Text)) == answer.reply.text


@pytest.mark.parametrize(
    ("sent", "event"),
    [
        (
            {
                "type": "response.output_item.done",
                "item": {**CALL, "status": "completed"},
            },
            Call("c", "f", "{}"),
        ),
        ({"type": "response.output_item.done", "item": {**CALL, "status": "incomplete"}}, None),
        ({"type": "response.reasoning_text.delta", "delta": "hm"}, Thought("hm")),
        (
            {"type": "chatpager.lease", "change": "revoked", "strength": "soft", "tokens": 3, "reason": "r"},
            Lease("revoked", "soft", 3, "r"),
        ),
        ({"type": "response.failed", "response": {"status": "failed"}}, Ended("failed")),
        ({"type": "response.output_text.delta", "delta": ""}, None),
        (None, None),
    ],
)
def test_what_is_an_event(sent, event):
    assert event_of(sent) == event


@given(st.text(), st.dictionaries(st.text(), st.integers() | st.text()))
def test_what_a_later_server_sends_is_passed_over(kind, more):
    assert event_of({**more, "type": f"later.{kind}"}) is None
