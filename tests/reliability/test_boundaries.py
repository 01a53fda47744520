"""Every number and every length of a request at its limits and past them, on the wires of OpenAI."""

import json
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.errors import InvalidRequest
from chatpager.server import json_costs, reading
from chatpager.server.input_items import MAX_ITEMS
from chatpager.server.nested import MOST_LOOKED_AT, unknown_inside
from chatpager.server.reading import BIG as LONG
from chatpager.server.reading import MAX_FIELDS, decode, decoded, has_much, made_of
from tests.server.reading import SERVED, chat, refused, respond

BIG = 2**31 - 1
ABOVE_NOTHING = sys.float_info.min
NEVER = [True, "1", [], {}, [1], {"a": 1}]
"""What is no number."""
HUGE = [2**63, -(2**63) - 1, 2**64, 10**300]

# Both readers; the field; whether it is whole; the least and the largest that are taken; the next beside them.
SHARED = {
    "temperature": (False, 0, 2, -0.001, 2.001),
    "top_p": (False, ABOVE_NOTHING, 1, 0, 1.001),
    "min_p": (False, 0, 1, -0.001, 1.001),
    "presence_penalty": (False, -2, 2, -2.001, 2.001),
    "frequency_penalty": (False, -2, 2, -2.001, 2.001),
    "repetition_penalty": (False, ABOVE_NOTHING, 100, 0, 100.001),
    "top_k": (True, -1, BIG, -2, BIG + 1),
    "seed": (True, -(2**63), 2**64 - 1, -(2**63) - 1, 2**64),
}
LIMITS = {
    "a response": (respond, {"input": "a"}, {"max_output_tokens": (True, 1, SERVED.window, 0, SERVED.window + 1)}),
    "a chat": (
        chat, {},
        dict.fromkeys(("max_tokens", "max_completion_tokens"), (True, 1, SERVED.window, 0, SERVED.window + 1))
        | {"n": (True, 1, 64, 0, 65)},
    ),
}  # fmt: skip
NUMBERS = [
    pytest.param(read, body, field, *limits, id=f"{kind}: {field}")
    for kind, (read, body, own) in LIMITS.items()
    for field, limits in (SHARED | own).items()
]


@pytest.mark.parametrize(("read", "body", "field", "whole", "least", "most", "below", "above"), NUMBERS)
def test_a_number_at_its_limits_and_past_them(read, body, field, whole, least, most, below, above):
    for value in (least, most, None):
        read(**body, **{field: value})
    beyond = [value for value in HUGE if not least <= value <= most]
    for value in [below, above, *NEVER, *([1.5] if whole else []), *beyond]:
        assert refused(read, **body, **{field: value}) == field, value


def parts(count):
    return [{"role": "user", "content": "a"}] * count


LENGTHS = {
    "stop strings": ("stop", lambda n: ["a"] * n, 16),
    "a stop string": ("stop", lambda n: ["a" * n], 256),
    "pairs of metadata": ("metadata", lambda n: {str(i): "" for i in range(n)}, 16),
    "a name of metadata": ("metadata", lambda n: {"a" * n: ""}, 64),
    "a value of metadata": ("metadata", lambda n: {"a": "a" * n}, 512),
    "a token's bias": ("logit_bias", lambda n: {"5": n}, 100),
    "an aversion to a token": ("logit_bias", lambda n: {"5": -n}, 100),
}


@pytest.mark.parametrize(("field", "made", "most"), LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("read", [respond, chat])
def test_a_length_at_its_limit_and_past_it(read, field, made, most):
    body = {"input": "a"} if read is respond else {}
    read(**body, **{field: made(most)})
    assert refused(read, **body, **{field: made(most + 1)}) == field


def test_so_many_items_and_messages_and_no_more():
    respond(input=parts(MAX_ITEMS))
    chat(messages=parts(MAX_ITEMS))
    assert refused(respond, input=parts(MAX_ITEMS + 1)) == "input"
    assert refused(chat, messages=parts(MAX_ITEMS + 1)) == "messages"
    respond(input=[{"role": "user", "content": text_parts(MAX_ITEMS)}])
    assert refused(respond, input=[{"role": "user", "content": text_parts(MAX_ITEMS + 1)}]) == "input[0].content"


def text_parts(count):
    return [{"type": "text", "text": "a"}] * count


def test_so_many_fields_and_no_more():
    fields = {str(n): 1 for n in range(MAX_FIELDS)}
    assert decode(json.dumps(fields)) == fields
    with pytest.raises(InvalidRequest, match="at most 256 fields"):
        decode(json.dumps({**fields, "one": 1}))


COSTS = [
    b"1e300",
    b"9007199254740993.0000000001",
    b"1",
    b"1234567890" * 30,
    b'{"a":{}}',
    b"[]",
    b'"a"',
    b'{"a":1,"b":2}',
]


@pytest.mark.parametrize("costly", COSTS, ids=lambda one: one[:20].decode())
def test_what_is_dear_to_be_read_is_refused_before_it_is(costly):
    """Four megabytes of numbers with exponents kept everybody waiting for twelve seconds."""
    raw = b'{"input": "' + rb"a\"b" + b'", "p": [' + b",".join([costly] * ((4 << 20) // (len(costly) + 1))) + b"]}"
    for data in (raw, raw.decode()):
        with pytest.raises(InvalidRequest, match="there are more than"):
            decode(data)


@given(st.text(alphabet='a\\"e1.,:{[', max_size=40), st.integers(2, 30))
def test_what_stands_in_a_text_costs_nothing(words, piece):
    said = {"input": [words, *['\\"1e300,1.5:{[' * 4000] * 2, words * 3], "metadata": {words: words}}
    raw = json.dumps(said)
    assert decode(raw) == said
    whole = json_costs._outside_of_texts(raw.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_costs, "PIECE", piece)
        short = json.dumps(words).encode() * 5
        assert json_costs._outside_of_texts(short).strip(b'"') == b""
    assert set(whole) <= set(b'{}[]:, "')


async def test_what_is_long_is_read_beside_the_event_loop(monkeypatch):
    threads = []
    monkeypatch.setattr(reading, "check_costs", lambda data: threads.append(threading.current_thread()))
    for size in (LONG, LONG + 1):
        raw = b'{"input": "' + b"a" * (size - 13) + b'"}'
        assert len((await decoded(raw))["input"]) == size - 13
    for items in (100, 513):
        await made_of({"input": parts(items)}, lambda raw: threads.append(threading.current_thread()))
    assert [thread is threading.main_thread() for thread in threads] == [True, False] * 2


@pytest.mark.parametrize("much", [[[[]] * 600], {"a": dict.fromkeys(map(str, range(600)))}, [[{"a": [1] * 600}]]])
def test_much_is_seen_wherever_it_is(much):
    assert has_much({"input": much}) and not has_much({"input": "a" * 600, "tools": [{"a": [1] * 400}]})


class Counted(list):
    """How many of its things were asked for."""

    asked = 0

    def __iter__(self):
        for one in super().__iter__():
            self.asked += 1
            yield one


def test_of_very_many_things_the_first_are_looked_at():
    content = Counted(text_parts(50 * MOST_LOOKED_AT))
    assert unknown_inside({"input": [{"colour": 1, "content": content}]}, ("input",)) == ["input[0].colour"]
    assert content.asked == MOST_LOOKED_AT - 1
