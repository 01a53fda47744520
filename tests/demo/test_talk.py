"""The words around a question: leads, slips, other wordings."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.demo.talk import Talk, careless, held_out_wordings, led, listed, phrase, plain, reworded, slip, whole


def talk(seed=0, lang="en"):
    return Talk(Random(seed), lang=lang)


def test_messages_are_added_in_turns():
    t = talk()
    t.say("Hello", "Hi")
    assert t.messages == [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]


def test_a_traditional_talk_writes_traditional_characters():
    t = Talk(Random(0), lang="zh", traditional=True)
    t.say("你记得我吗？", "记得。")
    assert t.messages[0]["content"] == "你記得我嗎？"


def test_a_lead_that_runs_on_takes_the_capital_but_not_from_i():
    texts = {led(talk(i), "What is a fork?", 1.0) for i in range(60)}
    assert "By the way, what is a fork?" in texts
    assert "Hello! What is a fork?" in texts
    assert all("i have" not in led(talk(i), "I have a fork.", 1.0) for i in range(60))
    assert led(talk(), "What is a fork?", 0.0) == "What is a fork?"


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("kind", ["lead", "system", "summary", "remark", "repeat", "aside", "correction"])
def test_every_phrase_list_is_there_in_both_languages(lang, kind):
    assert phrase(talk(lang=lang), kind)


def test_careless_typing_keeps_the_words():
    seen = {careless(talk(i), "What is the port?", 1.0) for i in range(80)}
    assert {"What is the port", "what is the port?", "what is the port", "What is the port? please"} <= seen
    assert careless(talk(), "Hi!", 1.0) == "Hi!"
    assert careless(talk(), "What is the port?", 0.0) == "What is the port?"


@given(st.integers(0, 10**6), st.text(min_size=3, max_size=40))
def test_a_slip_touches_one_letter(seed, text):
    slipped = slip(Random(seed), text)
    assert abs(len(slipped) - len(text)) <= 1
    assert slipped[0] == text[0]


def test_a_question_is_reworded_in_many_ways_but_never_into_a_held_out_one():
    wordings = {reworded(talk(i), "How do I start the server?") for i in range(400)}
    assert {"How do I start the server?", "How can I start the server?", "How do I start chatpager?"} <= wordings
    assert not {plain(w) for w in wordings} & held_out_wordings()


def test_a_wording_that_is_held_out_falls_back_to_the_question(monkeypatch):
    import chatpager.demo.talk as module

    everything = frozenset({plain(reworded(talk(i), "How do I start the server?")) for i in range(400)})
    monkeypatch.setattr(module, "held_out_wordings", lambda: everything)
    assert {reworded(talk(i), "How do I start the server?") for i in range(400)} == {"How do I start the server?"}


def test_words_are_replaced_whole():
    assert not whole("chat", "en").search("chatpager")
    assert whole("chat", "en").search("a chat")
    assert whole("怎么", "zh").search("我怎么开始")


def test_wordings_are_compared_without_marks():
    assert plain("What's  the Port?") == plain("whats the port")
    assert plain("Hi 😀") != plain("Hi")


def test_a_list_reads_as_english():
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"]) == "a, b and c"
