"""A turn's log as Anthropic's message, or as the events of one. Pure: both are made of the same blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from chatpager.engine.tool_calls import CallDelta, CallEnd, Thought
from chatpager.server.cache_wishes import SECONDS
from chatpager.server.encode_chat import FINISH
from chatpager.server.wire_messages import (
    AnthropicMessage,
    Block,
    BlockDelta,
    BlockInput,
    BlockStart,
    BlockStop,
    BlockText,
    BlockThinking,
    CacheCreation,
    MessageDelta,
    MessageEnd,
    MessageEvent,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from chatpager.sessions.answers import CallBegun, Delta
from chatpager.sessions.stream import Ended, Event, Prefilled, Started


def message_usage(counts: Mapping[str, int], keep_seconds: float) -> MessageUsage:
    """``counts`` as the store keeps them of a turn whose prefix is to be kept for so long: only then does what it
    computed count as put into the cache, though it is there in any case."""
    computed = counts["input_tokens"] - counts["cached_tokens"]
    created = min(computed, counts["cache_write_tokens"]) if keep_seconds else 0
    long = keep_seconds > SECONDS["5m"]
    return MessageUsage(
        input_tokens=computed - created,
        cache_creation_input_tokens=created,
        cache_read_input_tokens=counts["cached_tokens"],
        cache_creation=CacheCreation(
            ephemeral_5m_input_tokens=0 if long else created, ephemeral_1h_input_tokens=created if long else 0
        ),
        output_tokens=counts["output_tokens"],
    )


def message_end(ended: Ended, stopped: str | None) -> MessageEnd:
    """``stopped``: the stop sequence that ended the answer."""
    reason: StopReason = "end_turn"
    if FINISH[ended.status] == "length":
        reason = "max_tokens"
    elif stopped is not None:
        reason = "stop_sequence"
    elif any(call.is_whole for call in ended.calls):
        reason = "tool_use"
    return MessageEnd(reason, stopped if reason == "stop_sequence" else None)


class Blocks:
    """Folds a turn's log into content blocks: neighbouring text is one, and so are thoughts; every call is one. One is
    open at a time."""

    def __init__(self) -> None:
        self.told: list[Block] = []
        self._open = False
        self._arguments = ""
        """Of the call that began last."""

    def feed(self, event: Event) -> Iterator[MessageEvent]:
        match event:
            case Thought(text=text):
                last = self.told[-1] if self._open else None
                if not isinstance(last, ThinkingBlock):
                    last = ThinkingBlock("")
                    yield from self._begin(last)
                self.told[-1] = ThinkingBlock(last.thinking + text)
                yield BlockDelta(len(self.told) - 1, BlockThinking(text))
            case Delta(text=text):
                last = self.told[-1] if self._open else None
                if not isinstance(last, TextBlock):
                    last = TextBlock("")
                    yield from self._begin(last)
                self.told[-1] = TextBlock(last.text + text)
                yield BlockDelta(len(self.told) - 1, BlockText(text))
            case CallBegun():
                yield from self._begin(ToolUseBlock(event.id, event.name, {}))
                self._arguments = ""
            case CallDelta():
                yield self._argue(event.arguments)
            case CallEnd():
                yield from self._close()
            case Ended():
                yield from self._rest(event)
                yield from self._close()

    def _begin(self, block: Block) -> Iterator[MessageEvent]:
        yield from self._close()
        self.told.append(block)
        self._open = True
        yield BlockStart(len(self.told) - 1, block)

    def _argue(self, arguments: str) -> BlockDelta:
        self._arguments += arguments
        return BlockDelta(len(self.told) - 1, BlockInput(arguments))

    def _rest(self, ended: Ended) -> Iterator[MessageEvent]:
        """What a call that the answer's end cut has of arguments beside those that were told."""
        last = self.told[-1] if self._open else None
        written = {call.id: call.arguments for call in ended.calls}
        if isinstance(last, ToolUseBlock) and (rest := written.get(last.id, "")[len(self._arguments) :]):
            yield self._argue(rest)

    def _close(self) -> Iterator[MessageEvent]:
        if not self._open:
            return
        self._open = False
        last = self.told[-1]
        if isinstance(last, ToolUseBlock):
            self.told[-1] = msgspec.structs.replace(last, input=_value(self._arguments))
        yield BlockStop(len(self.told) - 1)


def _value(arguments: str) -> dict[str, Any]:
    """Nothing, of a call that was cut or went wrong."""
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}


def whole_message(
    id: str, model: str, log: Iterable[Event], end: MessageEnd, usage: MessageUsage, ours: dict[str, Any]
) -> AnthropicMessage:
    blocks = Blocks()
    for event in log:
        for _ in blocks.feed(event):
            pass
    return AnthropicMessage(
        id=id,
        model=model,
        content=blocks.told,
        stop_reason=end.stop_reason,
        stop_sequence=end.stop_sequence,
        usage=usage,
        chatpager=ours,
    )


class MessageEncoder:
    """The events of one turn. What the prompt cost is known once the engine has begun with it, and the message begins
    with that: nothing is told before."""

    def __init__(self, id: str, model: str) -> None:
        self._head: dict[str, Any] = {"id": id, "model": model}
        self._blocks = Blocks()
        self._begun = False

    def feed(self, event: Event, usage: MessageUsage) -> Iterable[MessageEvent]:
        """``usage``: as far as it is known."""
        if isinstance(event, Started):
            return
        if not self._begun:
            self._begun = True
            yield MessageStart(AnthropicMessage(**self._head, content=[], usage=usage))
            yield Ping()
        elif isinstance(event, Prefilled):
            yield Ping()
        yield from self._blocks.feed(event)

    def end(self, event: Ended, end: MessageEnd, usage: MessageUsage, ours: dict[str, Any]) -> Iterable[MessageEvent]:
        """The last events of a turn that came to a good end."""
        yield from self.feed(event, usage)
        yield MessageDelta(end, usage, ours)
        yield MessageStop()
