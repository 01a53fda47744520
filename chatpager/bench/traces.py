"""Who speaks when, and how much: turns of many sessions, made up after published statistics.

A conversation's prompt is sent whole each turn, so an agent's input is many times its output: 33 turns in the median,
131 tokens in for each one out (vLLM and Mooncake's agent traces, 2026-05). People come back within ten minutes in four
of five cases (arXiv:2506.02634).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

BLOCK = 16
NEW_TOKENS, ANSWER_TOKENS = 24, 8
"""Of a turn of a session that just returns."""
AGENT_TURNS = (33, 43)
INPUT_TO_OUTPUT = 131
TOOL_SECONDS, TOOL_SPREAD = 5.0, 1.2
"""Median of the log-normal time that a tool takes, and the deviation of its logarithm: our choice, the sources give
neither."""
CHAT_TURNS = (4, 10)
CHAT_SECONDS = 600.0
"""Mean of the exponential pause between a person's turns: 63 % are shorter."""


class Turn(NamedTuple):
    """``at`` is in seconds from the trace's beginning; ``new`` and ``answer`` are tokens. The first of a session's
    turns brings all that stands before its second one."""

    at: float
    session: int
    new: int
    answer: int


def returning(rng: random.Random, sessions: int, tokens: int, rounds: int) -> list[Turn]:
    """Every session a turn, in the same order, ``rounds`` times; each has ``tokens`` from the start."""
    return [
        Turn(float(r * sessions + s), s, NEW_TOKENS + (0 if r else tokens), ANSWER_TOKENS)
        for r in range(rounds)
        for s in range(sessions)
    ]


def agents(rng: random.Random, sessions: int, tokens: int, rounds: int) -> list[Turn]:
    """Each session calls tools and grows to about ``tokens``: half of it is there at the first turn, as a system prompt
    and a task are. ``rounds`` is passed over: an agent has as many turns as it has."""
    found = []
    for s in range(sessions):
        turns = rng.randint(*AGENT_TURNS)
        # Prompts grow from half to the whole, so they are three quarters of it on the average.
        answer = max(1, round(0.75 * tokens / INPUT_TO_OUTPUT))
        each = max(1, (tokens - tokens // 2) // turns - answer)
        at = rng.random() * TOOL_SECONDS * sessions
        for i in range(turns):
            new = tokens // 2 if i == 0 else max(1, round(each * rng.uniform(0.5, 1.5)))
            found.append(Turn(at, s, new, answer))
            at += rng.lognormvariate(math.log(TOOL_SECONDS), TOOL_SPREAD)
    return sorted(found)


def chats(rng: random.Random, sessions: int, tokens: int, rounds: int) -> list[Turn]:
    """People who write, read and come back; each conversation grows to about ``tokens``."""
    found = []
    for s in range(sessions):
        turns = rng.randint(*CHAT_TURNS)
        at = rng.random() * CHAT_SECONDS
        for _ in range(turns):
            size = max(2, round(tokens / turns * rng.uniform(0.5, 1.5)))
            answer = max(1, size // 4)
            found.append(Turn(at, s, size - answer, answer))
            at += rng.expovariate(1 / CHAT_SECONDS)
    return sorted(found)


TRACES: dict[str, Callable[[random.Random, int, int, int], list[Turn]]] = {
    "return": returning,
    "agent": agents,
    "chat": chats,
}


def lengths(trace: list[Turn]) -> list[int]:
    """Tokens of each session at its end."""
    found: dict[int, int] = {}
    for turn in trace:
        found[turn.session] = found.get(turn.session, 0) + turn.new + turn.answer
    return [found[s] for s in sorted(found)]


def blocks(trace: list[Turn]) -> int:
    """Blocks that all sessions have together at their ends: the working set."""
    return sum(-(-length // BLOCK) for length in lengths(trace))
