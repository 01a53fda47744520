"""The logs of a completion's turns, one a choice, as Chat Completions chunks, or as one object. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chatpager.server import wire
from chatpager.sessions.answers import Delta, ToolCall
from chatpager.sessions.stream import Ended, Event, Started

FINISH = {"completed": "stop", "incomplete": "length", "cancelled": "stop"}
"""A turn's end -> finish_reason. Failed and interrupted ones end with an error instead."""


def finish_reason(ended: Ended) -> str:
    return "tool_calls" if ended.status == "completed" and ended.calls else FINISH[ended.status]


def completion_usage(counts: Mapping[str, int]) -> wire.CompletionUsage:
    """``counts`` as the store keeps them of a turn."""
    return wire.CompletionUsage(
        prompt_tokens=counts["input_tokens"],
        completion_tokens=counts["output_tokens"],
        total_tokens=counts["input_tokens"] + counts["output_tokens"],
        prompt_tokens_details=wire.PromptTokensDetails(counts["cached_tokens"], counts["cache_write_tokens"]),
    )


def usage_of_all(usages: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The prompt, which was computed once, and every choice's tokens."""
    return {**usages[0], "output_tokens": sum(usage["output_tokens"] for usage in usages)}


def completion(
    id: str, created_at: int, model: str, ended: Sequence[Ended], usage: Mapping[str, int], ours: dict[str, Any]
) -> wire.ChatCompletion:
    """``ended`` are the choices' ends in order; ``ours`` the first one's account, which computed the prompt."""
    return wire.ChatCompletion(
        id=id,
        created=created_at // 1000,
        model=model,
        choices=[
            wire.Choice(
                index=index,
                message=_message(end),
                finish_reason=finish_reason(end),
            )
            for index, end in enumerate(ended)
        ],
        usage=completion_usage(usage),
        chatpager=ours,
    )


def _message(ended: Ended) -> wire.ChatMessage:
    calls = [
        wire.ChatToolCall(id=call.id, type="function", function=wire.CalledFunction(call.name, call.arguments))
        for call in ended.calls
    ]
    text = ended.text if ended.text or not calls else None
    return wire.ChatMessage(role="assistant", content=text, tool_calls=calls or None)


class ChunkEncoder:
    """Folds the turns' logs into chunks."""

    def __init__(self, id: str, created_at: int, model: str) -> None:
        self._calls: Counter[int] = Counter()
        """That were told, by choice."""
        self._head: dict[str, Any] = {"id": id, "created": created_at // 1000, "model": model}

    def feed(self, event: Event, index: int = 0, ours: dict[str, Any] | None = None) -> Iterable[wire.ChatChunk]:
        """``index``: the choice whose event it is."""
        match event:
            case Started():
                yield self._chunk(index, wire.ChatMessage(role="assistant", content=""))
            case Delta():
                yield self._chunk(index, wire.ChatMessage(content=event.text))
            case ToolCall():
                for part in self._told(event, self._calls[index]):
                    yield self._chunk(index, wire.ChatMessage(tool_calls=[part]))
                self._calls[index] += 1
            case Ended() if event.status in FINISH:
                yield self._chunk(index, wire.ChatMessage(), finish_reason(event), ours)

    def _told(self, call: ToolCall, place: int) -> Iterable[wire.ChatToolCall]:
        """One with its name, then its arguments."""
        function = wire.CalledFunction(name=call.name, arguments="")
        yield wire.ChatToolCall(index=place, id=call.id, type="function", function=function)
        yield wire.ChatToolCall(index=place, function=wire.CalledFunction(arguments=call.arguments))

    def usage(self, counts: Mapping[str, int]) -> wire.ChatChunk:
        """What comes last, without choices, where it was asked for."""
        return wire.ChatChunk(**self._head, choices=[], usage=completion_usage(counts))

    def _chunk(
        self, index: int, delta: wire.ChatMessage, finish: str | None = None, ours: dict[str, Any] | None = None
    ) -> wire.ChatChunk:
        choice = wire.ChunkChoice(index=index, delta=delta, finish_reason=finish)
        return wire.ChatChunk(**self._head, choices=[choice], chatpager=ours)
