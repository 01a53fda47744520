"""``chatpager bench grammars``: what a grammar adds to the steps in which sequences decode."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from chatpager.bench import machine, report
from chatpager.demo import model_path
from chatpager.engine.grammar import Grammar, schema_grammar
from chatpager.engine.llm import LLM
from chatpager.engine.messages import AddRequest
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import ConfigError

MOST_ROWS = 256
TOKENS = 64
ROUNDS = 5
GRAMMARS: dict[str, Grammar | None] = {
    "none": None,
    "regex": Grammar("regex", "[a-z ]{400}"),
    "json_schema": schema_grammar(
        {
            "type": "object",
            "properties": {"names": {"type": "array", "minItems": 99, "items": {"type": "string", "maxLength": 12}}},
            "required": ["names"],
            "additionalProperties": False,
        }
    ),
}


def step_ms(llm: LLM, grammar: Grammar | None, rows: int) -> float:
    """The median step, in milliseconds, of ``rows`` sequences that all decode."""
    params = SamplingParams(temperature=0.8, max_tokens=TOKENS, ignore_eos=True, seed=1, grammar=grammar)
    for i in range(rows):
        llm.engine.add(AddRequest(request_id=str(i), prompt_token_ids=[4 + i] * 8, params=params), time.monotonic())
    took = []
    while llm.engine.has_work:
        began = time.perf_counter()
        llm.engine.step(time.monotonic)
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took[2:])


def run(*, rows: Sequence[int], out: str | None) -> dict[str, Any]:
    """Measure the built-in model, print and return the figures. Raises ConfigError: a number cannot be measured."""
    for value in rows or (0,):
        if not 1 <= value <= MOST_ROWS:
            raise ConfigError("rows", f"must be between 1 and {MOST_ROWS}", value=value)
    llm = LLM(model_path(), num_kv_blocks=32 * max(16, *rows), max_model_len=512, swap_space=0, disk_space=0)
    first = {}
    for name, grammar in GRAMMARS.items():  # compiled, and the kernels too
        began = time.perf_counter()
        llm.generate([[4, 5, 6]], SamplingParams(max_tokens=2, grammar=grammar), use_tqdm=False)
        first[name] = round(1000 * (time.perf_counter() - began), 1)
    found = {}
    for count in rows:
        took: dict[str, list[float]] = {name: [] for name in GRAMMARS}
        for _ in track(range(ROUNDS), f"{count} rows"):
            for name, grammar in GRAMMARS.items():
                took[name].append(step_ms(llm, grammar, count))
        found[str(count)] = {name: round(min(times), 3) for name, times in took.items()}
    result = {
        "what": "a step of sequences that decode, the best of the rounds' medians; and the first answer of two tokens",
        "step_ms": found,
        "first_ms": first,
        "vocabulary": llm.runner.vocab_size,
        "machine": machine.describe(),
    }
    table = Table("rows", *GRAMMARS, title=f"ms a step, vocabulary {result['vocabulary']:,}")
    for name, times in found.items():
        table.add_row(name, *(f"{ms:.2f}" for ms in times.values()))
    table.add_row("first answer", *(f"{ms:,.0f}" for ms in first.values()))
    Console().print(table)
    report.save(result, out)
    return result
