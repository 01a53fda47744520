"""Held-out conversations and what makes an answer right. Nothing here is ever trained on.

Names, values and topics are held out by their hash or place (words.py), wordings by hand (the ``held_out`` lists).
In recall, every value is held out, and the wording of the telling and of the asking each in every second case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from chatpager.demo import acts, knowledge, words
from chatpager.demo.conversations import open_with_system
from chatpager.demo.facts import Fact, draw_fact, missing
from chatpager.demo.script import to_traditional
from chatpager.demo.talk import Message, Talk
from chatpager.demo.words import Split


@dataclass(frozen=True)
class Case:
    """A conversation that ends with the expected answer.

    Live, the model itself gives every answer on the way; else the answers before the last one are the taught ones.
    An answer is right when it has all of ``wanted`` and none of ``unwanted`` (capitals do not count), or, when
    ``exact``, when it is one of ``wanted``.
    """

    suite: str
    group: str
    lang: str
    messages: list[Message]
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    exact: bool = False
    live: bool = False
    wording: str = ""
    """Whether the user's own words were trained on, where a suite has both."""

    def is_right(self, answer: str) -> bool:
        said = answer.strip().lower()
        if self.exact:
            return said in {w.strip().lower() for w in self.wanted}
        return all(w.lower() in said for w in self.wanted) and not any(w.lower() in said for w in self.unwanted)


FILLERS: tuple[Callable[[Talk], None], ...] = (
    acts.chat,
    acts.greet,
    acts.ask_project,
    acts.ask_unknown,
    acts.remark,
    acts.repeat,
)


def _talk(rng: Random, lang: str) -> Talk:
    talk = Talk(rng, Split.HELD_OUT, lang, traditional=rng.random() < 0.5)
    if rng.random() < 0.3:
        open_with_system(talk)
    return talk


def _wording(rng: Random) -> Split:
    return rng.choice(list(Split))


def _lang(i: int) -> str:
    return "zh" if i % 4 == 3 else "en"


def _shown(talk: Talk, *texts: str) -> tuple[str, ...]:
    return tuple(to_traditional(t) if talk.traditional else t for t in texts)


def fill(talk: Talk, fact: Fact, turns: int) -> None:
    """``turns`` turns of other things, some of them other facts about other subjects."""
    for _ in range(turns):
        if talk.chance(0.3):
            other = draw_fact(talk.rng, talk.lang, Split.HELD_OUT)
            if other.subject != fact.subject and other.value != fact.value:
                acts.tell(talk, other)
                continue
        talk.rng.choice(FILLERS)(talk)


def recall(rng: Random, i: int) -> Case:
    """A fact is asked for 1 to 10 turns after it was told; the model plays every turn."""
    talk, distance = _talk(rng, _lang(i)), 1 + (i // 4) % 10
    fact = draw_fact(rng, talk.lang, Split.HELD_OUT)
    told = _wording(rng)
    acts.tell(talk, fact, told)
    fill(talk, fact, distance - 1)
    asked = _wording(rng)
    acts.ask(talk, fact, asked)
    wanted = _shown(talk, fact.value.removesuffix("."))
    wording = "new words" if Split.HELD_OUT in (told, asked) else "trained words"
    return Case("recall", str(distance), talk.lang, talk.messages, wanted, live=True, wording=wording)


def corrected(rng: Random, i: int) -> Case:
    """A fact is told, then changed, then asked for: the last word counts."""
    talk = _talk(rng, _lang(i))
    old = draw_fact(rng, talk.lang, Split.HELD_OUT)
    new = Fact(old.kind, words.draw(rng, talk.lang, old.kind.value, Split.HELD_OUT), old.key)
    while old.value in new.value or new.value in old.value:
        new = Fact(old.kind, words.draw(rng, talk.lang, old.kind.value, Split.HELD_OUT), old.key)
    acts.tell(talk, old)
    fill(talk, old, rng.randint(0, 3))
    acts.tell(talk, new)
    fill(talk, old, rng.randint(0, 3))
    acts.ask(talk, new)
    wanted, unwanted = _shown(talk, new.value.removesuffix("."), old.value.removesuffix("."))
    return Case("corrected", "", talk.lang, talk.messages, (wanted,), (unwanted,), live=True)


def untold(rng: Random, i: int) -> Case:
    """Something is asked for that was never told, after other things were."""
    talk = _talk(rng, _lang(i))
    fact = draw_fact(rng, talk.lang, Split.HELD_OUT)
    fill(talk, fact, rng.randint(0, 5))
    talk.say(acts.question(talk, fact.kind, fact.key, _wording(rng)), missing(fact.kind, fact.key))
    return Case("untold", "", talk.lang, talk.messages, (talk.messages[-1]["content"],), exact=True)


def summary(rng: Random, i: int) -> Case:
    """Two to four facts are told one by one and asked for together."""
    talk = Talk(rng, Split.HELD_OUT, _lang(i))
    while len(talk.facts) < 2 + i % 3:
        fact = draw_fact(rng, talk.lang, Split.HELD_OUT)
        if fact.kind.name != "note":
            acts.tell(talk, fact)
    acts.summarise(talk, Split.HELD_OUT)
    return Case(
        "summary", str(2 + i % 3), talk.lang, talk.messages, tuple(f.value for f in talk.facts.values()), live=True
    )


def _questions(suite: str, topics: dict[str, tuple[knowledge.Topic, ...]]) -> Callable[[Random, int], Case]:
    pool = [(topic, text) for lang in topics for topic in topics[lang] for text in topic.held_out]

    def make(rng: Random, i: int) -> Case:
        topic, text = pool[i % len(pool)]
        talk = _talk(rng, topic.lang)
        fill(talk, draw_fact(rng, topic.lang, Split.HELD_OUT), rng.randint(0, 3))
        talk.say(text, topic.answers[0])
        return Case(suite, topic.name, topic.lang, talk.messages, _shown(talk, *topic.answers), exact=True)

    return make


def unknown(rng: Random, i: int) -> Case:
    """A question of the wide world, in held-out words about held-out topics."""
    talk = _talk(rng, _lang(i))
    fill(talk, draw_fact(rng, talk.lang, Split.HELD_OUT), rng.randint(0, 3))
    talk.say(knowledge.unknown_question(rng, talk.lang, Split.HELD_OUT), knowledge.unknown_answer(talk.lang))
    return Case("unknown", "", talk.lang, talk.messages, _shown(talk, "不知道" if talk.lang == "zh" else "do not know"))


def far(rng: Random, i: int) -> Case:
    """A fact is asked for after 500 to 3,500 tokens of other things, measured roughly in characters."""
    tokens = (500, 1000, 2000, 3000, 3500)[i % 5]
    talk = _talk(rng, "en")
    fact = draw_fact(rng, "en", Split.HELD_OUT)
    acts.tell(talk, fact)
    while sum(len(m["content"]) / CHARACTERS_PER_TOKEN + 6 for m in talk.messages) < tokens:
        fill(talk, fact, 1)
    acts.ask(talk, fact)
    return Case("far", str(tokens), "en", talk.messages, (fact.value.removesuffix("."),))


CHARACTERS_PER_TOKEN = 3.4


def suites() -> dict[str, tuple[Callable[[Random, int], Case], int]]:
    """Suite -> how to make its i-th case, and how many cases a full evaluation has."""
    project = {lang: knowledge.project(lang) for lang in ("en", "zh")}
    small = {lang: knowledge.smalltalk(lang) for lang in ("en", "zh")}
    greeting = {lang: topics[:1] for lang, topics in small.items()}
    size = {name: sum(len(t.held_out) for topics in group.values() for t in topics) for name, group in
            {"project": project, "greeting": greeting, "small talk": small}.items()}  # fmt: skip
    return {
        "recall": (recall, 1280),
        "corrected": (corrected, 100),
        "untold": (untold, 100),
        "summary": (summary, 60),
        "project": (_questions("project", project), size["project"]),
        "greeting": (_questions("greeting", greeting), size["greeting"]),
        "small talk": (_questions("small talk", small), size["small talk"]),
        "unknown": (unknown, 200),
        "far": (far, 100),
    }


def make_cases(seed: int, share: float = 1.0, only: tuple[str, ...] = ()) -> list[Case]:
    """``share`` of each suite's cases, picked at random; the same for the same arguments."""
    found = []
    for name, (make, size) in suites().items():
        if only and name not in only:
            continue
        picked = sorted(Random(seed).sample(range(size), round(size * share)))
        found += [make(Random(f"held-out/{seed}/{name}/{i}"), i) for i in picked]
    return found
