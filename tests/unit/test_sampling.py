"""Laws against transformers' own warpers, residuals, signals, keys. The noise itself: tests/exactness/test_noise.py."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from evodraft.params import LawParams
from evodraft.sampling import (
    RequestKeys,
    _cut_top_p,
    _cut_top_p_by_sorting,
    raw_signals,
    residual,
    to_law,
    to_laws,
)

SEEDS = st.integers(0, 2**31)
LAW_PARAMS = st.builds(
    LawParams,
    temperature=st.floats(0.05, 5.0),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.05, 1.0),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 0.3, 0.9]),
)


def random_logits(seed: int, vocab_size: int, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(vocab_size, generator=generator, dtype=torch.float64) * scale


def law_by_transformers(logits: torch.Tensor, params: LawParams) -> torch.Tensor:
    """The warpers in the order in which `generate` applies them."""
    scores, ids = logits[None], torch.zeros(1, 1, dtype=torch.long)
    warpers = [TemperatureLogitsWarper(params.temperature)]
    warpers += [TopKLogitsWarper(params.top_k)] if params.top_k else []
    warpers += [TopPLogitsWarper(params.top_p)] if params.top_p < 1.0 else []
    warpers += [MinPLogitsWarper(params.min_p)] if params.min_p else []
    for warper in warpers:
        scores = warper(ids, scores)
    return scores[0].softmax(dim=-1)


@given(SEEDS, st.integers(2, 60), LAW_PARAMS)
def test_laws_are_those_of_transformers(seed, vocab_size, params) -> None:
    logits = random_logits(seed, vocab_size)
    law, wanted = to_law(logits, params), law_by_transformers(logits, params)
    ordered = (logits / params.temperature).softmax(-1).sort(descending=True).values
    # a token on the very edge of the nucleus may fall to either side of it
    assume(bool(((ordered.cumsum(-1) - params.top_p).abs() > 1e-9).all()))
    assert (law - wanted).abs().max() < 1e-12


@given(SEEDS, st.integers(1, 60), LAW_PARAMS)
def test_a_law_sums_to_one_and_keeps_the_best_token(seed, vocab_size, params) -> None:
    logits = random_logits(seed, vocab_size).float()
    law = to_law(logits, params)
    assert law.dtype == torch.float32
    assert law.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (law >= 0).all()
    assert law[logits.argmax()] == law.max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_laws_are_float32_or_wider(dtype) -> None:
    law = to_law(torch.tensor([1.0, 2.0, 0.5], dtype=dtype), LawParams(temperature=1.0))
    assert law.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_temperature_zero_is_the_first_of_the_best() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0], [5.0, -1.0, 5.0]])
    assert to_law(logits, LawParams(temperature=0.0)).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


@given(st.floats(0.0, 1e-3, exclude_min=True), st.sampled_from([torch.float32, torch.float64]))
def test_a_tiny_temperature_is_no_accident(temperature, dtype) -> None:
    """Dividing by it must not make infinities, whose softmax would be NaN."""
    law = to_law(torch.tensor([300.0, 299.0, -1e30, 300.0], dtype=dtype), LawParams(temperature=temperature))
    assert law.tolist() == [0.5, 0.0, 0.0, 0.5]


def test_impossible_tokens_stay_impossible() -> None:
    logits = torch.tensor([0.0, -math.inf, 1.0])
    for params in (LawParams(0.0), LawParams(1.0), LawParams(0.3, 2, 0.9, 0.1)):
        assert to_law(logits, params)[1] == 0.0


def test_top_p_ties_go_to_the_lowest_id() -> None:
    assert to_law(torch.zeros(4), LawParams(temperature=1.0, top_p=0.5)).tolist() == [0.5, 0.5, 0.0, 0.0]


def test_a_row_of_a_batch_has_the_law_of_its_own_parameters() -> None:
    logits = torch.stack([random_logits(seed, 7) for seed in range(4)])
    params = [LawParams(1.0), LawParams(0.0), None, LawParams(1.0)]
    laws = to_laws(logits, params)
    assert sorted(laws) == [0, 1, 3]
    for row, law in laws.items():
        assert torch.equal(law, to_law(logits[row], params[row]))


WEIGHTS = st.lists(st.integers(0, 16), min_size=2, max_size=8).filter(any)


@given(WEIGHTS, WEIGHTS)
def test_residual_and_accepted_part_make_up_p(p_weights, q_weights) -> None:
    """min(p, q) is what acceptance yields; the residual, scaled to the rejected mass, must fill up to p."""
    size = min(len(p_weights), len(q_weights))
    p = torch.tensor(p_weights[:size], dtype=torch.float64)
    q = torch.tensor(q_weights[:size], dtype=torch.float64)
    assume(bool(p.any()) and bool(q.any()))
    p, q = p / p.sum(), q / q.sum()
    result = residual(p, q)
    if result.is_fallback:
        assert torch.equal(result.weights, p)
        assert torch.equal(p, q)
    else:
        assert torch.allclose(torch.minimum(p, q) + result.weights, p, atol=1e-15)


def test_residual_leaves_its_arguments_alone() -> None:
    p, q = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])
    assert residual(p, q).weights.tolist() == [0.0, 0.25]
    assert p.tolist() == [0.25, 0.75]
    assert residual(p, p) == (p, True)


def test_signals_come_from_the_raw_law() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]).log()
    first, second = raw_signals(logits, torch.tensor([1, 0]))
    assert first == pytest.approx((1.5 * math.log(2), 0.5, 0.25, 0.25), abs=1e-6)
    assert second == pytest.approx((0.0, 1.0, 1.0, 1.0), abs=1e-6)


def test_signals_of_a_vocabulary_of_one() -> None:
    (signals,) = raw_signals(torch.zeros(1, 1), torch.tensor([0]))
    assert signals == (0.0, 1.0, 1.0, 1.0)


def test_keys_are_issued_once() -> None:
    keys = RequestKeys(seed=5, sample_index=2)
    issued = [keys.next(purpose) for purpose in ("draft", "accept", "recover", "draft")]
    assert len(set(issued)) == 4
    assert {(key.seed, key.sample_index) for key in issued} == {(5, 2)}


def test_coupled_keys_depend_on_the_position_alone() -> None:
    keys = RequestKeys(seed=5)
    before = keys.coupled(9)
    keys.next("draft")
    assert keys.coupled(9) == before == RequestKeys(seed=5).coupled(9)
    assert len({keys.coupled(10), RequestKeys(6).coupled(9), RequestKeys(5, 1).coupled(9), before}) == 4


@given(
    rows=st.lists(
        st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 0.5, 2.0, 6.0]), min_size=12, max_size=12), min_size=1
    ),
    top_p=st.floats(0.01, 0.999),
    num_candidates=st.integers(1, 11),
)
def test_looking_among_candidates_equals_sorting(rows, top_p, num_candidates) -> None:
    """Ties at the edge of the nucleus included, and rows that need sorting beside rows that do not."""
    scores = torch.tensor(rows, dtype=torch.float64)
    mass = scores.softmax(dim=-1).sort(dim=-1, descending=True).values
    assume(float((mass.cumsum(dim=-1) - top_p).abs().min()) > 1e-9)  # else rounding decides
    assert torch.equal(_cut_top_p(scores, top_p, num_candidates), _cut_top_p_by_sorting(scores, top_p))


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_top_p_over_a_large_vocabulary(top_p) -> None:
    scores = 4 * torch.randn(3, 5, 9000, generator=torch.Generator().manual_seed(0))
    scores[0] /= 40  # flat: the candidates do not suffice
    cut = _cut_top_p(scores, top_p)
    assert torch.equal(cut, _cut_top_p_by_sorting(scores, top_p))
    for row, alone in zip(cut.flatten(0, 1), scores.flatten(0, 1), strict=True):
        assert torch.equal(row, _cut_top_p(alone, top_p))
