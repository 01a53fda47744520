"""What ``bench seeds`` measures: each yardstick on our engine and on the static baseline, at equal KV memory.

Their figures are second-hand: texts about PagedAttention, most of them on a GPU that is not named, some doubtful.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from chatpager.bench.paged_batching import PagedBatching
from chatpager.bench.static_batching import StaticBatching
from chatpager.bench.workload import Ask, Served, Told, lognormal, p99, tokens


@dataclass(frozen=True)
class Sizes:
    """Tokens, unless it says otherwise. Means of prompts and answers are those of ShareGPT in the vLLM paper."""

    max_len: int = 2048
    slots: int = 4
    """Reservations of ``max_len`` that the KV memory holds in the rows on memory and throughput."""
    requests: int = 64
    prompt_mean: int = 161
    answer_mean: int = 338
    history: int = 2000
    rounds: int = 3
    long: int = 16_384
    long_sequences: int = 2
    long_answer: int = 96
    decoders: int = 4
    decoder_answer: int = 256
    steady: int = 8
    """Sequences of the rows on jitter and block sizes."""
    steady_answer: int = 256
    block_sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    block_answer: int = 64
    short: int = 10
    short_requests: int = 30


QUICK = Sizes(
    max_len=128, slots=2, requests=8, prompt_mean=16, answer_mean=16, history=160, rounds=1, long=256, long_answer=12,
    decoders=2, decoder_answer=24, steady=2, steady_answer=24, block_answer=8, short_requests=3,
)  # fmt: skip


@dataclass
class Row:
    """``theirs``, ``ours`` and ``static`` are told in words; the figures behind them are in ``figures``."""

    key: str
    title: str
    theirs: str
    ours: str
    static: str
    why: str
    figures: dict[str, Any] = field(default_factory=dict)


class Measure:
    """What the rows need: the weights, the sizes, and somebody to tell of progress. ``watch`` is given what is measured
    and its tokens, and gives what is called with those computed."""

    def __init__(self, folder: Path, vocabulary: int, sizes: Sizes, watch: Callable[[str, int], Told]) -> None:
        self.folder, self.sizes = folder, sizes
        self._vocabulary, self._watch = vocabulary, watch
        self.rng = random.Random(7)

    def prompt(self, count: int) -> list[int]:
        return tokens(self.rng, count, self._vocabulary)

    def paged(self, max_len: int, kv_tokens: int, block_size: int = 16) -> PagedBatching:
        """Ready: its first steps, which take longer, are over."""
        engine = PagedBatching(self.folder, max_len=max_len, kv_tokens=kv_tokens, block_size=block_size)
        engine.serve([Ask(self.prompt(8), 2), Ask(self.prompt(8), 2)])
        return engine

    def static(self, max_len: int, kv_tokens: int) -> StaticBatching:
        baseline = StaticBatching(self.folder, max_len=max_len, kv_tokens=kv_tokens)
        baseline.serve([Ask(self.prompt(8), 2), Ask(self.prompt(8), 2)])
        return baseline

    def serve(self, engine: PagedBatching | StaticBatching, asks: list[Ask], what: str) -> Served:
        name = "chatpager" if isinstance(engine, PagedBatching) else "static"
        return engine.serve(asks, self._watch(f"{what}, {name}", sum(ask.tokens for ask in asks)))

    def both(self, asks: list[Ask], max_len: int, slots: int, what: str) -> tuple[Served, Served]:
        """(ours, static) of the same requests with the same KV memory."""
        ours = self.serve(self.paged(max_len, slots * max_len), asks, what)
        return ours, self.serve(self.static(max_len, slots * max_len), asks, what)

    @cached_property
    def mixed(self) -> tuple[Served, Served]:
        """(ours, static) of requests of varied length, all there at once."""
        s = self.sizes
        asks = self.varied(s.requests)
        return self.both(asks, s.max_len, s.slots, "varied requests")

    def varied(self, count: int) -> list[Ask]:
        s = self.sizes
        return lognormal(
            self.rng, count,
            prompt_mean=s.prompt_mean, answer_mean=s.answer_mean, max_len=s.max_len, vocabulary=self._vocabulary,
        )  # fmt: skip


def waste(m: Measure) -> Row:
    ours, static = m.mixed
    length, used = max(m.sizes.max_len, 2048), 20
    one = m.paged(length, 2 * length).serve([Ask(m.prompt(used), 2)])
    figures = {
        "ours": round(ours.waste, 4),
        "static": round(static.waste, 4),
        "example": {
            "tokens": used, "ours_slots": one.reserved[0], "static_slots": length,
            "ours": round(one.wastes[0], 4), "static": round(1 - used / length, 4),
        },
        "over_the_run": {"ours": _resampled(ours.wastes), "static": _resampled(static.wastes)},
    }  # fmt: skip
    return Row(
        "waste", "reserved KV memory that holds no token",
        "static 60-80 % (one text: 40-60 %), paged about 4 %; 20 of 2,048 tokens: 99 %",
        f"{ours.waste:.1%}; {used} tokens: {one.reserved[0]} slots, of which {one.reserved[0] - used} are empty",
        f"{static.waste:.1%}; {used} tokens: {length:,} slots, {1 - used / length:.0%} empty",
        f"it depends on lengths: ours are lognormal with means {m.sizes.prompt_mean} and {m.sizes.answer_mean} in slots "
        f"of {m.sizes.max_len:,}. Paged waste is about half a block a sequence, so short ones waste a larger share",
        figures,
    )  # fmt: skip


def concurrency(m: Measure) -> Row:
    ours, static = m.mixed
    ratio = ours.at_once / static.at_once
    return Row(
        "concurrency", "sequences at once in the same KV memory", "2.5x; 16 -> 50+ on one card",
        f"{ours.at_once:.1f} ({ratio:.1f}x), {max(ours.running)} at the most",
        f"{static.at_once:.1f} of {m.sizes.slots} slots still needed",
        "means over the steps in which others wait. The ratio is the reservation over the mean length: shorter requests "
        "or a longer maximum raise it at will. A slot of the baseline whose answer has ended computes nothing of use",
        {"ours": round(ours.at_once, 2), "ours_most": max(ours.running), "static": round(static.at_once, 2),
         "static_slots": m.sizes.slots, "ratio": round(ratio, 3)},
    )  # fmt: skip


def throughput(m: Measure) -> Row:
    ours, static = m.mixed
    ratio = ours.rate / static.rate
    equal = statistics.fmean(a == b for a, b in zip(ours.tokens, static.tokens, strict=True))
    return Row(
        "throughput", "tokens of answers a second, varied requests", "10-24x plain Hugging Face, on a GPU",
        f"{ours.rate:,.0f}/s ({ratio:.1f}x)", f"{static.rate:,.0f}/s",
        "a GPU decodes many sequences in nearly the time of one, as weights are read once; a CPU is soon limited by "
        "arithmetic, so more sequences at once bring less. Model, lengths and memory differ too. "
        f"{equal:.0%} of the answers are equal to the last token; the others part at near-ties",
        {"ours": round(ours.rate, 2), "static": round(static.rate, 2), "ratio": round(ratio, 3),
         "equal_answers": round(equal, 4)},
    )  # fmt: skip


def repeat_turn(m: Measure) -> Row:
    s = m.sizes
    new, answer = 24, 8
    longest = s.history + new + 2 * answer
    paged, static = m.paged(longest, 3 * longest), m.static(longest, longest)
    warm, cold, baseline = [], [], []
    for _ in range(s.rounds):
        history = m.prompt(s.history)
        first = m.serve(paged, [Ask(history, answer)], "first turn")
        second = Ask([*history, *first.tokens[0], *m.prompt(new)], answer)
        warm.append(m.serve(paged, [second], "second turn").first_token(0))
        cold.append(m.serve(paged, [Ask(m.prompt(len(second.prompt)), answer)], "cold turn").first_token(0))
        baseline.append(m.serve(static, [second], "second turn").first_token(0))
    ours, ours_cold, theirs = map(statistics.median, (warm, cold, baseline))
    return Row(
        "repeat", f"time to first token, second turn over {s.history:,} tokens", "-80 % or more",
        f"{_ms(ours)} ({_change(ours, theirs)}; {_change(ours, ours_cold)} of our own cold one, {_ms(ours_cold)})",
        f"{_ms(theirs)}, all of it computed again",
        "what is left is the new tokens, so the saving grows with the history; it is the prefix cache's, which static "
        "batching could have without pages",
        {"ours_ms": [round(1000 * t, 2) for t in warm], "ours_cold_ms": [round(1000 * t, 2) for t in cold],
         "static_ms": [round(1000 * t, 2) for t in baseline], "change": round(ours / theirs - 1, 4)},
    )  # fmt: skip


def start(m: Measure) -> Row:
    s = m.sizes
    longest = s.long + 8
    alone = m.both([Ask(m.prompt(s.long), 2)], longest, 2, "long prompt alone")
    prompts = [Ask(m.prompt(64), s.decoder_answer) for _ in range(s.decoders)]
    busy = [*prompts, Ask(m.prompt(s.long), 2, after=s.decoder_answer // 2)]
    # The baseline has a slot for each that decodes; ours has the same memory.
    crowded = m.both(busy, longest, s.decoders, "long prompt while others decode")
    (ours, static), (ours_busy, static_busy) = [(a.first_token(-1), b.first_token(-1)) for a, b in (alone, crowded)]
    stall = max(max(crowded[0].gaps(i)) for i in range(s.decoders))
    return Row(
        "start", f"first token of a prompt of {s.long:,} tokens", "230 -> 95 ms (-58 %), doubtful",
        f"while {s.decoders} decode {_ms(ours_busy)} ({_change(ours_busy, static_busy)}; they wait {_ms(stall)} for a "
        f"token at the most), alone {_ms(ours)} ({_change(ours, static)})",
        f"while {s.decoders} decode {_ms(static_busy)}, alone {_ms(static)}",
        "the baseline waits for its batch to end; ours begins at once, but shares its steps with those that decode. "
        "Computing the prompt is the same work for both and, on a CPU, most of the time; 95 ms for it need a GPU",
        {"ours_ms": round(1000 * ours, 1), "static_ms": round(1000 * static, 1), "ours_busy_ms": round(1000 * ours_busy, 1),
         "static_busy_ms": round(1000 * static_busy, 1), "longest_gap_ms": round(1000 * stall, 1)},
    )  # fmt: skip


def long_context(m: Measure) -> Row:
    s = m.sizes
    asks = [Ask(m.prompt(s.long), s.long_answer) for _ in range(s.long_sequences)]
    ours, static = m.both(asks, s.long + s.long_answer + 32, s.long_sequences, "long contexts")
    ratio = ours.decode_rate / static.decode_rate
    return Row(
        "long", f"decoding {s.long_sequences} sequences of {s.long:,} tokens", "820 -> 1,350 tokens/s (1.65x), doubtful",
        f"{ours.decode_rate:,.1f} tokens/s ({ratio:.2f}x); with the prompts {ours.rate:.2f}",
        f"{static.decode_rate:,.1f} tokens/s; with the prompts {static.rate:.2f}",
        "equal sequences at once in both, so this compares attention and steps alone: the lengths are equal too, which "
        "leaves the baseline nothing to waste. Their text does not say how many ran at once",
        {"ours": round(ours.decode_rate, 3), "static": round(static.decode_rate, 3), "ratio": round(ratio, 3),
         "ours_whole": round(ours.rate, 4), "static_whole": round(static.rate, 4)},
    )  # fmt: skip


def jitter(m: Measure) -> Row:
    s = m.sizes
    asks = [Ask(m.prompt(64), s.steady_answer) for _ in range(s.steady)]
    ours, static = m.both(asks, 64 + s.steady_answer, s.steady, "constant load")
    spread = {name: p99(served.gaps(0)) / statistics.median(served.gaps(0)) - 1
              for name, served in (("ours", ours), ("static", static))}  # fmt: skip
    taking, other = _by_growth(ours)
    return Row(
        "jitter", f"p99 of the time between tokens over its median, {s.steady} sequences", "about +-7 %",
        f"+{spread['ours']:.1%} of {_ms(statistics.median(ours.gaps(0)))}; a step in which all take a block takes "
        f"{taking / other - 1:+.1%}",
        f"+{spread['static']:.1%} of {_ms(statistics.median(static.gaps(0)))}",
        "whatever else the machine does is in it, in both alike, and contexts grow meanwhile; what blocks cost is the "
        "last figure: all sequences have the same length, so all take their blocks in the same step",
        {"ours": round(spread["ours"], 4), "static": round(spread["static"], 4),
         "ours_ms": {"p50": _round_ms(statistics.median(ours.gaps(0))), "p99": _round_ms(p99(ours.gaps(0)))},
         "static_ms": {"p50": _round_ms(statistics.median(static.gaps(0))), "p99": _round_ms(p99(static.gaps(0)))},
         "step_with_blocks": round(taking / other - 1, 4)},
    )  # fmt: skip


def block_sizes(m: Measure) -> Row:
    s = m.sizes
    asks = [ask._replace(answer=s.block_answer) for ask in m.varied(2 * s.steady)]
    longest = max(ask.tokens for ask in asks)
    room = len(asks) * (-(-longest // max(s.block_sizes)) + 1) * max(s.block_sizes)
    found = {}
    for size in s.block_sizes:
        served = m.serve(m.paged(longest, room, size), asks, f"blocks of {size}")
        own = [spent for spent, running in zip(served.own, served.running, strict=True) if running == len(asks)]
        found[str(size)] = {"waste": round(served.waste, 4), "own_ms": _round_ms(statistics.median(own)),
                            "decode": round(served.decode_rate, 2)}  # fmt: skip
    static = m.serve(m.static(longest, len(asks) * longest), asks, "contiguous")
    told = "; ".join(f"{size}: {f['waste']:.0%}, {f['own_ms']:.2f} ms, {f['decode']:,.0f}/s" for size, f in found.items())
    return Row(
        "blocks", f"block size: waste, tables and bookkeeping a step, decoding {len(asks)} sequences",
        "16 is usual; below 512 management is said to rise to 15 %, doubtful", told,
        f"waste {static.waste:.0%} with slots of {longest:,}, {static.decode_rate:,.0f}/s",
        "waste is half a block a sequence. A kernel for a GPU likes large blocks for bandwidth; on a CPU the tables cost "
        "little beside the model",
        {"ours": found, "static": {"waste": round(static.waste, 4), "decode": round(static.decode_rate, 2)}},
    )  # fmt: skip


def short(m: Measure) -> Row:
    s = m.sizes
    asks = [Ask(m.prompt(s.short), s.short) for _ in range(s.short_requests)]
    paged, static = m.paged(64, 256), m.static(64, 64)
    # Alternately, so that whatever else the machine does meets both.
    pairs = [(m.serve(paged, [ask], "short"), m.serve(static, [ask], "short")) for ask in asks]
    ours = statistics.median(a.seconds for a, _ in pairs)
    theirs = statistics.median(b.seconds for _, b in pairs)
    own = statistics.fmean(sum(a.own) / a.seconds for a, _ in pairs)
    return Row(
        "short", f"one request at a time, {s.short} tokens in and {s.short} out", "paging may cost more than it saves",
        f"{_ms(ours)} a request ({_change(ours, theirs)}); of it {own:.1%} tables and bookkeeping",
        f"{_ms(theirs)} a request",
        "the bookkeeping is what paging can cost at the most: it names blocks for the prefix cache and schedules too. The "
        "whole difference has also the baseline's own Python in it",
        {"ours_ms": _round_ms(ours), "static_ms": _round_ms(theirs), "change": round(ours / theirs - 1, 4),
         "own_share": round(own, 4)},
    )  # fmt: skip


ROWS: dict[str, Callable[[Measure], Row]] = {
    "waste": waste, "concurrency": concurrency, "throughput": throughput, "repeat": repeat_turn, "start": start,
    "long": long_context, "jitter": jitter, "blocks": block_sizes, "short": short,
}  # fmt: skip


def _by_growth(served: Served) -> tuple[float, float]:
    """Median seconds of a step in which memory was taken, and of one in which none was; prompts are not among them."""
    grown = [b > a for a, b in zip(served.reserved, served.reserved[1:], strict=False)]
    gaps = served.gaps(0)
    steps = list(zip(grown[-len(gaps) :], gaps, strict=True))
    return statistics.median(t for g, t in steps if g), statistics.median(t for g, t in steps if not g)


def _resampled(values: list[float], places: int = 21) -> list[float]:
    return [round(values[i * (len(values) - 1) // (places - 1)], 4) for i in range(places)]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def _round_ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _change(ours: float, other: float) -> str:
    return f"{ours / other - 1:+.0%}"
