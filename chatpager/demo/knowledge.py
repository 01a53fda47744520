"""What the model knows about chatpager, its small talk, and the questions it cannot answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from random import Random

from chatpager.demo import words
from chatpager.demo.words import Split, load_data, topic


@dataclass(frozen=True)
class Topic:
    """A group of questions with one answer (or a few that say the same) in one language."""

    name: str
    lang: str
    ask: tuple[str, ...]
    held_out: tuple[str, ...]
    answers: tuple[str, ...]

    def asks(self, split: Split) -> tuple[str, ...]:
        return self.held_out if split is Split.HELD_OUT else self.ask


@cache
def project(lang: str) -> tuple[Topic, ...]:
    """The project questions; a fact's terms are put into every frame."""
    found = []
    prefix = "zh_" if lang == "zh" else ""
    for fact in load_data("knowledge")["fact"]:
        if f"{prefix}answer" not in fact:
            continue
        terms = fact.get(f"{prefix}term", [])
        ask = [*fact[f"{prefix}ask"], *(_frame(f, t) for t in terms for f in load_data("knowledge")["frame"][lang])]
        held_out = [
            *fact[f"{prefix}held_out"],
            *(_frame(f, t) for t in terms[:1] for f in load_data("knowledge")["frame_held_out"][lang]),
        ]
        answer = fact[f"{prefix}answer"].strip()
        found.append(Topic(fact["name"], lang, tuple(dict.fromkeys(ask)), tuple(held_out), (answer,)))
    return tuple(found)


def _frame(frame: str, term: str) -> str:
    text = frame.format(t=term)
    return text[:1].upper() + text[1:] if frame.startswith("{t}") and term.islower() else text


@cache
def smalltalk(lang: str) -> tuple[Topic, ...]:
    return tuple(
        Topic(entry["name"], lang, *(tuple(entry[lang][part]) for part in ("ask", "held_out", "answer")))
        for entry in load_data("talk")["smalltalk"]
        if lang in entry
    )


def unknown_question(rng: Random, lang: str, split: Split) -> str:
    """A question of the wide world; held out are both its wording and its topics."""
    return fill_slots(
        rng, lang, rng.choice(load_data("unknown")[lang]["held_out" if split is Split.HELD_OUT else "ask"]), split
    )


A_BEFORE_VOWEL = re.compile(r"\ba (?=[aeiou])")


def fill_slots(rng: Random, lang: str, template: str, split: Split) -> str:
    """``template`` with topics, people and words from this side of the split."""

    def pick(slot: str) -> str:
        if slot in ("n", "m"):
            return words.INVENTIONS["number"](rng)
        if slot == "person":
            return words.draw(rng, lang, "name", split)
        if slot == "word":
            return words.invent(rng) if rng.random() < 0.6 else topic(rng, lang, "noun", split)
        return topic(rng, lang, slot.rstrip("2"), split)

    return A_BEFORE_VOWEL.sub("an ", words.expand(rng, lang, template, pick))


def unknown_answer(lang: str) -> str:
    answer: str = load_data("unknown")[lang]["answer"][0]
    return answer
