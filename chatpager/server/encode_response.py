"""A turn's log as the Responses API's events and object. Pure: log events in, wire objects out.

Sequence numbers follow from the log alone, so every reader of a response, on any wire and from any time, sees the same
event under the same number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from chatpager.engine.tool_calls import CallDelta, CallEnd, Thought
from chatpager.server import wire, wire_events
from chatpager.server.encode_items import CallEvents, ReasoningEvents, call_item, reasoning_item
from chatpager.sessions.answers import Answer, CallBegun, Delta
from chatpager.sessions.logprobs import Logprob
from chatpager.sessions.stream import Ended, Event, Prefilled, Started

SHOWN_AS: dict[str, wire.ResponseStatus] = {
    "queued": "queued",
    "in_progress": "in_progress",
    "completed": "completed",
    "incomplete": "incomplete",
    "interrupted": "failed",
    "cancelled": "cancelled",
    "failed": "failed",
}
"""The store's word for a turn's state -> the wire's. To the store one that is "queued" is in progress."""
TERMINAL_EVENT: dict[wire.ResponseStatus, str] = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",
    "failed": "response.failed",
}
INTERRUPTED = wire.ErrorDetails("server_restarted", "the server stopped before the answer's end; its beginning is kept")


class ResponseFacts(NamedTuple):
    """What a response object echoes of its request."""

    id: str
    created_at: int
    model: str
    previous_response_id: str | None
    conversation_id: str | None
    parameters: Mapping[str, Any]


def item_id(response_id: str) -> str:
    """The id of the one message that a response gives."""
    return "msg_" + response_id.partition("_")[2]


def answer_item(response_id: str, text: str, status: wire.ItemStatus, logprobs: Sequence[Logprob] = ()) -> wire.Item:
    part = wire.TextPart("output_text", text, logprobs=list(logprobs))
    return wire.Item(id=item_id(response_id), status=status, role="assistant", content=[part])


def output_items(
    response_id: str, answer: Answer, status: wire.ItemStatus, logprobs: Sequence[Logprob] = ()
) -> list[wire.OutputItem]:
    """What was thought, the answer's message and calls, in the order in which they began. One that says nothing is an
    empty message."""
    unless_whole: wire.ItemStatus = "in_progress" if status == "in_progress" else "incomplete"
    items: list[wire.OutputItem] = [call_item(call, unless_whole) for call in answer.calls]
    if answer.text or not (items or answer.reasoning):
        items.insert(answer.calls_before_text, answer_item(response_id, answer.text, status, logprobs))
    for number, (place, text) in enumerate(answer.reasoning, 1):
        goes_on = place == len(items) and number == len(answer.reasoning)
        items.insert(place, reasoning_item(response_id, number, text, status if goes_on else "completed"))
    return items


def item_status(status: wire.ResponseStatus) -> wire.ItemStatus:
    return "completed" if status == "completed" else "in_progress" if status == "in_progress" else "incomplete"


def usage_object(counts: Mapping[str, int]) -> wire.Usage:
    """``counts`` as the store keeps them of a turn."""
    details = wire.InputTokensDetails(counts["cached_tokens"], counts["cache_write_tokens"])
    total = counts["input_tokens"] + counts["output_tokens"]
    thought = wire.OutputTokensDetails(counts.get("reasoning_tokens", 0))
    return wire.Usage(counts["input_tokens"], details, counts["output_tokens"], thought, total)


def error_details(state: str, error: Mapping[str, str] | None) -> wire.ErrorDetails | None:
    """Why a turn did not end well; ``error`` as the store keeps it."""
    if error:
        return wire.ErrorDetails(error["code"], error["message"])
    return INTERRUPTED if state == "interrupted" else None


def response_object(
    facts: ResponseFacts,
    state: str = "in_progress",
    *,
    answer: Answer | None = None,
    logprobs: Sequence[Logprob] = (),
    usage: Mapping[str, int] | None = None,
    receipt: Mapping[str, Any] | None = None,
    timings: Mapping[str, Any] | None = None,
    error: Mapping[str, str] | None = None,
    completed_at: int | None = None,
    diagnostics: dict[str, Any] | None = None,
) -> wire.Response:
    """A response at any time of its life; ``state`` and the rest as the store has them."""
    status = SHOWN_AS[state]
    echoed = {k: v for k, v in facts.parameters.items() if k in wire.Response.__struct_fields__}
    ours: dict[str, Any] = {"state": state, "cache": receipt, "timings": timings} if status in TERMINAL_EVENT else {}
    if warnings := facts.parameters.get("warnings"):
        ours["warnings"] = warnings
    return wire.Response(
        id=facts.id,
        created_at=facts.created_at // 1000,
        status=status,
        model=facts.model,
        output=output_items(facts.id, answer, item_status(status), logprobs) if answer is not None else [],
        error=error_details(state, error),
        incomplete_details=wire.IncompleteDetails("max_output_tokens") if state == "incomplete" else None,
        previous_response_id=facts.previous_response_id,
        conversation=wire.ConversationRef(facts.conversation_id) if facts.conversation_id else None,
        completed_at=completed_at // 1000 if completed_at and status == "completed" else None,
        usage=usage_object(usage) if usage else None,
        prompt_cache_diagnostics=diagnostics,
        chatpager=ours,
        **echoed,
    )


class ResponseEncoder:
    """Folds one turn's log. ``final`` makes the response object of its end."""

    __slots__ = ("_around", "_call", "_facts", "_item", "_items", "_next", "_text_place", "_thought", "_thoughts")

    def __init__(self, facts: ResponseFacts) -> None:
        self._facts = facts
        self._item = item_id(facts.id)
        self._next = 0
        self._items: list[str] = []
        """Ids of the items that were announced: the message's with the first text, or at the end of an answer without
        any."""
        self._text_place: int | None = None
        """The message's among them."""
        self._around: tuple[bytes, bytes, bytes] | None = None
        """What stands before a text's number in JSON, between that and the text, and behind it."""
        self._call: CallEvents | None = None
        """The call that is being told."""
        self._thoughts: ReasoningEvents | None = None
        """The same of what is thought."""
        self._thought = 0
        """Items of thoughts so far."""

    @property
    def response_id(self) -> str:
        return self._facts.id

    def feed(self, event: Event, final: wire.Response | None = None) -> Iterable[wire_events.Event]:
        """The wire's events for one event of the log; ``final`` is needed for the last."""
        if isinstance(event, Delta) and self._text_place is not None and self._thoughts is None:
            return (self._text(event, self._text_place),)
        return self._feed(event, final)

    def told(self, event: Delta) -> tuple[int, bytes] | None:
        """The wire's only event for one that goes on with the message's text, as its number and its JSON text: most
        events by far, of which only these two differ. None where there is more to be told."""
        if self._around is None:
            if self._text_place is None:
                return None
            self._around = _around(self._text(Delta(""), self._text_place))
            self._next -= 1
        if self._thoughts is not None or event.logprobs:
            return None
        number = self._next
        self._next = number + 1
        before, between, behind = self._around
        return number, b"%b%d%b%b%b" % (before, number, between, wire.encoded(event.text), behind)

    def _feed(self, event: Event, final: wire.Response | None) -> Iterable[wire_events.Event]:
        if self._thoughts and not isinstance(event, Thought | Ended):
            yield from self._end_thoughts()
        match event:
            case Started():
                response = response_object(self._facts)
                yield wire_events.ResponseEvent(
                    type="response.created", sequence_number=self._number(), response=response
                )
                yield wire_events.ResponseEvent(
                    type="response.in_progress", sequence_number=self._number(), response=response
                )
            case Prefilled():
                yield wire_events.PrefillEvent(
                    response_id=self._facts.id, done=event.done, total=event.total, cached=event.cached
                )
            case Delta():
                yield from self._announce()
                yield self._text(event, self._items.index(self._item))
            case Thought():
                yield from self._think(event.text)
            case CallBegun():
                yield from self._begin(event)
            case CallDelta():
                assert self._call is not None, "no call has begun"
                yield self._call.go_on(event.arguments)
            case CallEnd():
                yield from self._end_call()
            case _:
                assert final is not None, "the last event needs the response's object"
                yield from self.end(final)

    def _text(self, event: Delta, place: int) -> wire_events.TextDelta:
        number, self._next = self._next, self._next + 1
        return wire_events.TextDelta(
            sequence_number=number,
            item_id=self._item,
            output_index=place,
            delta=event.text,
            logprobs=_told(event.logprobs) if event.logprobs else [],
        )

    def broken(self, error: wire.ErrorBody) -> wire_events.ErrorEvent:
        """In place of the rest, where the server cannot go on with the stream."""
        return wire_events.ErrorEvent(sequence_number=self._number(), message=error.message, code=error.code)

    def end(self, final: wire.Response) -> Iterable[wire_events.Event]:
        """What is left to be told of it."""
        for item in final.output:
            if isinstance(item, wire.Item):
                yield from self._close(item)
                continue
            if isinstance(item, wire.ReasoningItem):
                yield from self.end_thoughts(item)
                continue
            if item.id not in self._items:  # the engine gave more before it was ended from outside
                yield from self._begin(CallBegun(item.call_id, item.name))
            if self._call and self._call.id == item.id:
                yield from self._end_call(item)
        yield wire_events.ResponseEvent(
            type=TERMINAL_EVENT[final.status], sequence_number=self._number(), response=final
        )

    def _announce(self) -> Iterable[wire_events.Event]:
        if self._item in self._items:
            return
        place = self._text_place = len(self._items)
        self._items.append(self._item)
        empty = wire.TextPart("output_text", "")
        item = msgspec.structs.replace(answer_item(self._facts.id, "", "in_progress"), content=[])
        yield wire_events.ItemEvent(
            type="response.output_item.added", sequence_number=self._number(), output_index=place, item=item
        )
        yield wire_events.PartEvent(
            type="response.content_part.added",
            sequence_number=self._number(),
            item_id=self._item,
            output_index=place,
            part=empty,
        )

    def _close(self, item: wire.Item) -> Iterable[wire_events.Event]:
        """The message, which is open until the answer's end: more text may come behind a call."""
        yield from self._announce()
        place = self._items.index(self._item)
        [part] = item.content
        yield wire_events.TextDone(
            sequence_number=self._number(),
            item_id=self._item,
            output_index=place,
            text=part.text,
            logprobs=_told(part.logprobs),
        )
        yield wire_events.PartEvent(
            type="response.content_part.done",
            sequence_number=self._number(),
            item_id=self._item,
            output_index=place,
            part=part,
        )
        yield wire_events.ItemEvent(
            type="response.output_item.done", sequence_number=self._number(), output_index=place, item=item
        )

    def _begin(self, call: CallBegun) -> Iterable[wire_events.Event]:
        self._call = CallEvents(call, len(self._items), self._number)
        self._items.append(self._call.id)
        yield self._call.begin()

    def _end_call(self, item: wire.FunctionCallItem | None = None) -> Iterable[wire_events.Event]:
        assert self._call is not None, "no call has begun"
        yield from self._call.end(item)
        self._call = None

    def _think(self, text: str) -> Iterable[wire_events.Event]:
        if self._thoughts is None:
            self._thought += 1
            empty = reasoning_item(self._facts.id, self._thought, "", "in_progress")
            self._thoughts = ReasoningEvents(empty, len(self._items), self._number)
            self._items.append(empty.id)
            yield from self._thoughts.begin()
        yield self._thoughts.go_on(text)

    def _end_thoughts(self, item: wire.ReasoningItem | None = None) -> Iterable[wire_events.Event]:
        assert self._thoughts is not None, "nothing is being thought"
        yield from self._thoughts.end(item)
        self._thoughts = None

    def end_thoughts(self, item: wire.ReasoningItem) -> Iterable[wire_events.Event]:
        """What is left to be told of these."""
        if item.id not in self._items:
            yield from self._think(item.content[0].text)
        if self._thoughts and self._thoughts.id == item.id:
            yield from self._end_thoughts(item)

    def _number(self) -> int:
        self._next += 1
        return self._next - 1


def _around(event: wire_events.TextDelta) -> tuple[bytes, bytes, bytes]:
    """The event's JSON text without its number and its text, which is empty."""
    before, number, rest = wire.encoded(event).partition(b'"sequence_number":')
    _, comma, rest = rest.partition(b",")
    between, text, behind = rest.partition(b'"delta":')
    return before + number, comma + between + text, behind.removeprefix(b'""')


def _told(logprobs: Iterable[Logprob]) -> list[dict[str, Any]]:
    """As events have them: without bytes, which the item has."""
    return [
        {
            "token": one.token,
            "logprob": one.logprob,
            "top_logprobs": [{"token": top.token, "logprob": top.logprob} for top in one.top_logprobs],
        }
        for one in logprobs
    ]
