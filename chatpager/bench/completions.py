"""One streamed answer as its client saw it, and the arithmetic of many."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import aiohttp
import msgspec

from chatpager.errors import ChatpagerError

SILENT_SECONDS = 900.0
"""After which a server that sends nothing is given up: a long queue on a slow machine is minutes."""
TOLD = 500
"""Characters of a refusal that are passed on."""


class PeerError(ChatpagerError):
    """A server that is measured cannot be started or reached, refused, or does not tell what has to be known."""


class Refused(PeerError):
    """The server answered with an error's status."""

    def __init__(self, name: str, status: int, text: str) -> None:
        self.status = status
        super().__init__(f"{name} answered {status}: {text[:TOLD]}")


@dataclass(frozen=True)
class Target:
    """Where to ask and how. ``ignore_eos``: the server takes this field."""

    name: str
    url: str
    model: str = ""
    api_key: str | None = None
    ignore_eos: bool = True

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass
class Answer:
    """``pieces`` are the texts in the order they came, each with its time; times are of ``time.perf_counter``."""

    asked_tokens: int
    sent: float
    ended: float = 0.0
    pieces: list[tuple[float, str]] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int | None = None
    """None: the server does not tell."""
    version: str = ""

    @property
    def ttft(self) -> float:
        """Seconds to the first text."""
        return self.pieces[0][0] - self.sent

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces)

    @property
    def counts(self) -> list[int]:
        return tokens_of_pieces([len(text) for _, text in self.pieces], self.output_tokens)

    @property
    def gaps(self) -> list[float]:
        return gaps([at for at, _ in self.pieces], self.counts)

    @property
    def decode_rate(self) -> float | None:
        """Tokens a second after the first piece; None where nothing came after it."""
        seconds = self.pieces[-1][0] - self.pieces[0][0]
        return sum(self.counts[1:]) / seconds if seconds > 0 else None


async def ask(client: aiohttp.ClientSession, target: Target, messages: list[dict[str, str]], tokens: int) -> Answer:
    """Stream one completion of ``tokens``, greedily.

    Raises:
        Refused: an error's status.
        PeerError: the connection failed, or the stream has an error, no text or no usage.
    """
    body: dict[str, Any] = {
        "model": target.model,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if target.ignore_eos:
        body["ignore_eos"] = True
    answer = Answer(asked_tokens=tokens, sent=time.perf_counter())
    url = f"{target.url}/v1/chat/completions"
    try:
        async with client.post(url, json=body, headers=target.headers) as response:
            if response.status >= 400:
                raise Refused(target.name, response.status, await response.text())
            async for line in response.content:
                if line.startswith(b"data:"):
                    _take(answer, line[5:].strip(), target.name)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise PeerError(f"{target.name}: the stream from {url} broke off: {error or type(error).__name__}") from error
    answer.ended = time.perf_counter()
    if not answer.output_tokens:
        raise PeerError(
            f"{target.name}: its stream has no usage, and tokens are counted by that; turn it on in the server "
            "(stream_options.include_usage was sent), or leave this server out"
        )
    if not answer.pieces:
        raise PeerError(
            f"{target.name}: an answer of {answer.output_tokens} tokens had no text, so its first token was not seen; "
            "use a model that writes text (chatpager bench model makes one)"
        )
    return answer


def _take(answer: Answer, data: bytes, name: str) -> None:
    """One event of the stream."""
    if not data or data == b"[DONE]":
        return
    event = msgspec.json.decode(data)
    if error := event.get("error"):
        raise PeerError(f"{name}: its stream ended with an error: {str(error)[:TOLD]}")
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if text := (delta.get("content") or "") + (delta.get("reasoning_content") or delta.get("reasoning") or ""):
            answer.pieces.append((time.perf_counter(), text))
    if usage := event.get("usage"):
        answer.prompt_tokens = usage.get("prompt_tokens") or 0
        answer.output_tokens = usage.get("completion_tokens") or 0
        details, timings = usage.get("prompt_tokens_details") or {}, event.get("timings") or {}  # llama.cpp's own
        answer.cached_tokens = details.get("cached_tokens", timings.get("cache_n"))
    answer.version = event.get("system_fingerprint") or answer.version


def tokens_of_pieces(lengths: Sequence[int], tokens: int) -> list[int]:
    """How many of ``tokens`` each piece of so many characters brought. One each if there are as many; of more tokens
    than pieces each has one and the rest by its length; of fewer, evenly."""
    pieces = len(lengths)
    if tokens < pieces:
        return _spread([1] * pieces, tokens)
    return [1 + more for more in _spread(lengths, tokens - pieces)]


def _spread(weights: Sequence[int], count: int) -> list[int]:
    total, given, shares = sum(weights), 0, []
    for so_far in accumulate(weights):
        upto = count * so_far // total
        shares.append(upto - given)
        given = upto
    return shares


def gaps(times: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Seconds between tokens. A piece of several divides the time since the one before among them; what the first piece
    brought beside the first token has no gap that anybody saw."""
    found: list[float] = []
    since = times[0]
    for at, count in zip(times[1:], counts[1:], strict=True):
        if count:
            found += [(at - since) / count] * count
            since = at
    return found


def percentile(values: Sequence[float], share: float) -> float | None:
    """Between the two nearest values in proportion, as numpy does; None of no values."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def cached_share(answers: Sequence[Answer], attainable: Sequence[int]) -> float | None:
    """Cached tokens of those that were ``attainable``, one number an answer; None where the server tells of no answer.
    Servers that tell only what is above nought are taken at that."""
    if all(answer.cached_tokens is None for answer in answers) or not sum(attainable):
        return None
    cached = sum(min(a.cached_tokens or 0, most) for a, most in zip(answers, attainable, strict=True))
    return cached / sum(attainable)
