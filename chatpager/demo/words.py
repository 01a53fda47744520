"""Words, invented words and the values of facts, split so that no held-out value is ever trained on.

A value belongs to the held-out side when its CRC-32 says so: one value in eight, in any list and in any combination,
for as long as the project lives. Most values are invented or combined from thousands of parts, because a model that
has seen a value as an answer could know it by heart; one that has not must copy it from the conversation.
"""

from __future__ import annotations

import re
import tomllib
import zlib
from collections.abc import Callable
from enum import Enum
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any


class Split(Enum):
    TRAIN = "train"
    HELD_OUT = "held-out"


def is_held_out(value: str) -> bool:
    return zlib.crc32(value.lower().encode()) % 8 == 0


@cache
def load_data(name: str) -> Any:
    """A TOML file of ``chatpager/demo/data``."""
    return tomllib.loads((files("chatpager.demo") / "data" / f"{name}.toml").read_text("utf-8"))


@cache
def words(lang: str, name: str) -> tuple[str, ...]:
    """One list of words.toml without duplicates; "_" stands for a space."""
    text: str = load_data("words")[lang][name]
    return tuple(dict.fromkeys(part.replace("_", " ") for part in text.split()))


def _sound(rng: Random, part: str) -> str:
    return str(rng.choice(load_data("words")["sounds"][part].split()))


def invent(rng: Random) -> str:
    """A word that nobody has seen: one to three open syllables, sometimes closed at the end."""
    syllables = [_sound(rng, "onset") + _sound(rng, "nucleus") for _ in range(rng.choice((1, 2, 2, 2, 3)))]
    if rng.random() < 0.2:
        syllables[0] = rng.choice("aeiou") + rng.choice("lmnrst")
    if len(syllables) == 1 or rng.random() < 0.5:
        syllables.append(_sound(rng, "coda") if rng.random() < 0.7 else rng.choice("aeio"))
    return "".join(syllables)


def _digits(rng: Random) -> str:
    return str(rng.randint(1, 9)) + "".join(rng.choice("0123456789") for _ in range(rng.randint(2, 5)))


INVENTIONS: dict[str, Callable[[Random], str]] = {
    "invent": invent,
    "digits": _digits,
    "number": lambda r: str(r.randint(2, r.choice((12, 100, 1000)))),
    "letters": lambda r: "".join(r.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(r.randint(1, 3))),
    "hour": lambda r: str(r.randint(0, 23)),
    "minute": lambda r: f"{r.randint(0, 59):02}",
    "twelve": lambda r: str(r.randint(1, 12)),
    "day": lambda r: str(r.randint(1, 28)),
    "year": lambda r: str(r.randint(1400, 2030)),
    "age": lambda r: str(r.randint(5, 99)),
    "rare": lambda r: chr(r.randint(0x4E00, 0x9F00)),
    "zh_name": lambda r: value(r, "zh", "name"),
    "en_name": lambda r: r.choice(words("en", "name")),
}
SLOT = re.compile(r"\{(\w+)\}")


def expand(rng: Random, lang: str, template: str, pick: Callable[[str], str] | None = None) -> str:
    """``template`` with its slots filled; ``pick`` chooses a word of a list (default: any word)."""
    choose = pick or (lambda name: rng.choice(words(lang, name)))

    def fill(slot: re.Match[str]) -> str:
        name = slot[1].lower()
        word = INVENTIONS[name](rng) if name in INVENTIONS else choose(name)
        return word if slot[1] == name else word[0].upper() + word[1:]

    return SLOT.sub(fill, template)


def value(rng: Random, lang: str, kind: str) -> str:
    choices = load_data("values")[lang][kind]
    return expand(rng, lang, rng.choices(choices, [c[0] for c in choices])[0][1])


def draw(rng: Random, lang: str, kind: str, split: Split) -> str:
    """A value of ``kind`` on this side of the split.

    Of those to train on, half have other letters than the lists would give: else the model knows the lists and
    copies badly what is not on them, which every held-out value is.
    """
    while True:
        drawn = value(rng, lang, kind)
        if split is Split.TRAIN and kind not in ("date", "age") and rng.random() < 0.5:
            drawn = garbled(rng, lang, drawn)
        if is_held_out(drawn) == (split is Split.HELD_OUT):
            return drawn


def garbled(rng: Random, lang: str, text: str) -> str:
    """``text`` with the beginnings of its words before the ends of others, or with other Han characters."""
    if lang == "zh":
        return "".join(_han(rng) if "\u4e00" <= c <= "\u9fff" and rng.random() < 0.6 else c for c in text)
    return LETTERS.sub(lambda word: _spliced(rng, word[0]), text)


LETTERS = re.compile(r"[A-Za-z]{4,}")


def _spliced(rng: Random, word: str) -> str:
    known = words("en", rng.choice(("name", "city", "job", "noun", "animal", "food", "adjective")))
    other = rng.choice([w for w in known if not is_held_out(w)])
    tail = other[rng.randint(1, max(1, len(other) - 2)) :].lower().replace(" ", "")
    return word[: rng.randint(1, len(word) - 1)] + tail


def _han(rng: Random) -> str:
    return str(rng.choice(rng.choice(words("zh", rng.choice(("given", "surname", "noun", "job", "food"))))))


def topic(rng: Random, lang: str, name: str, split: Split) -> str:
    """A word of a list for a question that has no answer here; every sixth word is held out."""
    pool = words(lang, name)
    return rng.choice(pool[5::6] if split is Split.HELD_OUT else [w for i, w in enumerate(pool) if i % 6 != 5])
