"""Longer answers, so that streaming is visible: short stories and counting."""

from __future__ import annotations

from chatpager.demo.talk import Talk, led
from chatpager.demo.words import draw, load_data, topic


def story(talk: Talk) -> None:
    entries = [e for e in load_data("stories")["story"] if e["lang"] == talk.lang]
    entry = talk.rng.choices(entries, [e["weight"] for e in entries])[0]
    hero = _hero(talk, entry["hero"])
    asked = led(talk, talk.rng.choice(entry["ask"]).replace("{v}", hero), 0.1)
    talk.say(asked, entry["text"].replace("{v}", hero).strip())


def _hero(talk: Talk, kind: str) -> str:
    if kind.startswith("="):
        return kind.removeprefix("=")
    if kind == "name":
        return draw(talk.rng, talk.lang, "name", talk.split)
    return topic(talk.rng, talk.lang, kind, talk.split)


COUNT = {
    "en": ("Count to {b}.", "Count from 1 to {b}.", "Please count to {b}.", "Can you count to {b}?"),
    "zh": ("从1数到{b}。", "数到{b}。", "请数到{b}。"),
}
COUNT_FROM = {"en": ("Count from {a} to {b}.", "Please count from {a} to {b}."), "zh": ("从{a}数到{b}。",)}


def count(talk: Talk) -> None:
    """Counting up, mostly to 30 and at most to 200; a long count is rare, because its every number is learned from."""
    rng = talk.rng
    low = rng.choice((1, 1, 1, rng.randint(1, 150)))
    span = rng.choice((rng.randint(2, 29), rng.randint(2, 29), 9, 19, rng.randint(1, 12), rng.randint(30, 50)))
    high = min(low + (99 if rng.random() < 0.05 else span), 200)
    ask = rng.choice((COUNT if low == 1 else COUNT_FROM)[talk.lang]).format(a=low, b=high)
    comma = "、" if talk.lang == "zh" else ", "
    talk.say(ask, comma.join(map(str, range(low, high + 1))) + ("。" if talk.lang == "zh" else "."))
