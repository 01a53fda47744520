"""``/v1/completions``: bare prompts in, what follows them out. No template, no conversation, nothing stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from aiohttp import web

from chatpager.server import wire
from chatpager.server.completion_requests import CompletionCreate, completion_requests
from chatpager.server.encode_chat import FINISH
from chatpager.server.encode_completion import (
    Head,
    chunk,
    completion,
    ids_of,
    logprobs,
    reason,
    usage_chunk,
    usage_of_prompts,
)
from chatpager.server.ends import account, error_frame, failure
from chatpager.server.keyring import tenant_of
from chatpager.server.once import HEADER, begin_keyed
from chatpager.server.reading import decoded, made_of
from chatpager.server.routes_responses import json_of, json_response
from chatpager.server.service import SERVICE, Service
from chatpager.server.sse import Frames, send_events
from chatpager.server.wire_completions import Completion, CompletionChoice, CompletionLogprobs
from chatpager.sessions.answers import Delta
from chatpager.sessions.logprobs import PlacedLogprobs
from chatpager.sessions.stream import Ended, follow_all
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import TurnRequest


async def create(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    raw = await decoded(await request.read())
    wanted, body = await made_of(raw, completion_requests, service.served, tenant_of(request))
    turns = await begin_keyed(request, raw, wanted)
    with service.readers.reading(*turns, told=HEADER in request.headers):
        answers = [Choice(service, turn, index, body) for index, turn in enumerate(turns)]
        first = turns[0]
        head = Head(first.id, first.created_at // 1000, first.request.model)
        if body.stream:
            return await send_events(request, _frames(head, answers, body), error_frame)
        return await _whole(head, answers)


class Choice:
    """One answer of a request, as far as it was told."""

    def __init__(self, service: Service, turn: LiveTurn, index: int, body: CompletionCreate) -> None:
        self.turn = turn
        self.index = index
        self.usage: dict[str, int] | None = None
        self._hub = service.hub
        self._echo, self._logprobs = bool(body.echo), body.logprobs is not None
        self._echoed = 0
        """Characters of the prompt that stand before the answer."""
        self._told = self._placed = 0
        """Characters, and tokens with their logprobs."""

    async def echo(self) -> str:
        """The prompt, where the answer is to begin with it."""
        prompt = self.turn.request.prompt
        if not self._echo or prompt is None:
            return ""
        text = prompt if isinstance(prompt, str) else (await self._hub.prompting.texts([prompt]))[0]
        self._echoed = len(text)
        return text

    async def piece(self, text: str, ended: Ended | None = None) -> CompletionChoice:
        """``text`` that was added, and what else it tells."""
        self._told += len(text)
        found = await self._found() if self._logprobs else None
        return CompletionChoice(
            index=self.index, text=text, logprobs=found, finish_reason=reason(ended) if ended else None
        )

    async def _found(self) -> CompletionLogprobs:
        """Of the tokens whose text begins in what was told by now."""
        new: list[PlacedLogprobs] = []
        for placed in self.turn.logprobs[self._placed :]:
            if placed.offset >= self._told:
                break
            new.append(placed)
        self._placed += len(new)
        ids = ids_of(new)
        texts = await self._hub.prompting.texts([[token_id] for token_id in ids])
        return logprobs(new, dict(zip(ids, texts, strict=True)), self._echoed)


async def _whole(head: Head, answers: Sequence[Choice]) -> web.Response:
    """One object, once every choice has ended. The first that went wrong is the answer then."""
    ended = await asyncio.gather(*(answer.turn.stream.end() for answer in answers))
    for end in ended:
        if end.status not in FINISH:
            status, error = failure(end)
            return json_response(wire.ErrorAnswer(error), status=status)
    choices = []
    for answer, end in zip(answers, ended, strict=True):
        answer.usage = answer.turn.stored_usage(end)
        echoed = await answer.echo()
        said = await answer.piece(end.text, end)
        choices.append(
            CompletionChoice(
                index=said.index, text=echoed + said.text, logprobs=said.logprobs, finish_reason=said.finish_reason
            )
        )
    whole = completion(head, choices, _usage(answers), account(answers[0].turn, ended[0]))
    if choices[0].logprobs is None:
        return json_response(whole)
    return json_of(await asyncio.to_thread(wire.encoded_by, "choices", whole))


async def _frames(head: Head, answers: Sequence[Choice], body: CompletionCreate) -> Frames:
    told = partial(chunk, head, tells_usage=body.tells_usage)
    for answer in answers:
        if echoed := await answer.echo():
            yield _frame(told(CompletionChoice(index=answer.index, text=echoed)))
    async for index, event in follow_all([answer.turn.stream for answer in answers]):
        answer = answers[index]
        if isinstance(event, Delta):
            yield _frame(told(await answer.piece(event.text)))
        elif isinstance(event, Ended):
            if event.status not in FINISH:
                yield error_frame(failure(event)[1])
                return
            answer.usage = answer.turn.stored_usage(event)
            yield _frame(told(await answer.piece("", event), account(answer.turn, event)))
    if body.tells_usage:
        yield _frame(usage_chunk(head, _usage(answers)))
    yield "data: [DONE]"


def _frame(told: Completion) -> str:
    return f"data: {wire.encode(told)}"


def _usage(answers: Sequence[Choice]) -> dict[str, int]:
    """Answers to one prompt stand one after the other, and share its request."""
    prompts: dict[str, list[dict[str, int]]] = {}
    for answer in answers:
        request: TurnRequest = answer.turn.request
        prompts.setdefault(request.id, []).append(answer.usage or {})
    return usage_of_prompts(list(prompts.values()))
