"""A turn's log as Chat Completions chunks, or as one object. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chatpager.server import wire
from chatpager.sessions.stream import Delta, Ended, Event, Started

FINISH = {"completed": "stop", "incomplete": "length", "cancelled": "stop"}
"""A turn's end -> finish_reason. Failed and interrupted ones end with an error instead."""


def completion_usage(counts: Mapping[str, int]) -> wire.CompletionUsage:
    """``counts`` as the store keeps them of a turn."""
    return wire.CompletionUsage(
        prompt_tokens=counts["input_tokens"],
        completion_tokens=counts["output_tokens"],
        total_tokens=counts["input_tokens"] + counts["output_tokens"],
        prompt_tokens_details=wire.PromptTokensDetails(counts["cached_tokens"], counts["cache_write_tokens"]),
    )


def completion(
    id: str, created_at: int, model: str, ended: Ended, usage: Mapping[str, int], ours: dict[str, Any]
) -> wire.ChatCompletion:
    message = wire.ChatMessage(role="assistant", content=ended.text)
    return wire.ChatCompletion(
        id=id,
        created=created_at // 1000,
        model=model,
        choices=[wire.Choice(message=message, finish_reason=FINISH[ended.status])],
        usage=completion_usage(usage),
        chatpager=ours,
    )


class ChunkEncoder:
    """Folds one turn's log into chunks. The usage chunk, without choices, comes last and only if asked for."""

    def __init__(self, id: str, created_at: int, model: str, *, include_usage: bool) -> None:
        self._head: dict[str, Any] = {"id": id, "created": created_at // 1000, "model": model}
        self._include_usage = include_usage

    def feed(
        self, event: Event, usage: Mapping[str, int] | None = None, ours: dict[str, Any] | None = None
    ) -> Iterable[wire.ChatChunk]:
        match event:
            case Started():
                yield self._chunk(wire.ChatMessage(role="assistant", content=""))
            case Delta():
                yield self._chunk(wire.ChatMessage(content=event.text))
            case Ended() if event.status in FINISH:
                assert usage is not None, "the last event needs the usage"
                yield self._chunk(wire.ChatMessage(), FINISH[event.status], ours)
                if self._include_usage:
                    yield wire.ChatChunk(**self._head, choices=[], usage=completion_usage(usage))

    def _chunk(
        self, delta: wire.ChatMessage, finish: str | None = None, ours: dict[str, Any] | None = None
    ) -> wire.ChatChunk:
        return wire.ChatChunk(
            **self._head, choices=[wire.ChunkChoice(delta=delta, finish_reason=finish)], chatpager=ours
        )
