"""Text that nobody sent before."""

from __future__ import annotations

import random
from pathlib import Path

PLAIN_WORDS = tuple(
    """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work number night point home water room mother area money story
    fact month lot right study book eye job word business issue side kind head house service friend father power hour
    game line end member law car city name team minute idea body back parent face level office door health person art
    war history party result change morning reason research girl guy moment air teacher force education
    """.split()  # noqa: SIM905
)
"""One token each in every large vocabulary."""
SPACES = ("Ġ", "▁")
"""How vocabularies write the space before a word."""
FEWEST_WORDS = 50


def fresh_text(rng: random.Random, characters: int) -> str:
    """Made-up words of about so many characters together."""
    words = []
    while characters > 0:
        words.append("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8))))
        characters -= len(words[-1]) + 1
    return " ".join(words)


def words_of(folder: Path | None) -> tuple[str, ...]:
    """Words that are one token each behind a space: of the folder's tokenizer, or plain ones."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        return PLAIN_WORDS
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pieces = (piece[1:] for piece in tokenizer.get_vocab() if piece.startswith(SPACES))
    candidates = sorted(piece for piece in pieces if len(piece) > 1 and piece.isascii() and piece.isalpha())
    found = tuple(word for word in candidates if len(tokenizer.encode(f" {word}", add_special_tokens=False).ids) == 1)
    return found if len(found) >= FEWEST_WORDS else PLAIN_WORDS
