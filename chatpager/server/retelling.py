"""A response that has ended and whose events are gone, told once more from what is stored of it: the same items in the
same order, but each in one piece, so under numbers of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from chatpager.engine.tool_calls import CallDelta, CallEnd, Thought
from chatpager.server import wire, wire_events
from chatpager.server.encode_response import ResponseEncoder, ResponseFacts
from chatpager.server.service import Service, ended_response, facts_stored
from chatpager.sessions.answers import CallBegun, Delta, Said
from chatpager.sessions.logprobs import Logprob
from chatpager.sessions.stream import Started

ITEMS: dict[str, type[wire.OutputItem]] = {
    "message": wire.Item,
    "function_call": wire.FunctionCallItem,
    "reasoning": wire.ReasoningItem,
}


async def retold(service: Service, tenant: str, response_id: str) -> list[wire_events.Event]:
    """All events that are told of it, numbered from 0.

    Raises:
        ResponseElsewhere: another server computes it.
        ResponseNotFound: it was deleted meanwhile.
    """
    stored = await ended_response(service, tenant, response_id)
    final = stored if isinstance(stored, wire.Response) else as_response(stored)
    return retelling(facts_stored(await service.store.turn(tenant, response_id)), final)


def retelling(facts: ResponseFacts, final: wire.Response) -> list[wire_events.Event]:
    encoder = ResponseEncoder(facts)
    events = list(encoder.feed(Started(facts.id, facts.created_at)))
    for item in final.output:
        for said in _said(item):
            events += encoder.feed(said)
        if isinstance(item, wire.ReasoningItem):
            events += encoder.end_thoughts(item)
    return [*events, *encoder.end(final)]


def as_response(body: Mapping[str, Any]) -> wire.Response:
    """What the store has of a response's end."""
    known = {name: body[name] for name in wire.Response.__struct_fields__ if name in body}
    output = [msgspec.convert(item, ITEMS[item["type"]]) for item in body["output"]]
    return wire.Response(**{**known, "output": [_with_logprobs(item) for item in output]})


def _with_logprobs(item: wire.OutputItem) -> wire.OutputItem:
    if not isinstance(item, wire.Item):
        return item
    parts = [msgspec.structs.replace(p, logprobs=msgspec.convert(p.logprobs, list[Logprob])) for p in item.content]
    return msgspec.structs.replace(item, content=parts)


def _said(item: wire.OutputItem) -> Iterable[Said]:
    match item:
        case wire.Item(content=[part]) if part.text:
            yield Delta(part.text, tuple(part.logprobs))
        case wire.ReasoningItem(content=[part]) if part.text:
            yield Thought(part.text)
        case wire.FunctionCallItem():
            yield CallBegun(item.call_id, item.name)
            if item.arguments:
                yield CallDelta(item.arguments)
            yield CallEnd()
