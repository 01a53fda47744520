"""How long a request asks for its prefix to be kept: OpenAI's options and Anthropic's marks, as leases.

``prompt_cache_options.ttl`` and ``prompt_cache_retention`` are OpenAI's (openai-python 3.52 types); ``cache_control``
is Anthropic's, which agent frameworks put on messages and parts whatever the endpoint. None of them is part of the
conversation: nothing of it reaches the template. The longest of them counts, for the whole prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from chatpager.errors import InvalidRequest
from chatpager.server.input_items import Json
from chatpager.server.reading import problem_of

MAX_DEPTH = 2
"""Of what may hold a mark: a message, its parts, and theirs."""
SECONDS = {"5m": 300.0, "30m": 1800.0, "1h": 3600.0, "12h": 43_200.0, "24h": 86_400.0}


class PromptCacheOptions(msgspec.Struct, frozen=True):
    """``mode`` decides what OpenAI writes to its cache; here everything is."""

    mode: Literal["implicit", "explicit"] = "implicit"
    ttl: Literal["30m", "12h"] | None = None
    prewarm: bool | None = None
    """Compute the prompt and give no answer."""
    comparison_response_id: str | None = None


class CacheControl(msgspec.Struct, frozen=True):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class CacheWishes(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a request's body that ask for it."""

    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    """With a hyphen it is openai-python 2's spelling."""
    cache_control: CacheControl | None = None

    @property
    def prewarms(self) -> bool:
        return bool(self.prompt_cache_options and self.prompt_cache_options.prewarm)


def keep_seconds(wishes: CacheWishes, items: str | Sequence[Json] | None, param: str) -> float:
    """Seconds for which the prefix is to be kept after the turn; 0: as any other.

    Raises:
        InvalidRequest: a wish has a wrong form.
    """
    options = wishes.prompt_cache_options or PromptCacheOptions()
    found = [*([wishes.cache_control] if wishes.cache_control else []), *marks(items, param)]
    asked = [SECONDS.get(ttl or "", 0.0) for ttl in (options.ttl, wishes.prompt_cache_retention)]
    return max([*asked, *map(mark_seconds, found)])


def mark_seconds(mark: CacheControl) -> float:
    return SECONDS[mark.ttl or "5m"]


def marks(items: str | Sequence[Json] | None, param: str) -> list[CacheControl]:
    """The marks of items and of their parts. Raises InvalidRequest."""
    return [_mark(mark, place) for mark, place in _marks(items, param)]


def _marks(items: str | Sequence[Json] | None, param: str) -> Iterator[tuple[Any, str]]:
    """The ``cache_control`` of messages, of their parts, and of what these consist of (a tool's result), and where each
    stands."""
    for i, item in enumerate(items if isinstance(items, list) else ()):
        for holder, place in _holders(item, f"{param}[{i}]", MAX_DEPTH):
            if holder.get("cache_control") is not None:
                yield holder["cache_control"], f"{place}.cache_control"


def _holders(item: Any, place: str, depth: int) -> Iterator[tuple[Json, str]]:
    if not isinstance(item, dict):
        return
    yield item, place
    content = item.get("content")
    for i, part in enumerate(content if depth and isinstance(content, list) else ()):
        yield from _holders(part, f"{place}.content[{i}]", depth - 1)


def _mark(mark: Any, place: str) -> CacheControl:
    try:
        return msgspec.convert(mark, CacheControl)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{place}: {problem_of(error, CacheControl)[1]}", param=place) from error
