"""Costs of synthetic pairs: complete, marked, and with the acceptance that was decreed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evodraft.assemble import LoadOptions
from evodraft.bench.contestants import Answer, Outcome
from evodraft.bench.own import Method
from evodraft.bench.synthetic import Workload, forced_costs, head_costs, mean_acceptance_length, random_pair
from evodraft.errors import BenchError, ConfigError

_WORKLOAD = Workload(num_draft_tokens=3, num_prompt_tokens=5, max_new_tokens=41, repeats=1)


def test_plain_and_forced_at_every_batch_size() -> None:
    pair = random_pair("tiny", "float32", "cpu")
    costs = forced_costs(pair, (0.5, 1.0), (1, 3), _WORKLOAD, LoadOptions())
    assert [(cost.batch_size, cost.rate) for cost in costs] == [(n, rate) for n in (1, 3) for rate in (None, 0.5, 1.0)]
    for cost in costs:
        assert cost.tokens_per_s > 0
        assert cost.speed_up > 0
        assert cost.note.startswith("random weights in the shape of tiny")
        assert ("forced acceptance" in cost.note) == (cost.rate is not None)
        expected = 1.0 if cost.rate is None else mean_acceptance_length(cost.rate, 3)
        assert cost.mean_acceptance_length == pytest.approx(expected, abs=0.15)
    assert [cost.speed_up for cost in costs if cost.rate is None] == [1.0, 1.0]


def test_a_pair_without_a_draft_is_refused() -> None:
    pair = random_pair("tiny", "float32", "cpu", num_draft_layers=0)
    with pytest.raises(ConfigError, match="needs a draft model"):
        forced_costs(pair, (0.5,), (1,), _WORKLOAD, LoadOptions())


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(BenchError, match="from 0 to 1"):
        forced_costs(random_pair("tiny", "float32", "cpu"), (2.0,), (1,), _WORKLOAD, LoadOptions())


def test_an_answer_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Outcome((Answer((), error="out of luck"),), 1.0)
    monkeypatch.setattr(Method, "generate", lambda self, asks: failed)
    with pytest.raises(BenchError, match="plain: out of luck"):
        forced_costs(random_pair("tiny", "float32", "cpu"), (0.5,), (1,), _WORKLOAD, LoadOptions())


def test_heads_of_every_vocabulary_and_width() -> None:
    shapes: list[torch.Size] = []

    def timer(action: Callable[[], object]) -> float:
        product = action()
        assert isinstance(product, torch.Tensor)
        shapes.append(product.shape)
        return 2e-3

    costs = head_costs(8, (16, 32), torch.bfloat16, "cpu", widths=(1, 4), timer=timer)
    assert [(cost.vocab_size, cost.num_tokens, cost.ms) for cost in costs] == [
        (vocab_size, width, pytest.approx(2.0)) for vocab_size in (16, 32) for width in (1, 4)
    ]
    assert set(shapes) == {(1, 16), (4, 16), (1, 32), (4, 32)}
