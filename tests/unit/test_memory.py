"""Budgets, and how long sequences may be within them."""

from __future__ import annotations

import os
from dataclasses import replace

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
    assert plan == CachePlan(2**30 // 6000, 1500, 2**30 // 6000 * 6000, 2**30)


def test_a_plan_counts_what_is_used_and_not_what_could_be(facts: ModelFacts) -> None:
    plan = plan_cache(replace(facts, context_length=100), 0, EngineConfig(max_batch=4, kv_cache_gib=1.0))
    assert (plan.max_length, plan.cache_bytes) == (100, 4 * 1000 * 100)


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
