"""The events of one item of a response, from the one that adds it to the one that says that it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from chatpager.server import wire, wire_events
from chatpager.sessions.answers import CallBegun, ToolCall


def call_item_id(call_id: str) -> str:
    return "fc_" + call_id.removeprefix("call_")


def call_item(call: ToolCall, unless_whole: wire.ItemStatus = "incomplete") -> wire.FunctionCallItem:
    status = "completed" if call.is_whole else unless_whole
    return wire.FunctionCallItem(
        id=call_item_id(call.id), status=status, call_id=call.id, name=call.name, arguments=call.arguments
    )


def reasoning_item(response_id: str, number: int, text: str, status: wire.ItemStatus) -> wire.ReasoningItem:
    """``number``: of those of a response, from 1."""
    name = f"rs_{response_id.partition('_')[2]}_{number}"
    return wire.ReasoningItem(id=name, status=status, content=[wire.ReasoningPart(text)])


class ReasoningEvents:
    """Thoughts that come piece by piece. ``item`` is empty; ``number`` gives the next event's number, ``place`` is the
    item's."""

    def __init__(self, item: wire.ReasoningItem, place: int, number: Callable[[], int]) -> None:
        self.id = item.id
        self._item = item
        self._place = place
        self._number = number
        self._told: list[str] = []

    def begin(self) -> Iterable[wire_events.Event]:
        yield self._of_item("response.output_item.added", msgspec.structs.replace(self._item, content=[]))
        yield self._of_part("response.content_part.added", wire.ReasoningPart(""))

    def go_on(self, delta: str) -> wire_events.Event:
        self._told.append(delta)
        return wire_events.ReasoningDelta(
            sequence_number=self._number(), item_id=self.id, output_index=self._place, delta=delta
        )

    def end(self, item: wire.ReasoningItem | None = None) -> Iterable[wire_events.Event]:
        """``item``: as it is at the answer's end, if that comes first: it may say more than was told."""
        part = item.content[0] if item else wire.ReasoningPart("".join(self._told))
        if rest := part.text[len("".join(self._told)) :]:
            yield self.go_on(rest)
        yield wire_events.ReasoningDone(
            sequence_number=self._number(), item_id=self.id, output_index=self._place, text=part.text
        )
        yield self._of_part("response.content_part.done", part)
        item = item or msgspec.structs.replace(self._item, content=[part], status="completed")
        yield self._of_item("response.output_item.done", item)

    def _of_item(self, type: str, item: wire.ReasoningItem) -> wire_events.ItemEvent:
        return wire_events.ItemEvent(type=type, sequence_number=self._number(), output_index=self._place, item=item)

    def _of_part(self, type: str, part: wire.ReasoningPart) -> wire_events.PartEvent:
        return wire_events.PartEvent(
            type=type, sequence_number=self._number(), item_id=self.id, output_index=self._place, part=part
        )


class CallEvents:
    """A call whose arguments come piece by piece. ``number`` gives the next event's number, ``place`` is the item's."""

    def __init__(self, call: CallBegun, place: int, number: Callable[[], int]) -> None:
        self.id = call_item_id(call.id)
        self._call = call
        self._place = place
        self._number = number
        self._told: list[str] = []

    def begin(self) -> wire_events.Event:
        item = call_item(ToolCall(self._call.id, self._call.name, ""), "in_progress")
        return self._item("response.output_item.added", item)

    def go_on(self, delta: str) -> wire_events.Event:
        self._told.append(delta)
        return wire_events.ArgumentsDelta(
            sequence_number=self._number(), item_id=self.id, output_index=self._place, delta=delta
        )

    def end(self, item: wire.FunctionCallItem | None = None) -> Iterable[wire_events.Event]:
        """``item``: as it is at the answer's end, if that comes before the call's: it may say more than was told."""
        arguments = "".join(self._told)
        item = item or call_item(ToolCall(self._call.id, self._call.name, arguments))
        if rest := item.arguments[len(arguments) :]:
            yield self.go_on(rest)
        yield wire_events.ArgumentsDone(
            sequence_number=self._number(), item_id=self.id, output_index=self._place, arguments=item.arguments
        )
        yield self._item("response.output_item.done", item)

    def _item(self, type: str, item: wire.FunctionCallItem) -> wire_events.ItemEvent:
        return wire_events.ItemEvent(type=type, sequence_number=self._number(), output_index=self._place, item=item)
