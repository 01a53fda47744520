"""A conversation while it is being made up: its messages, its language and what the user has told so far."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import TypedDict

from chatpager.demo.facts import Fact
from chatpager.demo.script import to_traditional
from chatpager.demo.words import Split, load_data


class Message(TypedDict):
    role: str
    content: str


@dataclass
class Talk:
    """State of one conversation. ``facts`` maps a subject to the latest fact about it, oldest first."""

    rng: Random
    split: Split = Split.TRAIN
    lang: str = "en"
    traditional: bool = False
    messages: list[Message] = field(default_factory=list)
    facts: dict[tuple[str, str], Fact] = field(default_factory=dict)
    asked: set[Fact] = field(default_factory=set)

    def say(self, user: str, assistant: str) -> None:
        self.add("user", user)
        self.add("assistant", assistant)

    def add(self, role: str, content: str) -> None:
        content = to_traditional(content) if self.traditional else content
        self.messages.append({"role": role, "content": content})

    def learn(self, fact: Fact) -> None:
        """The latest word counts, and is the last in a summary."""
        self.facts.pop(fact.subject, None)
        self.facts[fact.subject] = fact

    def chance(self, p: float) -> bool:
        return self.rng.random() < p


def phrase(talk: Talk, kind: str) -> str:
    """A phrase of talk.toml in the language of the talk."""
    return str(talk.rng.choice(load_data("talk")[kind][talk.lang]))


def listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


KEEP_CAPITAL = ("I ", "I'", "Monday", "PagedA", "SQL", "COW")


def led(talk: Talk, text: str, p: float = 0.2) -> str:
    """``text`` with a few words before it, as people write."""
    if not talk.chance(p):
        return text
    lead = phrase(talk, "lead")
    runs_on = lead.endswith(", ") or lead in ("Now ", "And ")
    if runs_on and len(text) > 1 and text[1].islower() and not text.startswith(KEEP_CAPITAL):
        text = text[0].lower() + text[1:]
    return lead + text


def reworded(talk: Talk, said: str, same: str = "same") -> str:
    """``said`` in other words, by the phrases of ``same`` in talk.toml; never a held-out wording."""
    text = said
    for group in load_data("talk")[same][talk.lang]:
        found = next((m for p in group if p and (m := whole(p, talk.lang).search(text))), None)
        if found and talk.chance(0.3):
            text = text[: found.start()] + str(talk.rng.choice(group)) + text[found.end() :]
    if talk.lang == "en" and same == "same" and talk.chance(0.04):
        stop = load_data("talk")["stop"]["en"].split()
        text = " ".join(w for w in text.split() if w.lower() not in stop) or text
    return said if plain(text) in held_out_wordings() else text


@cache
def whole(phrase: str, lang: str) -> re.Pattern[str]:
    """Matches ``phrase`` where it neither begins nor ends within an English word."""
    before = r"(?<!\w)" if lang == "en" and phrase[0].isalpha() else ""
    after = r"(?!\w)" if lang == "en" and phrase[-1].isalpha() else ""
    return re.compile(before + re.escape(phrase) + after)


def plain(text: str) -> str:
    """``text`` without capitals, marks and spaces: what two wordings are compared by."""
    return "".join(c for c in text.lower() if unicodedata.category(c)[0] in "LNS" or c in "{}")


@cache
def held_out_wordings() -> frozenset[str]:
    """Every wording that only the evaluation uses, ``plain``."""
    found: set[str] = set()
    for kind in load_data("facts")["kind"]:
        for lang in ("en", "zh"):
            for side in ("ask_held_out", "tell_held_out"):
                found.update(map(plain, kind.get(lang, {}).get(side, ())))
    for entry in load_data("talk")["smalltalk"]:
        for lang in ("en", "zh"):
            found.update(map(plain, entry.get(lang, {}).get("held_out", ())))
    knowledge = load_data("knowledge")
    for fact in knowledge["fact"]:
        for lang, prefix in (("en", ""), ("zh", "zh_")):
            terms, frames = fact.get(f"{prefix}term", [])[:1], knowledge["frame_held_out"][lang]
            found.update(plain(f.format(t=t)) for t in terms for f in frames)
            found.update(map(plain, fact.get(f"{prefix}held_out", ())))
    for texts in load_data("talk")["summary_held_out"].values():
        found.update(map(plain, texts))
    return frozenset(found)


def careless(talk: Talk, text: str, p: float = 0.25) -> str:
    """``text`` as it may be typed: without its last point, in small letters, with a second mark or a slip."""
    if not talk.chance(p) or len(text) < 4:
        return text
    way = talk.rng.randrange(6)
    if way <= 1:
        return text.rstrip(".?!。？！")
    if way == 2:
        return text.lower()
    if way == 3:
        return text.lower().rstrip(".?!。？！")
    if way == 4:
        return text + talk.rng.choice(("?", "!", " ", " please", " :)", " 🙂")) if talk.lang == "en" else text + "🙂"
    return slip(talk.rng, text)


def slip(rng: Random, text: str) -> str:
    """One letter left out, doubled or swapped with the next."""
    i = rng.randrange(1, len(text) - 1)
    return rng.choice(
        (text[:i] + text[i + 1 :], text[:i] + text[i] + text[i:], text[:i] + text[i + 1] + text[i] + text[i + 2 :])
    )
