"""Whole conversations from a seed: who speaks, in which language, about what, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from chatpager.demo import acts, knowledge, words
from chatpager.demo.talk import Message, Talk, phrase
from chatpager.demo.words import Split

MAX_TURNS = 14


def conversation(rng: Random, *, turns: int, split: Split = Split.TRAIN) -> list[Message]:
    """``turns`` turns in one language, or in both; a third begin with a system message."""
    language = rng.choices(("en", "zh", "both"), (66, 26, 8))[0]
    talk = Talk(rng, split, "zh" if language == "zh" else "en", traditional=rng.random() < 0.5)
    if talk.chance(0.35):
        open_with_system(talk)
    weights = [w for w, _ in acts.ACTS]
    for _ in range(turns):
        if language == "both":
            talk.lang = rng.choice(("en", "zh"))
        rng.choices(acts.ACTS, weights)[0][1](talk)
    if talk.messages[-1]["role"] == "system":
        acts.chat(talk)
    return talk.messages


def open_with_system(talk: Talk) -> None:
    """A system message: an instruction, sometimes a fact, sometimes a long text that has to be read past."""
    parts = [knowledge.fill_slots(talk.rng, talk.lang, phrase(talk, "system"), talk.split)]
    if talk.chance(0.2):
        parts.append(acts.tell_by_system(talk))
    if talk.chance(0.15):
        parts.append(handbook(talk, talk.rng.randint(2, 20)))
    talk.add("system", (" " if talk.lang == "en" else "").join(parts))


def handbook(talk: Talk, sentences: int) -> str:
    """Text of no importance: true sentences about chatpager between sentences about nothing."""
    rng, lang = talk.rng, talk.lang
    lines = []
    for _ in range(sentences):
        if rng.random() < 0.4:
            lines.append(rng.choice(rng.choice(knowledge.project(lang)).answers))
        elif lang == "en":
            lines.append(words.draw(rng, "en", "sentence", talk.split))
        else:
            lines.append(knowledge.fill_slots(rng, "zh", phrase(talk, "remark"), talk.split))
    return (" " if lang == "en" else "").join(lines)


def stream(seed: str, *, longest: int = MAX_TURNS, long_share: float = 0.0) -> Iterator[list[Message]]:
    """Training conversations without end, the same for the same arguments. ``long_share`` of them have
    20 to 100 turns."""
    rng = Random(seed)
    while True:
        turns = rng.randint(20, 100) if rng.random() < long_share else rng.randint(1, longest)
        yield conversation(rng, turns=turns)
