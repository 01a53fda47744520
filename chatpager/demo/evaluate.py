"""``python -m chatpager.demo.evaluate``: what the built-in model gets right on held-out conversations."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatpager.demo import model_path
from chatpager.demo.cases import Case, make_cases
from chatpager.demo.talk import Message
from chatpager.engine.llm import LLM
from chatpager.engine.sampling_params import SamplingParams

BATCH = 48
LONGEST_ANSWER = 320


@dataclass(frozen=True)
class Outcome:
    case: Case
    answer: str

    @property
    def right(self) -> bool:
        return self.case.is_right(self.answer)


@dataclass(frozen=True)
class Way:
    """How the model is run: its number format, and greedily or as its generation_config.json says."""

    dtype: torch.dtype
    greedy: bool = True
    quantization: str = "none"
    """Anything else is played by the product's own engine; transformers has no such weights."""


WAYS = {
    "float32": Way(torch.float32),
    "bfloat16": Way(torch.bfloat16),
    "sampled": Way(torch.float32, greedy=False),
    "int8": Way(torch.float32, quantization="int8"),
}


class Player:
    """A model that plays the assistant in many conversations at once."""

    def __init__(self, folder: Path, way: Way = WAYS["float32"]) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=way.dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.how: dict[str, Any] = (
            {"do_sample": False, "temperature": None, "top_p": None, "top_k": None} if way.greedy else {}
        )

    def answers(self, conversations: Sequence[list[Message]]) -> list[str]:
        """The model's next message in each conversation."""
        batch = self.tokenizer.apply_chat_template(
            list(conversations), add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        )
        room = int(self.model.config.max_position_embeddings) - batch["input_ids"].shape[1]
        with torch.inference_mode():
            out = self.model.generate(**batch, max_new_tokens=min(LONGEST_ANSWER, room), **self.how)
        new = out[:, batch["input_ids"].shape[1] :]
        return list(self.tokenizer.batch_decode(new, skip_special_tokens=True))

    def play(self, cases: Sequence[Case]) -> list[Outcome]:
        """Plays every case to its end, in batches of conversations of like length."""
        order = sorted(
            cases, key=lambda c: (len(c.messages) if c.live else 0, sum(len(m["content"]) for m in c.messages))
        )
        found = []
        for at in range(0, len(order), BATCH):
            found += self._play_batch(order[at : at + BATCH])
        return found

    def _play_batch(self, cases: Sequence[Case]) -> list[Outcome]:
        told: list[list[Message]] = [[] if c.live else c.messages[:-1] for c in cases]
        answers = [""] * len(cases)
        while waiting := [i for i, c in enumerate(cases) if len(told[i]) < len(c.messages)]:
            for i in waiting:
                while cases[i].messages[len(told[i])]["role"] != "assistant":
                    told[i] = [*told[i], cases[i].messages[len(told[i])]]
            for i, answer in zip(waiting, self.answers([told[i] for i in waiting]), strict=True):
                answers[i] = answer
                told[i] = [*told[i], {"role": "assistant", "content": answer}]
        return [Outcome(case, answer) for case, answer in zip(cases, answers, strict=True)]


class EnginePlayer(Player):
    """A model that is played by the product's engine, greedily."""

    def __init__(self, folder: Path, way: Way) -> None:
        dtype = str(way.dtype).removeprefix("torch.")
        self.llm = LLM(folder, dtype=dtype, quantization=way.quantization, max_num_seqs=BATCH)

    def answers(self, conversations: Sequence[list[Message]]) -> list[str]:
        params = SamplingParams(temperature=0.0, max_tokens=LONGEST_ANSWER)
        prompts = [[dict(message) for message in conversation] for conversation in conversations]
        return [out.outputs[0].text for out in self.llm.generate(prompts, params, use_tqdm=False)]


def player(folder: Path, way: Way) -> Player:
    return Player(folder, way) if way.quantization == "none" else EnginePlayer(folder, way)


def tally(outcomes: Iterable[Outcome]) -> dict[str, dict[str, list[int]]]:
    """Suite -> group -> [right, all]; the group "all" is the suite, and its languages are groups too."""
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for outcome in outcomes:
        case = outcome.case
        groups = ["all", case.lang, *([case.wording] if case.wording else [])]
        groups += [case.group] if case.suite in ("recall", "far", "summary") else []
        for group in groups:
            counts[case.suite][group][0] += outcome.right
            counts[case.suite][group][1] += 1
    return {suite: dict(groups) for suite, groups in counts.items()}


def show(console: Console, counts: dict[str, dict[str, list[int]]]) -> None:
    table = Table("suite", "right", "of", "share", "by language, distance or size")
    for suite, groups in counts.items():
        right, total = groups["all"]
        parts = "  ".join(f"{g}: {r}/{n}" for g, (r, n) in groups.items() if g != "all")
        table.add_row(suite, str(right), str(total), f"{100 * right / total:.1f} %", parts)
    console.print(table)


def show_wrong(console: Console, outcomes: Iterable[Outcome]) -> None:
    for o in outcomes:
        if not o.right:
            asked, name = o.case.messages[-2]["content"], f"{o.case.suite} {o.case.group}".strip()
            console.print(Text(f"{name}: {asked!r} -> {o.answer!r}, not {o.case.wanted}"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m chatpager.demo.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=model_path(), help="folder of the model")
    parser.add_argument("--way", action="append", choices=sorted(WAYS), help="may be repeated; default float32")
    parser.add_argument("--share", type=float, default=1.0, help="share of the cases to play")
    parser.add_argument("--suite", action="append", default=[], help="play only this suite; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--wrong", action="store_true", help="show the wrong answers")
    options = parser.parse_args(arguments)
    console, figures = Console(), {}
    cases = make_cases(options.seed, options.share, tuple(options.suite))
    for way in options.way or ["float32"]:
        begun = time.monotonic()
        torch.manual_seed(options.seed)
        outcomes = player(options.model, WAYS[way]).play(cases)
        figures[way] = tally(outcomes)
        show(console, figures[way])
        console.print(f"{way}: {len(outcomes)} conversations in {time.monotonic() - begun:.0f} s")
        if options.wrong:
            show_wrong(console, outcomes)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
