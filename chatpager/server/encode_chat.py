"""The logs of a completion's turns, one a choice, as Chat Completions chunks, or as one object. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chatpager.engine.tool_calls import CallDelta, Thought
from chatpager.server import wire_chat
from chatpager.sessions.answers import CallBegun, Delta
from chatpager.sessions.logprobs import Logprob
from chatpager.sessions.stream import Ended, Event, Started

FINISH = {"completed": "stop", "incomplete": "length", "cancelled": "stop"}
"""A turn's end -> finish_reason. Failed and interrupted ones end with an error instead."""


def finish_reason(ended: Ended) -> str:
    called = ended.status == "completed" and any(call.is_whole for call in ended.calls)
    return "tool_calls" if called else FINISH[ended.status]


def completion_usage(counts: Mapping[str, int]) -> wire_chat.CompletionUsage:
    """``counts`` as the store keeps them of a turn."""
    thought = counts.get("reasoning_tokens", 0)
    return wire_chat.CompletionUsage(
        prompt_tokens=counts["input_tokens"],
        completion_tokens=counts["output_tokens"],
        total_tokens=counts["input_tokens"] + counts["output_tokens"],
        prompt_tokens_details=wire_chat.PromptTokensDetails(counts["cached_tokens"], counts["cache_write_tokens"]),
        completion_tokens_details=wire_chat.CompletionTokensDetails(thought) if thought else None,
    )


def usage_of_all(usages: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The prompt, which was computed once, and every choice's tokens."""
    return {
        **usages[0],
        "output_tokens": sum(usage["output_tokens"] for usage in usages),
        "reasoning_tokens": sum(usage.get("reasoning_tokens", 0) for usage in usages),
    }


def completion(
    id: str,
    created_at: int,
    model: str,
    ended: Sequence[Ended],
    usage: Mapping[str, int],
    ours: dict[str, Any],
    logprobs: Sequence[Sequence[Logprob] | None] = (),
) -> wire_chat.ChatCompletion:
    """``ended`` are the choices' ends in order, with their ``logprobs`` where they were asked for; ``ours`` the first
    one's account, which computed the prompt."""
    told = [None if found is None else wire_chat.ChatLogprobs(list(found)) for found in logprobs]
    return wire_chat.ChatCompletion(
        id=id,
        created=created_at // 1000,
        model=model,
        choices=[
            wire_chat.Choice(
                index=index,
                message=_message(end),
                logprobs=told[index] if told else None,
                finish_reason=finish_reason(end),
            )
            for index, end in enumerate(ended)
        ],
        usage=completion_usage(usage),
        chatpager=ours,
    )


def _message(ended: Ended) -> wire_chat.ChatMessage:
    calls = [
        wire_chat.ChatToolCall(
            id=call.id, type="function", function=wire_chat.CalledFunction(call.name, call.arguments)
        )
        for call in ended.calls
    ]
    text = ended.text if ended.text or not calls else None
    thought = "".join(reasoning.text for reasoning in ended.reasoning) or None
    return wire_chat.ChatMessage(content=text, reasoning_content=thought, tool_calls=calls or None)


class ChunkEncoder:
    """Folds the turns' logs into chunks. ``tells_usage``: each has a place for it, as the last one will."""

    def __init__(self, id: str, created_at: int, model: str, *, tells_usage: bool = False) -> None:
        self._calls: Counter[int] = Counter()
        """That were told, by choice."""
        self._head: dict[str, Any] = {"id": id, "created": created_at // 1000, "model": model}
        self._usage: dict[str, Any] = {"usage": None} if tells_usage else {}

    def feed(self, event: Event, index: int = 0, ours: dict[str, Any] | None = None) -> Iterable[wire_chat.ChatChunk]:
        """``index``: the choice whose event it is."""
        match event:
            case Started():
                yield self._chunk(index, wire_chat.ChatDelta(role="assistant", content=""))
            case Thought():
                yield self._chunk(index, wire_chat.ChatDelta(reasoning_content=event.text))
            case Delta():
                found = wire_chat.ChatLogprobs(list(event.logprobs)) if event.logprobs else None
                yield self._chunk(index, wire_chat.ChatDelta(content=event.text), logprobs=found)
            case CallBegun():
                function = wire_chat.CalledFunction(name=event.name, arguments="")
                yield self._called(index, id=event.id, type="function", function=function)
                self._calls[index] += 1
            case CallDelta():
                yield self._called(index, function=wire_chat.CalledFunction(arguments=event.arguments))
            case Ended() if event.status in FINISH:
                yield self._chunk(index, wire_chat.ChatDelta(), finish_reason(event), ours)

    def _called(self, index: int, **part: Any) -> wire_chat.ChatChunk:
        """Of the call that began last, or that begins: with its name first, then its arguments as they come."""
        begins = "id" in part
        call = wire_chat.ChatToolCall(index=self._calls[index] - (not begins), **part)
        return self._chunk(index, wire_chat.ChatDelta(tool_calls=[call]))

    def usage(self, counts: Mapping[str, int]) -> wire_chat.ChatChunk:
        """What comes last, without choices, where it was asked for."""
        return wire_chat.ChatChunk(**self._head, choices=[], usage=completion_usage(counts))

    def _chunk(
        self,
        index: int,
        delta: wire_chat.ChatDelta,
        finish: str | None = None,
        ours: dict[str, Any] | None = None,
        logprobs: wire_chat.ChatLogprobs | None = None,
    ) -> wire_chat.ChatChunk:
        choice = wire_chat.ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish)
        return wire_chat.ChatChunk(**self._head, **self._usage, choices=[choice], chatpager=ours)
