"""The acts: each adds a turn that is true of what was told before."""

from random import Random

import pytest

from chatpager.demo import acts
from chatpager.demo.facts import Fact, draw_fact, kinds
from chatpager.demo.talk import Talk
from chatpager.demo.words import Split


def kind(name, lang="en"):
    return next(k for k in kinds(lang) if k.name == name)


def talk(seed=0, lang="en", split=Split.TRAIN):
    return Talk(Random(seed), split, lang)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("act", [a for _, a in acts.ACTS], ids=lambda a: a.__name__)
def test_an_act_leaves_whole_turns(act, lang):
    for seed in range(30):
        t = talk(seed, lang)
        for _ in range(3):
            act(t)
        roles = [m["role"] for m in t.messages if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(m["content"].strip() for m in t.messages)


def test_telling_is_acknowledged_and_learnt():
    t = talk()
    acts.tell(t, Fact(kind("name"), "Ada"))
    assert t.messages[-1]["content"].lower() == "nice to meet you, ada."
    acts.tell(t, Fact(kind("city"), "Oslo"))
    assert t.messages[-1]["content"].lower() == "i will remember that you live in oslo."
    assert [f.value.lower() for f in t.facts.values()] == ["ada", "oslo"]


def test_the_last_word_about_a_subject_counts():
    for seed in range(20):
        t = talk(seed, split=Split.HELD_OUT)
        acts.tell(t, Fact(kind("name"), "Ada"))
        acts.tell(t, Fact(kind("name"), "Bo"))
        acts.ask(t)
        assert t.messages[-1]["content"] == "Your name is Bo."


def test_a_correction_tells_the_same_subject_another_value():
    t = talk()
    acts.tell(t, Fact(kind("beast"), "Rex", "dog"))
    acts.correct(t)
    (fact,) = t.facts.values()
    assert fact.key == "dog"
    assert fact.value.lower() in t.messages[-1]["content"].lower()


def test_asking_for_nothing_told_tells_first():
    t = talk()
    acts.ask(t)
    assert len(t.facts) == 1


def test_asking_for_what_was_not_told_never_meets_a_told_fact():
    for seed in range(200):
        t = talk(seed)
        acts.tell_several(t)
        acts.ask_untold(t)
        assert t.messages[-1]["content"].startswith("You have not told me")


def test_asking_prefers_what_was_not_asked_yet():
    counts = 0
    for seed in range(300):
        t = talk(seed)
        old, new = Fact(kind("name"), "Ada"), Fact(kind("city"), "Oslo")
        t.learn(old)
        t.learn(new)
        t.asked.add(old)
        acts.ask(t)
        counts += "Oslo" in t.messages[-1]["content"]
    assert counts > 200


def test_a_summary_lists_all_that_was_told_last_word_last():
    t = talk(split=Split.HELD_OUT)
    for fact in (Fact(kind("name"), "Ada"), Fact(kind("city"), "Oslo"), Fact(kind("name"), "Bo")):
        acts.tell(t, fact)
    acts.summarise(t)
    assert t.messages[-1]["content"] == "You told me that you live in Oslo and your name is Bo."


def test_a_summary_of_nothing_says_so_and_one_of_too_much_is_not_asked_for():
    t = talk()
    acts.summarise(t)
    assert t.messages[-1]["content"] == "You have not told me anything about yourself yet."
    while len(t.facts) < 9:
        t.learn(draw_fact(t.rng, "en", Split.TRAIN, kind("secret")))
    acts.summarise(t)
    assert not t.messages[-1]["content"].startswith("You told me that")


def test_two_questions_get_two_answers():
    t = talk()
    t.learn(Fact(kind("name"), "Ada"))
    t.learn(Fact(kind("city"), "Oslo"))
    acts.ask_two(t)
    assert (
        set(t.messages[-1]["content"].split(". ")) >= {"Your name is Ada"}
        or "Your name is Ada." in t.messages[-1]["content"]
    )
    assert "You live in Oslo" in t.messages[-1]["content"]


def test_an_echo_repeats_the_words():
    for seed in range(20):
        t = talk(seed)
        acts.repeat(t)
        assert t.messages[-2]["content"].endswith(t.messages[-1]["content"])


def test_a_system_message_can_tell_a_fact():
    for lang in ("en", "zh"):
        t = talk(3, lang)
        acts.note(t)
        (fact,) = t.facts.values()
        assert t.messages[-1]["role"] == "system"
        assert fact.value in t.messages[-1]["content"]


def test_several_facts_of_notes_alone_become_one_told_fact(monkeypatch):
    monkeypatch.setattr(acts, "draw_fact", lambda rng, lang, split, k=None: draw_fact(rng, lang, split, kind("note")))
    t = talk()
    acts.tell_several(t)
    assert t.messages[-1]["content"] == "I will remember it."
