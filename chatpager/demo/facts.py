"""Facts about the user: how each is told, asked for, confirmed and answered, in English and Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from chatpager.demo.words import Split, draw, load_data, words


@dataclass(frozen=True)
class Kind:
    """One kind of fact in one language. ``key`` names the list its ``{k}`` comes from, or is empty."""

    name: str
    lang: str
    value: str
    clause: str
    missing: str
    tell: tuple[str, ...]
    tell_held_out: tuple[str, ...]
    ask: tuple[str, ...]
    ask_held_out: tuple[str, ...]
    key: str = ""

    def tells(self, split: Split) -> tuple[str, ...]:
        return self.tell_held_out if split is Split.HELD_OUT else self.tell

    def asks(self, split: Split) -> tuple[str, ...]:
        return self.ask_held_out if split is Split.HELD_OUT else self.ask


@dataclass(frozen=True)
class Fact:
    kind: Kind
    value: str
    key: str = ""

    @property
    def subject(self) -> tuple[str, str]:
        """What the fact is about: a later fact with the same subject replaces it."""
        return self.kind.name, self.key

    def fill(self, template: str) -> str:
        article = "an" if self.value[:1].lower() in "aeiou" else "a"
        filled = template.replace("{a}", article).replace("{k}", self.key).replace("{v}", self.value)
        return filled.removesuffix(".") if self.value.endswith(".") and filled.endswith("..") else filled

    @property
    def clause(self) -> str:
        return self.fill(self.kind.clause)

    @property
    def sentence(self) -> str:
        """The answer to the question for this fact."""
        if self.kind.lang == "zh":
            return self.clause + "。"
        text = self.clause[:1].upper() + self.clause[1:]
        return text if text.endswith(".") else text + "."

    @property
    def missing(self) -> str:
        """The answer when it was never told."""
        return missing(self.kind, self.key)


def missing(kind: Kind, key: str) -> str:
    what = kind.missing.replace("{k}", key)
    return f"你还没有告诉我{what}。" if kind.lang == "zh" else f"You have not told me {what}."


@cache
def kinds(lang: str) -> tuple[Kind, ...]:
    found = []
    for entry in load_data("facts")["kind"]:
        if lang in entry:
            texts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry[lang].items()}
            found.append(Kind(name=entry["name"], lang=lang, **texts))
    return tuple(found)


WEIGHTS = {
    "name": 5.0,
    "secret": 3.0,
    "beast": 2.0,
    "relative": 2.0,
    "favourite": 2.0,
    "colour": 2.0,
    "food": 2.0,
    "city": 2.0,
    "note": 0.6,
}


def draw_kind(rng: Random, lang: str) -> Kind:
    pool = kinds(lang)
    return rng.choices(pool, [WEIGHTS.get(k.name, 1.0) for k in pool])[0]


def draw_fact(rng: Random, lang: str, split: Split, kind: Kind | None = None) -> Fact:
    """A fact of ``kind`` or of a random one, with a value on this side of the split."""
    kind = kind or draw_kind(rng, lang)
    key = rng.choice(words(lang, kind.key)) if kind.key else ""
    return Fact(kind, draw(rng, lang, kind.value, split), key)
