import math

import msgspec
import numpy as np
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


WRONG = [
    ("n", 1.5), ("n", True), ("n", None), ("n", "1"), ("temperature", "x"), ("temperature", None), ("top_p", True),
    pytest.param("temperature", 10**400, id="temperature-huge"), ("top_k", 1.5), ("min_p", None), ("max_tokens", 2.5),
    ("max_tokens", False), ("min_tokens", None), ("ignore_eos", 1), ("stop", 0), ("stop", ["a", 5]),
    ("stop_token_ids", 5), ("stop_token_ids", [1.5]), ("stop_token_ids", "ab"), ("presence_penalty", "0"),
    ("frequency_penalty", [0.5]),
    ("repetition_penalty", None), ("logit_bias", [1]), ("logit_bias", {"5": 1.0}), ("logit_bias", {5: "1"}),
    ("logit_bias", {5: True}), ("logprobs", True), ("seed", 1.5), ("include_stop_str_in_output", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_of_another_type_is_refused_by_its_name_and_what_it_should_be(name, value):
    with pytest.raises(InvalidRequest, match=rf"^{name} must be (a|True) ") as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name


def test_no_field_is_left_unchecked():
    for name in SamplingParams.__struct_fields__:
        with pytest.raises(InvalidRequest, match=name):
            SamplingParams(**{name: object()})


@pytest.mark.parametrize("name", ["max_tokens", "stop", "stop_token_ids", "logit_bias", "logprobs", "seed"])
def test_none_is_allowed_where_vllm_has_it(name):
    assert not getattr(SamplingParams(**{name: None}), name)


def test_numbers_of_numpy_are_numbers():
    params = SamplingParams(temperature=np.float64(0.5), top_p=np.float32(0.5), n=np.int64(2), stop_token_ids=np.r_[:2])
    assert params == SamplingParams(temperature=0.5, top_p=0.5, n=2, stop_token_ids=[0, 1])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params


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
