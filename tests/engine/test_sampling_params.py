import math

import msgspec
import pytest

from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import InvalidRequest

BAD = [
    ("n", 0), ("n", 65), ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf),
    ("top_p", 0.0), ("top_p", 1.1), ("top_p", math.nan), ("top_k", -2), ("min_p", -0.1), ("min_p", 1.1),
    ("max_tokens", 0), ("max_tokens", -1), ("min_tokens", -1), ("presence_penalty", 2.1), ("frequency_penalty", -2.1),
    ("repetition_penalty", 0.0), ("repetition_penalty", math.nan), ("logprobs", -1), ("logprobs", 21),
    ("seed", 2**64), ("stop", ["a"] * 17), ("stop", [""]), ("stop", ["x" * 257]), ("stop_token_ids", [-1]),
    ("logit_bias", {5: 101.0}), ("logit_bias", {-1: 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_out_of_range_is_refused_by_its_name(name, value):
    with pytest.raises(InvalidRequest, match=name) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.0}, {"top_k": -1}, {"top_k": 0}, {"max_tokens": None}, {"stop": "end"}, {"stop": ""},
        {"stop": ["a", "b"]}, {"seed": -5}, {"logprobs": 0}, {"logit_bias": {5: -100.0}}, {"min_tokens": 16},
    ],
)  # fmt: skip
def test_the_borders_are_allowed(fields):
    SamplingParams(**fields)


def test_more_than_all_tokens_cannot_be_asked_for_at_least():
    with pytest.raises(InvalidRequest, match="min_tokens"):
        SamplingParams(min_tokens=17, max_tokens=16)


def test_one_stop_string_is_a_list_of_one():
    assert SamplingParams(stop="x").stop == ("x",)
    assert SamplingParams(stop=["x"]).stop == ("x",)
    assert SamplingParams(stop="").stop == ()


def test_they_cross_a_process_boundary():
    params = SamplingParams(temperature=0.5, stop=["a"], logit_bias={3: 1.5}, stop_token_ids=[7], seed=1)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params


def test_greedy_and_penalised():
    assert SamplingParams(temperature=0.0).greedy
    assert not SamplingParams(temperature=0.1).greedy
    assert not SamplingParams().penalised
    assert SamplingParams(presence_penalty=0.1).penalised
    assert SamplingParams(repetition_penalty=1.1).penalised
