"""What the model is taught about chatpager, and what it must not claim to know."""

import tomllib
from pathlib import Path
from random import Random

import pytest

from chatpager.config import EngineConfig, ServerConfig
from chatpager.demo import knowledge
from chatpager.demo.talk import held_out_wordings, plain
from chatpager.demo.words import Split, load_data

TOPICS = [t for lang in ("en", "zh") for t in (*knowledge.project(lang), *knowledge.smalltalk(lang))]


def topic(name, lang="en"):
    return next(t for t in knowledge.project(lang) if t.name == name)


@pytest.mark.parametrize("t", TOPICS, ids=lambda t: f"{t.lang}-{t.name}")
def test_held_out_questions_are_not_trained(t):
    assert t.asks(Split.HELD_OUT)
    assert not set(map(plain, t.asks(Split.TRAIN))) & held_out_wordings()
    assert set(map(plain, t.asks(Split.HELD_OUT))) <= held_out_wordings()


def test_no_question_has_two_answers():
    answers = {}
    for t in TOPICS:
        for text in (*t.ask, *t.held_out):
            assert answers.setdefault((t.lang, plain(text)), t.answers) == t.answers, text


def test_there_are_at_least_fifty_facts_and_twenty_in_chinese():
    assert len(knowledge.project("en")) >= 50
    assert len(knowledge.project("zh")) >= 20


def test_the_answers_agree_with_the_settings():
    assert str(EngineConfig().block_size) in topic("block size").answers[0]
    assert str(ServerConfig().port) in topic("port").answers[0]
    assert ServerConfig().host in topic("address").answers[0]
    assert "multiple of 8" in topic("change block size").answers[0]
    assert str(ServerConfig().port) in topic("port", "zh").answers[0]


def test_the_answers_agree_with_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["license"] in topic("licence").answers[0]
    assert project["requires-python"].removeprefix(">=") in topic("python").answers[0]


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("split", list(Split))
def test_every_unknown_question_can_be_filled(lang, split):
    rng = Random(0)
    for template in load_data("unknown")[lang]["held_out" if split is Split.HELD_OUT else "ask"]:
        assert "{" not in knowledge.fill_slots(rng, lang, template, split)


def test_unknown_questions_have_the_right_article():
    rng = Random(0)
    asked = " ".join(knowledge.unknown_question(rng, "en", Split.TRAIN) for _ in range(2000))
    assert not any(f" a {vowel}" in asked for vowel in "aeiou")


def test_held_out_unknown_questions_are_other_questions():
    trained, held_out = (
        {knowledge.unknown_question(Random(i), "en", split) for i in range(400)}
        for split in (Split.TRAIN, Split.HELD_OUT)
    )
    assert not trained & held_out
    assert len(held_out) > 200


def test_the_unknown_answer_says_so():
    assert "do not know" in knowledge.unknown_answer("en")
    assert "不知道" in knowledge.unknown_answer("zh")
