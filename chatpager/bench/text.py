"""Text that nobody sent before."""

from __future__ import annotations

import random


def fresh_text(rng: random.Random, characters: int) -> str:
    """Made-up words of about so many characters together."""
    words = []
    while characters > 0:
        words.append("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8))))
        characters -= len(words[-1]) + 1
    return " ".join(words)
