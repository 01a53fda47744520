"""Covering arrays: few combinations in which every two values of two parameters meet (pairwise testing; Cohen, Dalal,
Fredman and Patton 1997, the greedy way)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from random import Random
from typing import Any

TRIES = 24
"""Combinations made up at each step, of which the one with most new pairs is taken."""


def all_pairs(parameters: Mapping[str, Sequence[Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Combinations of one value a parameter; any value of one parameter meets any of another in at least one of them.
    The same for the same arguments; the order of values does not matter to what is covered."""
    rng = Random(seed)
    missing = {
        frozenset({(a, x), (b, y)})
        for a, b in combinations(parameters, 2)
        for x in parameters[a]
        for y in parameters[b]
    }
    found = []
    while missing:
        ordered = sorted(missing, key=lambda pair: sorted(map(repr, pair)))
        tries = [complete(dict(rng.choice(ordered)), parameters, missing, rng) for _ in range(TRIES)]
        best = max(tries, key=lambda row: len(met(row) & missing))
        missing -= met(best)
        found.append(best)
    return found


def complete(
    row: dict[str, Any], parameters: Mapping[str, Sequence[Any]], missing: set[frozenset[Any]], rng: Random
) -> dict[str, Any]:
    """``row`` with the other parameters, in random order, each given the value that meets most missing pairs."""
    for name in rng.sample(sorted(parameters.keys() - row.keys()), len(parameters) - len(row)):
        values = rng.sample(list(parameters[name]), len(parameters[name]))
        row[name] = max(values, key=lambda v: sum(frozenset({(name, v), one}) in missing for one in row.items()))
    return row


def met(row: Mapping[str, Any]) -> set[frozenset[Any]]:
    return {frozenset(two) for two in combinations(row.items(), 2)}
