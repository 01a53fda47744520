"""What ``bench seeds`` measures: each yardstick on our engine and on the static baseline, at equal KV memory.

Their figures are second-hand: texts about PagedAttention, most of them on a GPU that is not named, some doubtful.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import pairwise

from chatpager.bench.seeds_measure import Measure, Row
from chatpager.bench.workload import Ask, Served, p99


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
        f"it depends on lengths: ours are lognormal, {m.sizes.prompt_mean} and {m.sizes.answer_mean} in the mean, in "
        f"slots of {m.sizes.max_len:,}. Pages waste about half a block a sequence: of short ones a larger share",
        figures,
    )  # fmt: skip


def concurrency(m: Measure) -> Row:
    ours, static = m.mixed
    ratio = ours.at_once / m.sizes.slots  # not to what the baseline still computes something of use for
    return Row(
        "concurrency", "sequences at once in the same KV memory", "2.5x; 16 -> 50+ on one card",
        f"{ours.at_once:.1f} ({ratio:.1f}x), {max(ours.running)} at the most",
        f"{m.sizes.slots}, of which {static.at_once:.1f} are still needed",
        "means over the steps in which others wait. The ratio is the reservation over the mean length: shorter "
        "requests or a longer maximum raise it at will. What is not needed any more is an answer that has ended in a "
        "batch that has not",
        {"ours": round(ours.at_once, 2), "ours_most": max(ours.running), "static": round(static.at_once, 2),
         "static_slots": m.sizes.slots, "ratio": round(ratio, 3)},
    )  # fmt: skip


def throughput(m: Measure) -> Row:
    ours, static = m.mixed
    ratio = ours.rate / static.rate
    equal = statistics.fmean(a == b for a, b in zip(ours.tokens, static.tokens, strict=True))
    s = m.sizes
    alike = [Ask(m.prompt(s.prompt_mean), s.block_answer) for _ in range(s.slots)]
    step, static_step = (
        statistics.median(served.gaps(0)) for served in m.both(alike, s.max_len, s.slots, "equal batches")
    )
    return Row(
        "throughput", "tokens of answers a second, varied requests", "10-24x plain Hugging Face, on a GPU",
        f"{ours.rate:,.0f}/s ({ratio:.1f}x)", f"{static.rate:,.0f}/s",
        "a GPU decodes many sequences in nearly the time of one, as weights are read once; a CPU is soon limited by "
        "arithmetic, so more sequences at once bring less. Model, lengths and memory differ too. "
        f"{equal:.0%} of the answers are the same to the last token; rounding decides between tokens that are nearly "
        f"as likely. With {s.slots} equal sequences a step takes {_ms(step)} here and {_ms(static_step)} there: "
        f"{static_step / step:.1f}x of ours are faster steps, {ratio * step / static_step:.1f}x batching and pages",
        {"ours": round(ours.rate, 2), "static": round(static.rate, 2), "ratio": round(ratio, 3),
         "step_ms": _round_ms(step), "static_step_ms": _round_ms(static_step), "equal_answers": round(equal, 4)},
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
        f"{_ms(ours)} ({_change(ours, theirs)}; {_change(ours, ours_cold)} against our own cold one, {_ms(ours_cold)})",
        f"{_ms(theirs)}, all of it computed again",
        "what is left is the new tokens, so the saving grows with the history; it is the prefix cache's, which static "
        "batching could have without pages",
        {"ours_ms": list(map(_round_ms, warm)), "ours_cold_ms": list(map(_round_ms, cold)),
         "static_ms": list(map(_round_ms, baseline)), "change": round(ours / theirs - 1, 4)},
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
        {"ours_ms": _round_ms(ours), "static_ms": _round_ms(static), "ours_busy_ms": _round_ms(ours_busy),
         "static_busy_ms": _round_ms(static_busy), "longest_gap_ms": _round_ms(stall)},
    )  # fmt: skip


def long_context(m: Measure) -> Row:
    s = m.sizes
    asks = [Ask(m.prompt(s.long), s.long_answer) for _ in range(s.long_sequences)]
    # A prompt is let in beside those that run while a hundredth of the memory stays free behind it.
    longest = s.long + s.long_answer + max(32, s.long // 32)
    ours, static = m.both(asks, longest, s.long_sequences, "long contexts")
    ratio = ours.decode_rate / static.decode_rate
    return Row(
        "long", f"decoding {s.long_sequences} sequences of {s.long:,} tokens",
        "820 -> 1,350 tokens/s (1.65x), doubtful",
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
    told = [f"{size}: {f['waste']:.0%}, {f['own_ms']:.2f} ms, {f['decode']:,.0f}/s" for size, f in found.items()]
    return Row(
        "blocks", f"block size: waste, tables and bookkeeping a step, decoding {len(asks)} sequences",
        "16 is usual; below 512 management is said to rise to 15 %, doubtful", "; ".join(told),
        f"waste {static.waste:.0%} with slots of {longest:,}, {static.decode_rate:,.0f}/s",
        "waste is half a block a sequence. Kernels for GPUs like large blocks for bandwidth; on a CPU tables cost "
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
        "the bookkeeping is what paging can cost at the most: it names blocks for the prefix cache and schedules too. "
        "The whole difference has the baseline's own Python in it",
        {"ours_ms": _round_ms(ours), "static_ms": _round_ms(theirs), "change": round(ours / theirs - 1, 4),
         "own_share": round(own, 4)},
    )  # fmt: skip


ROWS: dict[str, Callable[[Measure], Row]] = {
    "waste": waste, "concurrency": concurrency, "throughput": throughput, "repeat": repeat_turn, "start": start,
    "long": long_context, "jitter": jitter, "blocks": block_sizes, "short": short,
}  # fmt: skip


def _by_growth(served: Served) -> tuple[float, float]:
    """Median seconds of a step in which memory was taken, and of one in which none was; prompts are not among them."""
    grown = [b > a for a, b in pairwise(served.reserved)]
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
