"""How a request wants its tokens drawn. The names are the ones vLLM's users know."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from operator import index
from typing import Any

import msgspec

from chatpager.engine.grammar import Grammar
from chatpager.errors import InvalidRequest

MAX_N = 64
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARS = 256


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raises ``InvalidRequest`` (with ``param``) when a value is of another type or out of range.

    ``temperature`` 0 is greedy. ``top_k`` 0 or -1 is off. ``logprobs`` asks for the chosen token and that many of the
    likeliest. ``max_tokens`` None means up to the model's window. ``seed`` None lets the engine draw one. As in vLLM
    ``stop`` and ``stop_token_ids`` may be None; they are read as ().
    Penalties follow vLLM: repetition over prompt and answer, presence and frequency over the answer.
    With a ``grammar`` an answer ends where that is complete: before only if ``max_tokens`` or a stop comes first, and
    there also if ``min_tokens`` or ``ignore_eos`` ask for more than it allows.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int | None = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] | str = ()
    stop_token_ids: tuple[int, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    logprobs: int | None = None
    seed: int | None = None
    include_stop_str_in_output: bool = False
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        for what, read, names in _TYPES:
            for name in names:
                try:
                    value = read(getattr(self, name))
                except (TypeError, ValueError, OverflowError):
                    raise InvalidRequest(f"{name} must be {what}", param=name) from None
                msgspec.structs.force_setattr(self, name, value)
        for name, low, high in _RANGES:
            _check_range(name, getattr(self, name), low, high)
        for name, ok, problem in _RULES:
            if not ok(self):
                raise InvalidRequest(f"{name} {problem}", param=name)

    def check_vocabulary(self, size: int) -> None:
        """Raises InvalidRequest: ``logit_bias`` names a token that a vocabulary of ``size`` does not have."""
        outside = [t for t in self.logit_bias or () if t >= size]
        if outside:
            raise InvalidRequest(f"logit_bias names token {outside[0]}, outside 0..{size - 1}", param="logit_bias")

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def is_cut(self) -> bool:
        """Whether only the likeliest tokens may be drawn, by top-k or top-p."""
        return self.top_k > 0 or self.top_p < 1.0

    @property
    def penalised(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)


GREEDY_BELOW = 1e-5


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return index(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    return texts


def _bias(value: Any) -> dict[int, float]:
    return {_whole(token): _number(bias) for token, bias in dict(value).items()}


def _grammar(value: Any) -> Grammar:
    if not isinstance(value, Grammar):
        raise TypeError
    return value


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


_TYPES: tuple[tuple[str, Callable[[Any], Any], tuple[str, ...]], ...] = (
    ("a whole number", _whole, ("n", "top_k", "min_tokens")),
    ("a whole number or None", _or_none(_whole), ("max_tokens", "logprobs", "seed")),
    ("a number", _number, ("temperature", "top_p", "min_p")),
    ("a number", _number, ("presence_penalty", "frequency_penalty", "repetition_penalty")),
    ("True or False", _truth, ("ignore_eos", "include_stop_str_in_output")),
    ("a text, a list of texts or None", _texts, ("stop",)),
    ("a list of token ids or None", lambda v: () if v is None else tuple(map(_whole, v)), ("stop_token_ids",)),
    ("a map of token ids to numbers or None", _or_none(_bias), ("logit_bias",)),
    ("a Grammar or None", _or_none(_grammar), ("grammar",)),
)
"""What a field must be, what makes it one (or raises), and the fields."""

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("n", 1, MAX_N),
    ("temperature", 0.0, 100.0),
    ("min_p", 0.0, 1.0),
    ("min_tokens", 0, 2**31),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
)

_RULES: tuple[tuple[str, Callable[[SamplingParams], bool], str], ...] = (
    ("top_p", lambda p: 0.0 < p.top_p <= 1.0, "must be above 0 and at most 1"),
    ("top_k", lambda p: p.top_k >= -1, "must be -1 (off), 0 (off) or the number of tokens to keep"),
    ("repetition_penalty", lambda p: 0.0 < p.repetition_penalty <= 100.0, "must be above 0 and at most 100"),
    ("max_tokens", lambda p: p.max_tokens is None or p.max_tokens >= 1, "must be at least 1"),
    ("min_tokens", lambda p: p.max_tokens is None or p.min_tokens <= p.max_tokens, "must be at most max_tokens"),
    (
        "stop",
        lambda p: len(p.stop) <= MAX_STOPS and all(0 < len(s) <= MAX_STOP_CHARS for s in p.stop),
        f"takes at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters",
    ),
    ("stop_token_ids", lambda p: all(t >= 0 for t in p.stop_token_ids), "must not be negative"),
    (
        "logprobs",
        lambda p: p.logprobs is None or 0 <= p.logprobs <= MAX_LOGPROBS,
        f"must be between 0 and {MAX_LOGPROBS}",
    ),
    ("seed", lambda p: p.seed is None or -(2**63) <= p.seed < 2**64, "must fit 64 bits"),
    (
        "logit_bias",
        lambda p: not p.logit_bias or all(t >= 0 and -100 <= b <= 100 for t, b in p.logit_bias.items()),
        "maps token ids to values between -100 and 100",
    ),
)


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN fails here too
        raise InvalidRequest(f"{name} must be between {low:g} and {high:g}", param=name)
