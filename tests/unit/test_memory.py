"""Budgets, and how long sequences may be within them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

import pytest
import torch

from evodraft.config import EngineConfig
from evodraft.errors import CapacityError
from evodraft.memory import CachePlan, cache_budget, plan_cache
from evodraft.runtime.support import ModelFacts
from evodraft.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return replace(ModelFacts.of(tiny_model("llama")), bytes_per_token=1000, context_length=None)


def test_a_model_that_names_no_context_gets_what_memory_allows(facts: ModelFacts) -> None:
    plan = plan_cache(facts, 500, EngineConfig(max_batch=4, kv_cache_gib=1.0))
    assert plan == CachePlan(2**30 // 1500, 4, 1500, 2**30)
    assert (plan.budget_tokens, plan.cache_bytes) == (2**30 // 1500, 2**30 // 1500 * 1500)


def test_a_plan_counts_what_is_used_and_not_what_could_be(facts: ModelFacts) -> None:
    plan = plan_cache(replace(facts, context_length=100), 0, EngineConfig(max_batch=4, kv_cache_gib=1.0))
    assert (plan.max_length, plan.cache_bytes) == (100, 4 * 1000 * 100)


LEAST_BUDGET: Final = 0.001  # GiB; 1073 tokens of 1000 bytes
LENGTHS: Final = [  # context, max_model_len, max_batch, length
    (None, None, 1, 1073),
    (None, 300, 8, 300),
    (100, None, 8, 100),
    (2048, None, 1, 1073),
    (2048, None, 1024, 1073),
    (2048, 1073, 8, 1073),
    (2048, 100, 1024, 100),
]


@pytest.mark.parametrize(("context", "wanted", "max_batch", "length"), LENGTHS)
def test_one_sequence_may_use_the_whole_budget(
    facts: ModelFacts, context: int | None, wanted: int | None, max_batch: int, length: int
) -> None:
    config = EngineConfig(max_batch, wanted, kv_cache_gib=LEAST_BUDGET)
    plan = plan_cache(replace(facts, context_length=context), 0, config)
    assert (plan.max_length, plan.budget_tokens) == (length, 1073)
    assert plan.cache_bytes == min(max_batch * length, 1073) * 1000 <= plan.budget_bytes


def test_slots_that_all_fit_are_planned_for(facts: ModelFacts) -> None:
    """Eight sequences of the whole context within the budget, as for the demo: nobody ever waits for tokens."""
    plan = plan_cache(replace(facts, context_length=2048), 0, EngineConfig(kv_cache_gib=1.0))
    assert plan.max_length == 2048
    assert plan.max_batch * plan.max_length <= plan.budget_tokens


REFUSED: Final = [  # bytes per token, context, max_model_len, message
    (1000, 2048, 1074, "one sequence of 1074 tokens needs 0.001 GiB of cache and the budget is 0.001 GiB; raise"),
    (1000, 2048, 2049, "max_model_len=2049 exceeds the model's context of 2048; lower it"),
    (1000, None, 4096, "one sequence of 4096 tokens needs 0.00381 GiB of cache and the budget is 0.001 GiB; raise"),
    (2**20, 2048, None, "one sequence of 2 tokens needs 0.00195 GiB of cache and the budget is 0.001 GiB; raise"),
]


@pytest.mark.parametrize(("bytes_per_token", "context", "wanted", "message"), REFUSED)
def test_what_does_not_fit_alone_is_refused(
    facts: ModelFacts, bytes_per_token: int, context: int | None, wanted: int | None, message: str
) -> None:
    one = replace(facts, bytes_per_token=bytes_per_token, context_length=context)
    with pytest.raises(CapacityError, match=message):
        plan_cache(one, 0, EngineConfig(max_model_len=wanted, kv_cache_gib=LEAST_BUDGET))


def test_two_tokens_are_the_least(facts: ModelFacts) -> None:
    assert plan_cache(replace(facts, bytes_per_token=2**19), 0, EngineConfig(kv_cache_gib=LEAST_BUDGET)).max_length == 2


def test_weights_that_are_still_to_come_take_room_on_a_gpu(facts: ModelFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    on_gpu, config = replace(facts, device=torch.device("cuda")), EngineConfig(max_batch=1)
    assert plan_cache(on_gpu, 0, config).max_length == 900_000
    assert plan_cache(on_gpu, 0, config, pending_bytes=4 * 10**8).max_length == 500_000
    with pytest.raises(CapacityError, match="the budget is 0 GiB"):
        plan_cache(on_gpu, 0, config, pending_bytes=10**9)


def test_the_budget_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    cpu = torch.device("cpu")
    assert cache_budget(cpu, EngineConfig()) == 4096 * 1000 // 4
    assert cache_budget(cpu, EngineConfig(), pending_bytes=10**9) == 4096 * 1000 // 4
    assert cache_budget(cpu, EngineConfig(kv_cache_gib=0.5)) == 2**29
    monkeypatch.delattr(os, "sysconf")
    assert cache_budget(cpu, EngineConfig()) == 2 * 2**30, "a quarter of what nearly all machines have"


@pytest.mark.parametrize(
    ("free", "total", "share", "budget"),
    [(600, 1000, 0.9, 500), (1000, 1000, 0.5, 500), (50, 1000, 0.9, 0)],
)
def test_the_budget_of_a_gpu(free: int, total: int, share: float, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share counts what is taken already, weights of target and draft included."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
    config = EngineConfig(gpu_memory_utilization=share)
    assert cache_budget(torch.device("cuda"), config) == budget
