"""Every number and every length of a request at its limits and past them, on the wires of OpenAI."""

import json
import sys

import pytest

from chatpager.errors import InvalidRequest
from chatpager.server.input_items import MAX_ITEMS
from chatpager.server.nested import MOST_LOOKED_AT, unknown_inside
from chatpager.server.reading import MAX_FIELDS, decode
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
