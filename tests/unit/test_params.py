"""SamplingParams: ranges, spellings, and messages that name value, limit and remedy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evodraft.errors import SamplingError, UnknownOptionError
from evodraft.params import LawParams, SamplingParams

RANGES = {
    "max_new_tokens": (1, 2**31 - 1),
    "temperature": (0.0, 100.0),
    "top_p": (1e-6, 1.0),
    "top_k": (0, 2**31 - 1),
    "min_p": (0.0, 1.0),
    "min_new_tokens": (0, 2**31 - 1),
    "seed": (0, 2**64 - 1),
    "n": (1, 1024),
    "logprobs": (0, 1024),
    "repetition_penalty": (1e-3, 1e3),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
}
INTEGERS = ("max_new_tokens", "top_k", "min_new_tokens", "seed", "n", "logprobs")


@pytest.mark.parametrize("name", RANGES)
@given(data=st.data())
def test_values_within_the_range_are_kept(name, data) -> None:
    low, high = RANGES[name]
    values = st.integers(low, high) if name in INTEGERS else st.floats(low, high)
    value = data.draw(values)
    others = {"max_new_tokens": value} if name == "min_new_tokens" and value > 0 else {}
    assert getattr(SamplingParams(**{name: value, **others}), name) == value


@pytest.mark.parametrize("name", RANGES)
@given(data=st.data())
def test_values_outside_the_range_are_named_with_their_limit(name, data) -> None:
    low, high = RANGES[name]
    numbers = st.integers() if name in INTEGERS else st.floats(allow_nan=False, allow_infinity=False)
    value = data.draw(numbers.filter(lambda number: not low <= number <= high))
    with pytest.raises(SamplingError) as caught:
        SamplingParams(**{name: value})
    message = str(caught.value)
    assert f"{name}={value!r}" in message
    assert f"{low:g} .. {high:g}" in message
    assert "choose a value within" in message


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", ["3", True, math.nan, math.inf, [1]])
def test_what_is_not_a_number_is_refused(name, value) -> None:
    with pytest.raises(SamplingError, match=f"{name}=.*not a finite number; give one from"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize("name", INTEGERS)
def test_a_fraction_is_no_count(name) -> None:
    with pytest.raises(SamplingError, match=f"{name}=1.5"):
        SamplingParams(**{name: 1.5})


@pytest.mark.parametrize("name", sorted(set(RANGES) - {"seed", "logprobs"}))
def test_none_is_no_value_where_there_is_a_default(name) -> None:
    with pytest.raises(SamplingError):
        SamplingParams(**{name: None})


def test_seed_and_logprobs_may_be_left_open() -> None:
    params = SamplingParams(seed=None, logprobs=None)
    assert params.seed is None
    assert params.logprobs is None


def test_spellings_of_vllm() -> None:
    params = SamplingParams(max_tokens=5, min_tokens=2)
    assert (params.max_new_tokens, params.min_new_tokens) == (5, 2)
    with pytest.raises(SamplingError, match="max_new_tokens=0"):
        SamplingParams(max_tokens=0)


def test_one_stop_string_is_a_list_of_one() -> None:
    assert SamplingParams(stop="x").stop == ("x",)
    assert SamplingParams(stop=["x", "y"]).stop == ("x", "y")
    assert SamplingParams(stop_token_ids=[1, 2]).stop_token_ids == (1, 2)


@pytest.mark.parametrize("stop", ["", [""], ["a", ""], [3]])
def test_an_empty_stop_string_would_stop_everywhere(stop) -> None:
    with pytest.raises(SamplingError, match="must be a non-empty string; leave it out"):
        SamplingParams(stop=stop)


@pytest.mark.parametrize("key", [-1, "1", 1.0, True])
def test_logit_bias_is_keyed_by_token_ids(key) -> None:
    with pytest.raises(SamplingError, match="is not a token id; use whole numbers from 0"):
        SamplingParams(logit_bias={key: 1.0})


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None, True])
def test_logit_bias_must_be_usable(value) -> None:
    with pytest.raises(SamplingError, match="use a finite number or -inf to ban"):
        SamplingParams(logit_bias={3: value})


@pytest.mark.parametrize("token_id", [-1, "a", 1.5, True])
def test_stop_token_ids_are_token_ids(token_id) -> None:
    with pytest.raises(SamplingError, match="stop_token_ids entry .* is not a token id"):
        SamplingParams(stop_token_ids=[1, token_id])


@pytest.mark.parametrize(("name", "value"), [("stop", 3), ("stop_token_ids", 3), ("logit_bias", [1, 2])])
def test_one_thing_is_no_collection(name, value) -> None:
    with pytest.raises(SamplingError, match=f"{name}=.* is not a collection; write .*, or leave it out"):
        SamplingParams(**{name: value})


def test_a_number_beyond_every_float_is_outside_too() -> None:
    with pytest.raises(SamplingError, match="outside 1 .. "):
        SamplingParams(max_new_tokens=10**400)


def test_logit_bias_can_ban_and_is_copied() -> None:
    bias = {3: -math.inf}
    params = SamplingParams(logit_bias=bias)
    bias[4] = 1.0
    assert params.logit_bias == {3: -math.inf}


def test_from_options_overrides_a_base() -> None:
    base = SamplingParams(temperature=0.5, stop="x", seed=3, logit_bias={1: 2.0})
    params = SamplingParams.from_options({"max_tokens": 7, "seed": 4}, base)
    assert params == SamplingParams(7, 0.5, stop=("x",), seed=4, logit_bias={1: 2.0})
    assert SamplingParams.from_options({}) == SamplingParams()
    assert SamplingParams.from_options({}, base) == base


def test_an_unknown_option_offers_the_nearest() -> None:
    with pytest.raises(UnknownOptionError, match="unknown sampling option 'temprature'; did you mean 'temperature'"):
        SamplingParams.from_options({"temprature": 1.0})


def test_the_law_is_what_shapes_a_law() -> None:
    params = SamplingParams(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, seed=5)
    assert params.law == LawParams(0.5, 3, 0.9, 0.1)
    assert SamplingParams().law == LawParams()


def test_none_is_nothing() -> None:
    """OpenAI clients and vLLM send None for what is not wanted."""
    params = SamplingParams(stop=None, stop_token_ids=None, logit_bias=None)
    assert (params.stop, params.stop_token_ids, params.logit_bias) == ((), (), {})


def test_two_spellings_must_agree() -> None:
    with pytest.raises(SamplingError, match="max_tokens=3 and max_new_tokens=9 say different things"):
        SamplingParams(max_tokens=3, max_new_tokens=9)
    base = SamplingParams(max_new_tokens=50, min_new_tokens=2)
    assert SamplingParams.from_options({"max_tokens": 9}, base).max_new_tokens == 9
    assert SamplingParams.from_options({"min_tokens": 3}, base).min_new_tokens == 3


def test_a_minimum_above_the_maximum_is_refused() -> None:
    with pytest.raises(SamplingError, match="min_new_tokens=5 exceeds max_new_tokens=4"):
        SamplingParams(max_new_tokens=4, min_new_tokens=5)
