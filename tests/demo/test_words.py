"""Words and values: invented from a seed, and split for good."""

from random import Random

import pytest

from chatpager.demo.words import INVENTIONS, Split, draw, expand, garbled, invent, is_held_out, load_data, topic, words

KINDS = [(lang, kind) for lang in ("en", "zh") for kind in load_data("values")[lang]]


@pytest.mark.parametrize(("lang", "kind"), KINDS)
def test_no_value_is_on_both_sides_of_the_split(lang, kind):
    rng = Random(1)
    trained = {draw(rng, lang, kind, Split.TRAIN).lower() for _ in range(200)}
    held_out = {draw(rng, lang, kind, Split.HELD_OUT).lower() for _ in range(40)}
    assert trained
    assert held_out
    assert not trained & held_out


@pytest.mark.parametrize(("lang", "kind"), KINDS)
def test_values_come_from_the_seed_alone(lang, kind):
    assert [draw(Random(7), lang, kind, Split.TRAIN) for _ in range(3)] == [
        draw(Random(7), lang, kind, Split.TRAIN) for _ in range(3)
    ]


def test_the_split_does_not_see_capitals():
    assert {is_held_out(w) == is_held_out(w.upper()) for w in words("en", "name")} == {True}


def test_about_one_value_in_eight_is_held_out():
    rng = Random(3)
    share = sum(is_held_out(invent(rng)) for _ in range(4000)) / 4000
    assert 0.1 < share < 0.15


def test_names_are_many_more_than_the_lists_hold():
    rng = Random(5)
    drawn = {draw(rng, "en", "name", Split.TRAIN) for _ in range(3000)}
    assert len(drawn) > 1000


@pytest.mark.parametrize("name", ["noun", "animal", "country", "abstract"])
def test_no_topic_is_on_both_sides_of_the_split(name):
    rng = Random(2)
    trained, held_out = ({topic(rng, "en", name, side) for _ in range(2000)} for side in Split)
    assert not trained & held_out
    assert trained | held_out == set(words("en", name))


def test_every_slot_of_the_values_can_be_filled():
    for lang, kind in KINDS:
        for _, template in load_data("values")[lang][kind]:
            assert "{" not in expand(Random(0), lang, template)


def test_a_capital_slot_gives_a_capital_word():
    assert expand(Random(0), "en", "{Noun}")[0].isupper()
    assert expand(Random(0), "en", "{noun}")[0].islower()


def test_an_unknown_slot_is_an_error():
    with pytest.raises(KeyError):
        expand(Random(0), "en", "{no_such_list}")


def test_invented_words_are_letters():
    rng = Random(0)
    assert all(invent(rng).isalpha() for _ in range(500))
    assert all(INVENTIONS[name](rng).isdigit() for name in ("digits", "number", "hour", "minute", "day", "year", "age"))


def test_values_to_train_on_go_beyond_the_lists():
    rng = Random(0)
    drawn = {draw(rng, "en", "job", Split.TRAIN) for _ in range(2000)}
    known = set(words("en", "job"))
    assert len([job for job in drawn if " " not in job and job not in known]) > 200
    han = {draw(rng, "zh", "job", Split.TRAIN) for _ in range(500)}
    assert len(han - set(words("zh", "job"))) > 100


def test_held_out_values_are_what_the_lists_give():
    assert all(draw(Random(i), "en", "colour", Split.HELD_OUT).islower() for i in range(50))


def test_a_garbled_value_keeps_its_shape():
    assert garbled(Random(3), "en", "42 km of red") == "42 km of red", "nothing in it has four letters"
    text = garbled(Random(3), "en", "Blue Whale")
    assert text != "Blue Whale" and text.count(" ") == 1 and text[0] == "B"
    assert len(garbled(Random(3), "zh", "图书管理员")) == 5
