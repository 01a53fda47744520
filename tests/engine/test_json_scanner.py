"""JSON that is still being written: the standard library and msgspec say what an object is."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.json_scanner import DEEPEST, JsonObject


def scan(text):
    """The length of what was let through, and whether that is an object."""
    scanner = JsonObject()
    for at, char in enumerate(text):
        if scanner.ended or not scanner.push(char):
            return at, scanner.ended
    return len(text), scanner.ended


def is_object(text):
    try:
        msgspec.json.decode(text, type=dict)
    except (msgspec.DecodeError, UnicodeError):
        return False
    return True


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
objects = st.builds(
    json.dumps,
    st.dictionaries(st.text(), values, max_size=4),
    ensure_ascii=st.booleans(),
    indent=st.sampled_from([None, 1, "\t"]),
)


@given(objects)
def test_every_object_is_followed_to_its_end(text):
    assert scan(text + "}") == (len(text), True)  # so it had not ended at any character before


@given(objects, st.integers(0, 400), st.sampled_from('{}[]",:\\utfn0-+.eE 1x\n\ud800'), st.booleans())
def test_what_is_let_through_is_an_object_or_could_become_one(text, place, char, replace):
    place = min(place, len(text))
    changed = text[:place] + char + text[place + replace :]
    length, ended = scan(changed)
    if ended:
        assert is_object(changed[:length])
    else:
        assert not is_object(changed)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        (" {", 0), ("[]", 0), ('{"a": 01}', 7), ('{"a": 1.}', 8), ('{"a": -}', 7), ('{"a": +1}', 6), ('{"a": 1e}', 8),
        ('{"a": tru}', 9), ('{"a": NaN}', 6), ('{"a": "\n"}', 7), ('{"a": "\\x"}', 8), ('{"a": "\\ud800"}', 13),
        ('{"a": "\\udc00"}', 12), ('{"a": "\\ud800\\u0041"}', 18), ('{"a": 1,}', 8), ('{"a": [1,]}', 9), ("{,}", 1),
        ('{"a"; 1}', 4), ("{'a': 1}", 1), ('{"a": 1]', 7), ('{"a" 1', 5), ('{"a": "\ud800"}', 7),
    ],
)  # fmt: skip
def test_it_stops_at_the_first_character_that_cannot_be(text, length):
    assert scan(text) == (length, False)


def test_a_pair_of_surrogates_is_one_character():
    assert scan('{"\\ud83d\\ude00": "\\uD83D\\uDE00"}')[1]


def test_nothing_is_nested_too_deeply_to_be_read():
    assert scan('{"a":' + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1) + "}")[1]
    assert scan('{"a":' + "[" * DEEPEST) == (5 + DEEPEST - 1, False)
    json.loads('{"a":' + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1) + "}")
