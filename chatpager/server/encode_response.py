"""A turn's log as the Responses API's events and object. Pure: log events in, wire objects out.

Sequence numbers follow from the log alone, so every reader of a response, on any wire and from any time, sees the same
event under the same number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from chatpager.server import wire
from chatpager.sessions.answers import Answer, Delta, ToolCall
from chatpager.sessions.stream import Ended, Event, Prefilled, Started

SHOWN_AS: dict[str, wire.ResponseStatus] = {
    "in_progress": "in_progress",
    "completed": "completed",
    "incomplete": "incomplete",
    "interrupted": "failed",
    "cancelled": "cancelled",
    "failed": "failed",
}
"""The store's word for a turn's state -> the wire's."""
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


def answer_item(response_id: str, text: str, status: wire.ItemStatus) -> wire.Item:
    part = wire.TextPart("output_text", text)
    return wire.Item(id=item_id(response_id), status=status, role="assistant", content=[part])


def call_item(call: ToolCall, status: wire.ItemStatus = "completed") -> wire.FunctionCallItem:
    name = "fc_" + call.id.removeprefix("call_")
    return wire.FunctionCallItem(id=name, status=status, call_id=call.id, name=call.name, arguments=call.arguments)


def output_items(response_id: str, answer: Answer, status: wire.ItemStatus) -> list[wire.OutputItem]:
    """The answer's message and calls, in the order in which they began. One that says nothing is an empty message."""
    items: list[wire.OutputItem] = [call_item(call) for call in answer.calls]
    if answer.text or not items:
        items.insert(answer.calls_before_text, answer_item(response_id, answer.text, status))
    return items


def item_status(status: wire.ResponseStatus) -> wire.ItemStatus:
    return "completed" if status == "completed" else "in_progress" if status == "in_progress" else "incomplete"


def usage_object(counts: Mapping[str, int]) -> wire.Usage:
    """``counts`` as the store keeps them of a turn."""
    details = wire.InputTokensDetails(counts["cached_tokens"], counts["cache_write_tokens"])
    total = counts["input_tokens"] + counts["output_tokens"]
    return wire.Usage(counts["input_tokens"], details, counts["output_tokens"], wire.OutputTokensDetails(), total)


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
    ours: dict[str, Any] = {"state": state, "cache": receipt, "timings": timings} if status != "in_progress" else {}
    if warnings := facts.parameters.get("warnings"):
        ours["warnings"] = warnings
    return wire.Response(
        id=facts.id,
        created_at=facts.created_at // 1000,
        status=status,
        model=facts.model,
        output=output_items(facts.id, answer, item_status(status)) if answer is not None else [],
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

    def __init__(self, facts: ResponseFacts) -> None:
        self._facts = facts
        self._item = item_id(facts.id)
        self._next = 0
        self._items: list[str] = []
        """Ids of the items that were announced: the message's with the first text, or at the end of an answer without
        any."""

    @property
    def response_id(self) -> str:
        return self._facts.id

    def feed(self, event: Event, final: wire.Response | None = None) -> Iterable[wire.Event]:
        """The wire's events for one event of the log; ``final`` is needed for the last."""
        match event:
            case Started():
                response = response_object(self._facts)
                yield wire.ResponseEvent(type="response.created", sequence_number=self._number(), response=response)
                yield wire.ResponseEvent(type="response.in_progress", sequence_number=self._number(), response=response)
            case Prefilled():
                yield wire.PrefillEvent(
                    response_id=self._facts.id, done=event.done, total=event.total, cached=event.cached
                )
            case Delta():
                yield from self._announce()
                place = self._items.index(self._item)
                yield wire.TextDelta(
                    sequence_number=self._number(), item_id=self._item, output_index=place, delta=event.text
                )
            case ToolCall():
                yield from self._tell(call_item(event))
            case _:
                assert final is not None, "the last event needs the response's object"
                yield from self._end(event, final)

    def broken(self, error: wire.ErrorBody) -> wire.ErrorEvent:
        """In place of the rest, where the server cannot go on with the stream."""
        return wire.ErrorEvent(sequence_number=self._number(), message=error.message, code=error.code)

    def _end(self, event: Ended, final: wire.Response) -> Iterable[wire.Event]:
        for item in final.output:
            if isinstance(item, wire.Item):
                yield from self._close(item, event.text)
            elif item.id not in self._items:
                yield from self._tell(item)
        yield wire.ResponseEvent(type=TERMINAL_EVENT[final.status], sequence_number=self._number(), response=final)

    def _announce(self) -> Iterable[wire.Event]:
        if self._item in self._items:
            return
        place = len(self._items)
        self._items.append(self._item)
        empty = wire.TextPart("output_text", "")
        item = msgspec.structs.replace(answer_item(self._facts.id, "", "in_progress"), content=[])
        yield wire.ItemEvent(
            type="response.output_item.added", sequence_number=self._number(), output_index=place, item=item
        )
        yield wire.PartEvent(
            type="response.content_part.added",
            sequence_number=self._number(),
            item_id=self._item,
            output_index=place,
            part=empty,
        )

    def _close(self, item: wire.Item, text: str) -> Iterable[wire.Event]:
        """The message, which is open until the answer's end: more text may come behind a call."""
        yield from self._announce()
        place = self._items.index(self._item)
        part = wire.TextPart("output_text", text)
        yield wire.TextDone(sequence_number=self._number(), item_id=self._item, output_index=place, text=text)
        yield wire.PartEvent(
            type="response.content_part.done",
            sequence_number=self._number(),
            item_id=self._item,
            output_index=place,
            part=part,
        )
        yield wire.ItemEvent(
            type="response.output_item.done", sequence_number=self._number(), output_index=place, item=item
        )

    def _tell(self, item: wire.FunctionCallItem) -> Iterable[wire.Event]:
        """A call, which is whole when it is told."""
        place = len(self._items)
        self._items.append(item.id)
        begun = msgspec.structs.replace(item, status="in_progress", arguments="")
        yield wire.ItemEvent(
            type="response.output_item.added", sequence_number=self._number(), output_index=place, item=begun
        )
        yield wire.ArgumentsDelta(
            sequence_number=self._number(), item_id=item.id, output_index=place, delta=item.arguments
        )
        yield wire.ArgumentsDone(
            sequence_number=self._number(), item_id=item.id, output_index=place, arguments=item.arguments
        )
        yield wire.ItemEvent(
            type="response.output_item.done", sequence_number=self._number(), output_index=place, item=item
        )

    def _number(self) -> int:
        self._next += 1
        return self._next - 1
