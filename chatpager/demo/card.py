"""``python -m chatpager.demo.card``: writes the model card from training.json and evaluation.json alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatpager.demo import model_path

Counts = Mapping[str, Mapping[str, Sequence[int]]]

SUITES = {
    "recall": "recalls a fact told 1 to 10 turns earlier (it plays every turn itself)",
    "corrected": "gives the last of two values of a fact",
    "untold": "says which fact it was not told",
    "summary": "lists all of two to four facts",
    "project": "answers a question about chatpager, word for word",
    "greeting": "greets back",
    "small talk": "other small talk, word for word",
    "unknown": "says that it does not know what it was never taught",
    "far": "recalls a fact across up to 3,500 tokens",
}
GOALS = {"recall": 0.95, "project": 0.95, "unknown": 0.80}
"""Share of right answers that the model was made for; the card says which of them it misses."""

WAYS = {"float32": "greedy, float32", "bfloat16": "greedy, bfloat16", "sampled": "sampled as configured"}

CARD = """\
---
license: apache-2.0
language: [en, zh]
pipeline_tag: text-generation
library_name: transformers
---

# chatpager's built-in demonstration model

A Llama of {parameters} million parameters ({size} MB in bfloat16) that lets `chatpager demo` run with no download and
no GPU. It greets, recalls most of what it is told, answers most questions about chatpager, streams English, Chinese
and emoji, and mostly says so when it does not know: how often, the figures say. It has read nothing but conversations
that a program made up.

## Figures

Held-out conversations: no value, topic or name in them was trained on, nor most of their wordings. Right answers of
all, by the committed `evaluation.json`:

{figures}

{verdict}

Recall by distance in turns ({recall_way}): {recall}.

Recall by wording, of the telling and of the asking ({recall_way}): {wording}.

Recall by distance in tokens ({recall_way}): {far}.

By language ({recall_way}): {languages}.

Made by `python -m chatpager.demo.evaluate --way float32 --way sampled --json evaluation.json`.

## How it was made

`python -m chatpager.demo.train --seed {seed} --steps {steps}` makes conversations, tokenizer and weights. Conversations
and tokenizer are the same for the same seed on every machine; the weights differ in their last bits between machines
and numbers of workers, because sums are taken in another order.

| | |
|---|---|
| steps, tokens | {steps}, {tokens} million |
| schedule | {schedule} |
| time | {hours} hours, {workers} on one {device} ({speed} tokens/s on average) |
| shape | {layers} layers of {hidden}, {heads} heads of {head_dim} over {kv_heads} key-value heads, feed-forward {ff} |
| vocabulary | {vocab}, byte-level BPE; Han characters and digits stand alone, so that values copy token by token |
| window | {window} tokens; trained on conversations of 1 to 100 turns, with skipped positions up to the whole window |
| optimiser | Muon for the matrices, AdamW for embedding and norms; loss on the assistant's words only |
| licence | Apache-2.0, like the code |

## What it cannot do

It has no knowledge of the world, cannot reason, calculate or translate, and knows chatpager only in the answers it was
taught. A question far from any it was trained on may get the answer to another question. It remembers facts of the
kinds in `data/facts.toml`; another sentence is kept only when it begins with "Remember this:". Recall falls with the
distance as shown above, and a list of everything it was told seldom comes whole. Of a message that is written alike in
simplified and traditional Chinese it cannot know which of the two is wanted; the evaluation asks for one of them.
"""


def percent(right: int, total: int) -> str:
    return f"{100 * right / total:.1f} % ({right}/{total})"


def figures_table(figures: Mapping[str, Counts]) -> str:
    ways = [w for w in WAYS if w in figures]
    lines = ["| | goal | " + " | ".join(WAYS[w] for w in ways) + " |", "|---" * (len(ways) + 2) + "|"]
    for suite, what in SUITES.items():
        cells = [percent(*figures[w][suite]["all"]) for w in ways]
        goal = f"{GOALS[suite]:.0%}" if suite in GOALS else ""
        lines.append(f"| **{suite}**: {what} | {goal} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def missed(figures: Mapping[str, Counts]) -> list[str]:
    """The goals that some way of running the model does not reach, each with its lowest figure."""
    lowest = {
        suite: min((figures[way][suite]["all"] for way in WAYS if way in figures), key=lambda n: n[0] / n[1])
        for suite in GOALS
    }
    return [
        f"{suite} {percent(*lowest[suite])} of the {goal:.0%} wanted"
        for suite, goal in GOALS.items()
        if lowest[suite][0] < goal * lowest[suite][1]
    ]


def verdict(figures: Mapping[str, Counts]) -> str:
    misses = missed(figures)
    return f"Goals missed: {'; '.join(misses)}." if misses else "Every goal is met."


def schedule(training: Mapping[str, Any]) -> str:
    minutes = training.get("minutes")
    if not minutes:
        return "by steps"
    took = f"by the clock: `--minutes {minutes:g}` took these steps; `--steps` counts steps instead"
    return f"{took}; {training['note']}" if "note" in training else took


def groups(counts: Mapping[str, Sequence[int]]) -> str:
    numbers = sorted((g for g in counts if g.isdigit()), key=int)
    return ", ".join(f"{int(g):,}: {percent(*counts[g])}" for g in numbers)


def languages(counts: Counts) -> str:
    return "; ".join(
        f"{suite} English {percent(*groups_['en'])}, Chinese {percent(*groups_['zh'])}"
        for suite, groups_ in counts.items()
        if "zh" in groups_
    )


def render(training: Mapping[str, Any], figures: Mapping[str, Counts], size: int) -> str:
    """The card's text; ``size`` is that of the weights in bytes."""
    recipe = training["recipe"]
    counts = figures["float32"]
    return CARD.format(
        parameters=f"{training['parameters'] / 1e6:.1f}",
        size=f"{size / 1e6:.1f}",
        figures=figures_table(figures),
        verdict=verdict(figures),
        schedule=schedule(training),
        recall=groups(counts["recall"]),
        wording=", ".join(f"{w} {percent(*counts['recall'][w])}" for w in ("trained words", "new words")),
        far=groups(counts["far"]),
        recall_way=WAYS["float32"],
        languages=languages(counts),
        seed=recipe["seed"],
        steps=training["steps"],
        tokens=f"{training['tokens'] / 1e6:.1f}",
        hours=f"{training['seconds'] / 3600:.1f}",
        workers=f"{training['workers']} process{'es' if training['workers'] > 1 else ''}",
        device={"cpu": "CPU", "cuda": "GPU"}[training["device"]],
        speed=f"{training['tokens'] / training['seconds']:,.0f}",
        layers=recipe["layers"],
        hidden=recipe["hidden_size"],
        heads=recipe["heads"],
        head_dim=recipe["head_dim"],
        kv_heads=recipe["kv_heads"],
        ff=recipe["feed_forward"],
        vocab=f"{recipe['vocab_size']:,}",
        window=f"{recipe['window']:,}",
    )


def card(folder: Path) -> str:
    """The card of the model in ``folder``."""
    training, figures = (json.loads((folder / name).read_text()) for name in ("training.json", "evaluation.json"))
    return render(training, figures, (folder / "model.safetensors").stat().st_size)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m chatpager.demo.card", description=__doc__)
    parser.add_argument("--model", type=Path, default=model_path(), help="folder of the model")
    folder = parser.parse_args(arguments).model
    (folder / "README.md").write_text(card(folder))


if __name__ == "__main__":
    main()
