"""The keyed noise: exponential, independent over everything that is in a key, and never infinite or NaN."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from evodraft import sampling
from evodraft.params import LawParams
from evodraft.sampling import HashedStream, NoiseKey, RequestKeys, exponential_noise, to_law
from evodraft.testing import chi_square_p_value

MIN_P_VALUE = 1e-4  # seeds are fixed: a test passes always or never
NUM_CELLS = 32
NUM_IDS = 4096


def uniforms(keys: list[NoiseKey], num_ids: int = NUM_IDS) -> torch.Tensor:
    """What the noise was made from: [keys, ids] in 0 .. 1."""
    return 1.0 - torch.exp(-exponential_noise(keys, num_ids).double())


def fits(values: torch.Tensor, num_cells: int = NUM_CELLS) -> float:
    counts = Counter((values.flatten() * num_cells).long().clamp(max=num_cells - 1).tolist())
    return chi_square_p_value(counts, dict.fromkeys(range(num_cells), 1 / num_cells))


def fit_of_pairs(first: torch.Tensor, second: torch.Tensor, num_cells: int = 8) -> float:
    """Whether two series are independent and uniform together."""
    cells = (first * num_cells).long() * num_cells + (second * num_cells).long()
    counts = Counter(cells.flatten().tolist())
    return chi_square_p_value(counts, dict.fromkeys(range(num_cells**2), num_cells**-2))


def coupled_keys(num: int, seed: int = 0, sample_index: int = 0) -> list[NoiseKey]:
    return [RequestKeys(seed, sample_index).coupled(position) for position in range(num)]


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5])
def test_noise_is_exponential(seed) -> None:
    noise = exponential_noise(coupled_keys(16, seed), NUM_IDS).double()
    assert fits(1.0 - torch.exp(-noise)) > MIN_P_VALUE
    assert noise.mean().item() == pytest.approx(1.0, abs=0.02)
    assert noise.var().item() == pytest.approx(1.0, abs=0.05)


def test_each_position_is_uniform_over_ids_and_each_id_over_positions() -> None:
    values = uniforms(coupled_keys(512), 64)
    assert fits(values[:, 3]) > MIN_P_VALUE
    assert min(fits(uniforms([key])[0]) for key in coupled_keys(20)) > MIN_P_VALUE


def test_neighbouring_ids_are_independent() -> None:
    values = uniforms(coupled_keys(16))
    for lag in (1, 2, 256):
        assert fit_of_pairs(values[:, :-lag], values[:, lag:]) > MIN_P_VALUE


def test_neighbouring_positions_are_independent() -> None:
    values = uniforms(coupled_keys(17))
    for lag in (1, 2, 8):
        assert fit_of_pairs(values[:-lag], values[lag:]) > MIN_P_VALUE


def test_samples_of_one_prompt_and_neighbouring_seeds_are_independent() -> None:
    base = uniforms(coupled_keys(16))
    assert fit_of_pairs(base, uniforms(coupled_keys(16, sample_index=1))) > MIN_P_VALUE
    assert fit_of_pairs(base, uniforms(coupled_keys(16, seed=1))) > MIN_P_VALUE


def test_purposes_are_independent() -> None:
    ordinals = range(1, 17)
    draft = uniforms([NoiseKey(0, 0, "draft", ordinal) for ordinal in ordinals])
    for purpose in ("recover", "coupled"):
        other = uniforms([NoiseKey(0, 0, purpose, ordinal) for ordinal in ordinals])
        assert fit_of_pairs(draft, other) > MIN_P_VALUE


def test_successive_winners_are_independent() -> None:
    """The chosen tokens themselves, not only the noise below them."""
    law = torch.tensor([0.5, 0.25, 0.125, 0.125])
    keys = coupled_keys(8001)
    tokens = HashedStream().draw(law.expand(len(keys), 4), keys).tolist()
    wanted = {(a, b): (law[a] * law[b]).item() for a in range(4) for b in range(4)}
    assert chi_square_p_value(Counter(pairwise(tokens)), wanted) > MIN_P_VALUE


def test_a_subset_of_ids_has_the_noise_of_the_whole() -> None:
    keys = coupled_keys(3)
    whole = exponential_noise(keys, 1000)
    ids = torch.tensor([999, 0, 17, 500], dtype=torch.int32)
    assert torch.equal(exponential_noise(keys, 4, ids=ids), whole[:, ids.long()])
    assert torch.equal(exponential_noise(keys, 10), whole[:, :10])


def test_a_key_has_the_same_noise_in_any_batch() -> None:
    keys = coupled_keys(9)
    together = exponential_noise(keys, 50)
    for row, key in enumerate(keys):
        assert torch.equal(exponential_noise([key], 50)[0], together[row])


@pytest.mark.parametrize("word", [0, 1, -1, 2**31 - 1, -(2**31), 255, 256, -256])
def test_extreme_hashes_give_usable_noise(monkeypatch, word) -> None:
    monkeypatch.setattr(sampling, "_mix", lambda words: torch.full_like(words, word))
    noise = exponential_noise(coupled_keys(2), 5)
    assert noise.dtype == torch.float32
    assert noise.isfinite().all()
    assert (noise > 0).all()
    position = ((word % 2**32) + 0.5) / 2**32
    assert noise[0, 0].item() == pytest.approx(min(-math.log1p(-position), 24 * math.log(2)), rel=1e-4)


@pytest.mark.parametrize("word", [0, -1])
def test_ties_go_to_the_lowest_id_and_impossible_ids_never_win(monkeypatch, word) -> None:
    monkeypatch.setattr(sampling, "_mix", lambda words: torch.full_like(words, word))
    laws = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 1e-30, 1e-30]])
    assert HashedStream().draw(laws, coupled_keys(3)).tolist() == [0, 1, 2]


def test_the_race_is_argmin_of_noise_over_weight() -> None:
    law = torch.tensor([0.1, 0.2, 0.0, 0.7])
    keys = coupled_keys(200)
    noise = exponential_noise(keys, 4)
    wanted = [min((noise[row, i].item() / p, i) for i, p in enumerate(law.tolist()) if p)[1] for row in range(200)]
    assert HashedStream().draw(law.expand(200, 4), keys).tolist() == wanted


def test_one_hot_rows_need_no_noise_and_say_what_the_race_says() -> None:
    rows = torch.eye(4)[[2, 0, 3]]
    keys = coupled_keys(4)
    alone = HashedStream().draw(rows, keys[:3]).tolist()
    beside_another = HashedStream().draw(torch.cat([rows, torch.full((1, 4), 0.25)]), keys).tolist()
    assert alone == beside_another[:3] == [2, 0, 3]


def test_accept_has_its_probability() -> None:
    keys = RequestKeys(seed=3)
    counts = Counter(HashedStream().accept(0.3, 0.4, keys.next("accept")) for _ in range(4000))
    assert chi_square_p_value(counts, {True: 0.75, False: 0.25}) > MIN_P_VALUE
    assert all(HashedStream().accept(0.5, 0.5, keys.next("accept")) for _ in range(100))
    assert not any(HashedStream().accept(0.0, 0.5, keys.next("accept")) for _ in range(100))


@pytest.mark.parametrize("vocab_size", [3, 1000, 4097])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_bitwise_the_same_law_in_any_batch(vocab_size, dtype) -> None:
    """Or a near-tie of the race could fall to another token beside other rows."""
    logits = torch.randn(8, 3, vocab_size, generator=torch.Generator().manual_seed(1)).mul(3).to(dtype)
    for params in (LawParams(1.0), LawParams(0.7, 40, 0.9, 0.01)):
        together = to_law(logits, params)
        for row in range(8):
            assert torch.equal(to_law(logits[row : row + 1, :1], params)[0, 0], together[row, 0])
