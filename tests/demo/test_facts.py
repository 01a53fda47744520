"""Facts: told, asked for and answered."""

from random import Random

import pytest

from chatpager.demo.facts import Fact, draw_fact, draw_kind, kinds, missing
from chatpager.demo.talk import plain
from chatpager.demo.words import Split, load_data, words

ALL = [kind for lang in ("en", "zh") for kind in kinds(lang)]


def kind(name, lang="en"):
    return next(k for k in kinds(lang) if k.name == name)


def name_of(k):
    return f"{k.lang}-{k.name}"


@pytest.mark.parametrize("k", ALL, ids=name_of)
def test_every_telling_holds_the_value_and_every_wording_the_key(k):
    assert all("{v}" in text for text in (*k.tell, *k.tell_held_out, k.clause))
    if k.key:
        assert all("{k}" in text for text in (*k.tell, *k.tell_held_out, *k.ask, *k.ask_held_out, k.clause, k.missing))


@pytest.mark.parametrize("k", ALL, ids=name_of)
def test_held_out_wordings_are_not_trained(k):
    assert not set(map(plain, k.tell)) & set(map(plain, k.tell_held_out))
    assert not set(map(plain, k.ask)) & set(map(plain, k.ask_held_out))
    assert k.asks(Split.HELD_OUT) == k.ask_held_out
    assert k.tells(Split.TRAIN) == k.tell


@pytest.mark.parametrize("k", ALL, ids=name_of)
def test_lists_and_values_of_a_kind_exist(k):
    assert k.value in load_data("values")[k.lang]
    assert not k.key or words(k.lang, k.key)


def test_an_answer_is_a_sentence_in_its_language():
    assert Fact(kind("name"), "Ada").sentence == "Your name is Ada."
    assert Fact(kind("beast"), "Rex", "dog").sentence == "Your dog is called Rex."
    assert Fact(kind("city", "zh"), "杭州").sentence == "你住在杭州。"


def test_the_article_goes_with_the_word():
    assert Fact(kind("job"), "engineer").clause == "you work as an engineer"
    assert Fact(kind("job"), "baker").clause == "you work as a baker"


def test_a_sentence_as_a_value_keeps_one_point():
    note = Fact(kind("note"), "The cup is red.")
    assert note.sentence == "You asked me to remember this: The cup is red."
    assert note.fill("Remember this: {v}") == "Remember this: The cup is red."
    assert note.fill("Note {v}.") == "Note The cup is red."


def test_what_was_not_told_is_named():
    assert missing(kind("secret"), "door code") == "You have not told me the door code."
    assert missing(kind("name", "zh"), "") == "你还没有告诉我你的名字。"


def test_later_facts_about_one_subject_share_it():
    assert Fact(kind("name"), "Ada").subject == Fact(kind("name"), "Bo").subject
    assert Fact(kind("beast"), "Rex", "dog").subject != Fact(kind("beast"), "Rex", "cat").subject


def test_facts_are_drawn_from_the_seed():
    assert draw_fact(Random(4), "en", Split.TRAIN) == draw_fact(Random(4), "en", Split.TRAIN)
    assert {draw_kind(Random(i), "en").name for i in range(300)} == {k.name for k in kinds("en")}
