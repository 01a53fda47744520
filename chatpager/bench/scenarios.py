"""What a server is asked, and what is told of its answers. Every prompt is made of words that are a token each and was
never sent before; conversations are the client's own, and in them its own text stands for the answers, so that each
server gets the same bytes."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from chatpager.bench.completions import Answer, Target, ask, cached_share, percentile

Message = dict[str, str]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """In tokens, where nothing else is said."""

    prompt: int = 256
    answer: int = 128
    concurrency: tuple[int, ...] = (1, 4, 16, 64)
    """Requests at once."""
    turns: int = 8
    longest: int = 4096
    """The prompt of the last of the growing turns."""
    short_answer: int = 16
    """Where the prompt is what is measured."""
    users: int = 16
    system: int = 2048
    question: int = 48
    sessions: int = 32
    session: int = 1024
    in_flight: int = 4


TRIAL = Sizes(
    prompt=32, answer=16, concurrency=(1, 4), turns=3, longest=256, short_answer=4,
    users=4, system=128, question=16, sessions=6, session=64, in_flight=2,
)  # fmt: skip
"""Of a run that is to show whether everything works."""


@dataclass
class Asker:
    """Asks one server in one round; ``rng`` is at the same state for every server of the round."""

    client: aiohttp.ClientSession
    target: Target
    sizes: Sizes
    words: Sequence[str]
    rng: random.Random

    def text(self, tokens: int) -> str:
        return " ".join(self.rng.choices(self.words, k=max(1, tokens)))

    async def ask(self, messages: list[Message], tokens: int) -> Answer:
        return await ask(self.client, self.target, messages, tokens)

    async def all_at_once(self, prompts: Sequence[list[Message]], tokens: int, in_flight: int) -> list[Answer]:
        """In the order of the prompts, with at most ``in_flight`` under way. The first failure ends all of them."""
        gate = asyncio.Semaphore(in_flight)

        async def one(messages: list[Message]) -> Answer:
            async with gate:
                return await self.ask(messages, tokens)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(messages)) for messages in prompts]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


async def single(asker: Asker) -> Figures:
    """One stream."""
    answer = await asker.ask([user(asker.text(asker.sizes.prompt))], asker.sizes.answer)
    return {"decode_tokens_per_s": answer.decode_rate, "ttft_ms": _ms(answer.ttft), **_lengths([answer])}


async def concurrency(asker: Asker) -> Figures:
    """Requests sent at once, more of them each time."""
    return {str(count): await _burst(asker, count) for count in asker.sizes.concurrency}


async def _burst(asker: Asker, count: int) -> Figures:
    prompts = [[user(asker.text(asker.sizes.prompt))] for _ in range(count)]
    answers = await asker.all_at_once(prompts, asker.sizes.answer, count)
    seconds = max(a.ended for a in answers) - min(a.sent for a in answers)
    between = [gap for answer in answers for gap in answer.gaps]
    return {
        "tokens_per_s": sum(a.output_tokens for a in answers) / seconds,
        **_ttft(answers),
        "gap_p50_ms": _ms(percentile(between, 0.5)),
        "gap_p99_ms": _ms(percentile(between, 0.99)),
        **_lengths(answers),
    }


async def growing(asker: Asker) -> Figures:
    """One conversation whose prompt grows to ``longest``; then, cold, a prompt as long as its last."""
    sizes = asker.sizes
    step = max(1, sizes.longest // sizes.turns - sizes.short_answer)
    history: list[Message] = []
    answers = []
    for _ in range(sizes.turns):
        history.append(user(asker.text(step)))
        answers.append(await asker.ask(history, sizes.short_answer))
        history.append({"role": "assistant", "content": asker.text(sizes.short_answer)})
    cold = await asker.ask([user(asker.text(answers[-1].prompt_tokens))], sizes.short_answer)
    attainable = [before.prompt_tokens for before in answers[:-1]]
    return {
        "ttft_ms": [_ms(a.ttft) for a in answers],
        "cold_ttft_ms": _ms(cold.ttft),
        "prompt_tokens": [a.prompt_tokens for a in answers],
        "cold_prompt_tokens": cold.prompt_tokens,
        "cached_share": cached_share(answers[1:], attainable),
    }


async def shared(asker: Asker) -> Figures:
    """Users behind one system prompt that nobody has asked before, all at once; then as many others."""
    sizes = asker.sizes
    system = {"role": "system", "content": asker.text(sizes.system)}
    found: Figures = {}
    for name, first in (("first", 1), ("second", 0)):
        prompts = [[system, user(asker.text(sizes.question))] for _ in range(sizes.users)]
        answers = await asker.all_at_once(prompts, sizes.short_answer, sizes.users)
        # One of the first burst has to compute it, and what stands behind it is each user's own.
        attainable = [sizes.system] * (sizes.users - first) + [0] * first
        ordered = sorted(answers, key=lambda a: a.cached_tokens or 0, reverse=True)
        found[name] = {**_ttft(answers), "cached_share": cached_share(ordered, attainable), **_lengths(answers)}
    return found


async def returning(asker: Asker) -> Figures:
    """A turn of every session, a few in flight; then the next turn of every session in the same order."""
    sizes = asker.sizes
    histories = [[user(asker.text(sizes.session))] for _ in range(sizes.sessions)]
    found: Figures = {}
    before: list[Answer] = []
    for name in ("first", "second"):
        began = time.perf_counter()
        answers = await asker.all_at_once(histories, sizes.short_answer, sizes.in_flight)
        found[name] = {**_ttft(answers), "wall_s": time.perf_counter() - began, **_lengths(answers)}
        if before:
            attainable = [a.prompt_tokens for a in before]
            found[name]["cached_share"] = cached_share(answers, attainable)
            found[name]["sessions_hit"] = _hit(answers, attainable)
        before = answers
        for history in histories:
            history += [
                {"role": "assistant", "content": asker.text(sizes.short_answer)},
                user(asker.text(sizes.question)),
            ]
    return found


SCENARIOS: dict[str, Callable[[Asker], Awaitable[Figures]]] = {
    "single": single,
    "concurrency": concurrency,
    "growing": growing,
    "shared": shared,
    "returning": returning,
}


def _hit(answers: Sequence[Answer], attainable: Sequence[int]) -> int | None:
    """Sessions that found at least half of what they could."""
    if all(answer.cached_tokens is None for answer in answers):
        return None
    return sum(2 * (a.cached_tokens or 0) >= most for a, most in zip(answers, attainable, strict=True))


def _ttft(answers: Sequence[Answer]) -> Figures:
    seconds = [answer.ttft for answer in answers]
    return {"ttft_p50_ms": _ms(percentile(seconds, 0.5)), "ttft_p95_ms": _ms(percentile(seconds, 0.95))}


def _lengths(answers: Sequence[Answer]) -> Figures:
    """What was really sent and got, by the server's own count; short answers ended before they had all that was
    asked for."""
    told = [a.cached_tokens for a in answers if a.cached_tokens is not None]
    return {
        "cached_tokens": sum(told) if told else None,
        "prompt_tokens": statistics.median(a.prompt_tokens for a in answers),
        "output_tokens": sum(a.output_tokens for a in answers),
        "short_answers": sum(a.output_tokens < a.asked_tokens for a in answers),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)
