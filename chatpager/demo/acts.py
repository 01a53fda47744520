"""What can happen in a turn of a made-up conversation. An act adds one user message and its answer, or more."""

from __future__ import annotations

from collections.abc import Callable

from chatpager.demo import knowledge, words
from chatpager.demo.facts import Fact, Kind, draw_fact, draw_kind, kinds, missing
from chatpager.demo.stories import count, story
from chatpager.demo.talk import Talk, careless, held_out_wordings, led, listed, phrase, plain, reworded
from chatpager.demo.words import Split

Act = Callable[[Talk], None]


def tell(talk: Talk, fact: Fact | None = None, wording: Split = Split.TRAIN) -> None:
    """The user tells one fact."""
    fact = fact or draw_fact(talk.rng, talk.lang, talk.split)
    text = telling(talk, fact, wording)
    if talk.chance(0.06) and talk.split is Split.TRAIN and fact.value.isascii():
        fact = Fact(fact.kind, fact.value.lower(), fact.key)
        text = text.lower()
    if fact.subject in talk.facts and talk.chance(0.7):
        text = _lead_in(talk, text, "correction")
    elif talk.chance(0.15):
        text = _lead_in(talk, text, "aside")
    elif talk.split is Split.TRAIN and talk.chance(0.12):
        text = _lead_in(talk, text, "hedge")
    talk.learn(fact)
    talk.say(text.removesuffix(".") if talk.chance(0.1) else text, acknowledge(talk, [fact]))


def telling(talk: Talk, fact: Fact, wording: Split = Split.TRAIN) -> str:
    template = talk.rng.choice(fact.kind.tells(wording))
    train = talk.split is Split.TRAIN and wording is Split.TRAIN
    return fact.fill(reworded(talk, template, "same_told") if train else template)


def _lead_in(talk: Talk, text: str, kind: str) -> str:
    lead = phrase(talk, kind)
    runs_on = talk.lang == "en" and not lead.endswith(("! ", ": ", "? "))
    small = ("My ", "The ", "Our ", "Please ", "Remember ", "Nothing ", "Home ", "People ", "Call ", "You ")
    return lead + (text[0].lower() + text[1:] if runs_on and text.startswith(small) else text)


def acknowledge(talk: Talk, facts: list[Fact]) -> str:
    name = next((f for f in facts if f.kind.name == "name"), None)
    others = [f.clause.removesuffix(".") for f in facts if f is not name and f.kind.name != "note"]
    if talk.lang == "zh":
        parts = [f"很高兴认识你，{name.value}！"] if name else []
        return "".join([*parts, f"我记住了：{'，'.join(others)}。"] if others else parts)
    parts = [f"Nice to meet you, {name.value}."] if name else []
    return " ".join([*parts, f"I will remember that {listed(others)}."] if others else parts) or "I will remember it."


def tell_several(talk: Talk) -> None:
    """Two to four facts in one message."""
    drawn = [draw_fact(talk.rng, talk.lang, talk.split) for _ in range(talk.rng.randint(2, 4))]
    facts = list({f.subject: f for f in drawn if f.kind.name != "note"}.values())
    if not facts:
        tell(talk)
        return
    for fact in facts:
        talk.learn(fact)
    talk.say(_joined(talk, [telling(talk, f) for f in facts]), acknowledge(talk, facts))


def _joined(talk: Talk, told: list[str]) -> str:
    if talk.lang == "zh":
        return "，".join(t.rstrip("。！") for t in told) + "。"
    if talk.chance(0.5) and all(t.startswith(("I ", "My ", "I'm ", "The ")) for t in told):
        small = [told[0], *(t if t.startswith("I") else t[0].lower() + t[1:] for t in told[1:])]
        return listed([t.rstrip(".!") for t in small]) + "."
    return " ".join(told)


def ask(talk: Talk, fact: Fact | None = None, wording: Split = Split.TRAIN) -> None:
    """The user asks for a fact told before: old or new alike, but rather one not asked for yet."""
    told = list(talk.facts.values())
    if fact is None and not told:
        tell(talk)
        return
    fact = fact or talk.rng.choices(told, [1 if f in talk.asked else 4 for f in told])[0]
    talk.asked.add(fact)
    talk.say(question(talk, fact.kind, fact.key, wording), fact.sentence)


def question(talk: Talk, kind: Kind, key: str, wording: Split = Split.TRAIN) -> str:
    text = talk.rng.choice(kind.asks(wording))
    text = reworded(talk, text) if wording is Split.TRAIN else text
    return careless(talk, led(talk, text.replace("{k}", key)))


def ask_two(talk: Talk) -> None:
    """Two questions in one message."""
    if len(talk.facts) < 2:
        ask(talk)
        return
    first, second = talk.rng.sample(list(talk.facts.values()), 2)
    joint, gap = ("", "") if talk.lang == "zh" else (talk.rng.choice((" ", " And ")), " ")
    asked = [talk.rng.choice(f.kind.ask).replace("{k}", f.key) for f in (first, second)]
    if joint == " And ":
        asked[1] = asked[1][0].lower() + asked[1][1:]
    talk.say(joint.join(asked), gap.join((first.sentence, second.sentence)))


def ask_untold(talk: Talk) -> None:
    """The user asks for a fact that was never told."""
    for _ in range(20):
        kind = draw_kind(talk.rng, talk.lang)
        key = talk.rng.choice(words.words(talk.lang, kind.key)) if kind.key else ""
        if (kind.name, key) not in talk.facts:
            talk.say(question(talk, kind, key), missing(kind, key))
            return


def tell_and_ask(talk: Talk) -> None:
    """A fact and the question for it in one message."""
    fact = draw_fact(talk.rng, talk.lang, talk.split)
    talk.learn(fact)
    told, asked = telling(talk, fact), question(talk, fact.kind, fact.key)
    talk.say(told + ("" if talk.lang == "zh" else " ") + asked, fact.sentence)


def tell_and_ask_project(talk: Talk) -> None:
    """A fact and a question about chatpager in one message."""
    fact = draw_fact(talk.rng, talk.lang, talk.split)
    topic = talk.rng.choice(knowledge.project(talk.lang))
    talk.learn(fact)
    gap = "" if talk.lang == "zh" else " "
    told, asked = telling(talk, fact), talk.rng.choice(topic.ask)
    talk.say(told + gap + asked, acknowledge(talk, [fact]) + gap + topic.answers[0])


def summarise(talk: Talk, wording: Split = Split.TRAIN) -> None:
    """The user asks for everything told so far, at most eight facts."""
    clauses = [f.clause for f in talk.facts.values() if f.kind.name != "note"]
    if len(clauses) > 8:
        ask(talk)
        return
    text = phrase(talk, "summary_held_out" if wording is Split.HELD_OUT else "summary")
    talk.say(careless(talk, led(talk, text)), summary(talk.lang, clauses))


def summary(lang: str, clauses: list[str]) -> str:
    if lang == "zh":
        return f"你告诉过我：{'，'.join(clauses)}。" if clauses else "你还没有告诉我关于你的事。"
    return f"You told me that {listed(clauses)}." if clauses else "You have not told me anything about yourself yet."


def _topic(talk: Talk, topics: tuple[knowledge.Topic, ...], p_lead: float = 0.2) -> None:
    topic = talk.rng.choice(topics)
    wording = reworded(talk, talk.rng.choice(topic.ask))
    text = careless(talk, led(talk, wording, p_lead))
    talk.say(wording if plain(text) in held_out_wordings() else text, talk.rng.choice(topic.answers))


def ask_project(talk: Talk) -> None:
    _topic(talk, knowledge.project(talk.lang))


def chat(talk: Talk) -> None:
    _topic(talk, knowledge.smalltalk(talk.lang), 0.1)


def greet(talk: Talk) -> None:
    _topic(talk, knowledge.smalltalk(talk.lang)[:1], 0.0)


def ask_unknown(talk: Talk) -> None:
    text = knowledge.unknown_question(talk.rng, talk.lang, talk.split)
    talk.say(careless(talk, led(talk, text)), knowledge.unknown_answer(talk.lang))


def remark(talk: Talk) -> None:
    """The user says something that is neither a question nor a fact to remember."""
    text = knowledge.fill_slots(talk.rng, talk.lang, phrase(talk, "remark"), talk.split)
    talk.say(careless(talk, text), phrase(talk, "remark_answer"))


def repeat(talk: Talk) -> None:
    english, chinese = ("sentence", "token", "phrase", "name"), ("phrase", "token", "name")
    kind = talk.rng.choice(chinese if talk.lang == "zh" else english)
    value = words.draw(talk.rng, talk.lang, kind, talk.split)
    talk.say(phrase(talk, "repeat").replace("{v}", value), value)


def correct(talk: Talk) -> None:
    """The user changes a fact told before."""
    told = [f for f in talk.facts.values() if f.kind.name != "note" and f.kind.lang == talk.lang]
    if not told:
        tell(talk)
        return
    old = talk.rng.choice(told)
    tell(talk, Fact(old.kind, words.draw(talk.rng, talk.lang, old.kind.value, talk.split), old.key))


def note(talk: Talk) -> None:
    """A system message in mid-conversation tells a fact."""
    talk.add("system", tell_by_system(talk))


def tell_by_system(talk: Talk) -> str:
    """A fact in the words of a system message."""
    kind = talk.rng.choice([k for k in kinds(talk.lang) if k.name in ("secret", "name", "city")])
    fact = draw_fact(talk.rng, talk.lang, talk.split, kind)
    talk.learn(fact)
    texts = {
        "en": {"name": "The user's name is {v}.", "city": "The user lives in {v}.", "secret": "The {k} is {v}."},
        "zh": {"name": "用户叫{v}。", "city": "用户住在{v}。", "secret": "{k}是{v}。"},
    }
    return fact.fill(texts[talk.lang][kind.name])


ACTS: tuple[tuple[float, Act], ...] = (
    (18, tell), (6, tell_several), (4, correct), (64, ask), (5, ask_two), (4, tell_and_ask), (7, ask_untold),
    (1, tell_and_ask_project), (6, summarise), (11, ask_project), (6, chat), (2, greet), (7, ask_unknown),
    (3, remark), (7, repeat), (1, count), (0.5, story), (1, note),
)  # fmt: skip
