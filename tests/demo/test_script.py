"""Simplified Chinese to traditional."""

from chatpager.demo.facts import kinds
from chatpager.demo.script import SIMPLIFIED, TRADITIONAL, to_traditional


def test_the_two_halves_of_the_table_pair_up():
    assert len(SIMPLIFIED) == len(TRADITIONAL) == len(set(SIMPLIFIED))
    assert all(a != b for a, b in zip(SIMPLIFIED, TRADITIONAL, strict=True))


def test_a_sentence_is_converted_and_english_stays():
    assert to_traditional("你还没有告诉我 chatpager 的名字。") == "你還沒有告訴我 chatpager 的名字。"


def test_converting_twice_changes_nothing_more():
    for kind in kinds("zh"):
        for text in (*kind.tell, *kind.ask):
            assert to_traditional(to_traditional(text)) == to_traditional(text)
