"""The evaluation's cases: held out, and right exactly when they should be."""

from collections import Counter

import pytest

from chatpager.demo.cases import Case, make_cases, suites
from chatpager.demo.words import is_held_out


@pytest.fixture(scope="module")
def cases():
    return make_cases(0)


def test_cases_come_from_the_seed_alone():
    assert make_cases(3, 0.1) == make_cases(3, 0.1) != make_cases(4, 0.1)


def test_every_suite_has_its_size(cases):
    assert Counter(c.suite for c in cases) == {name: size for name, (_, size) in suites().items()}
    assert {c.suite for c in make_cases(0, 1.0, ("far",))} == {"far"}


def test_the_expected_answer_is_right_and_another_is_not(cases):
    for case in cases:
        assert case.is_right(case.messages[-1]["content"]), case
        assert not case.is_right("Good day."), case


def test_recalled_values_are_held_out_and_asked_for_one_to_ten_turns_later(cases):
    found = [c for c in cases if c.suite == "recall"]
    assert Counter(c.group for c in found) == {str(d): 128 for d in range(1, 11)}
    for case in found:
        if case.lang == "en" and not case.wanted[0].endswith("."):
            assert is_held_out(case.wanted[0]) or is_held_out(case.wanted[0] + ".")
        users = [i for i, m in enumerate(case.messages) if m["role"] == "user"]
        told = next(i for i in users if case.wanted[0].lower() in case.messages[i]["content"].lower())
        assert len([i for i in users if i > told]) == int(case.group)


def test_the_question_itself_does_not_hold_the_value(cases):
    for case in cases:
        if case.suite in ("recall", "corrected", "far"):
            assert case.wanted[0].lower() not in case.messages[-2]["content"].lower()


def test_far_cases_are_as_long_as_they_say(cases):
    for case in cases:
        if case.suite == "far":
            assert sum(len(m["content"]) for m in case.messages) > 2.0 * int(case.group)


def test_capitals_do_not_count_but_the_old_value_does():
    case = Case("corrected", "", "en", [], ("Oslo",), ("Rome",))
    assert case.is_right("you live in OSLO.")
    assert not case.is_right("You live in Oslo, not in Rome.")
    assert not case.is_right("You live in Rome.")


def test_exact_answers_are_compared_whole():
    case = Case("project", "", "en", [], ("One.", "Two."), exact=True)
    assert case.is_right(" one. ")
    assert not case.is_right("One. Two.")
