"""How many tokens fit: the caches of target and draft within a budget, before anything of them is allocated.

Whoever builds an engine and whoever only foretells it ask the same function. Does not know models beyond their facts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evodraft.errors import CapacityError

if TYPE_CHECKING:
    from evodraft.config import EngineConfig
    from evodraft.runtime.support import ModelFacts

_CPU_CACHE_SHARE = 0.25  # of the machine's memory, where no budget is given
_LEAST_LENGTH = 2  # a prompt of one token, and one that is said


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Caches of one engine. They grow with use; sessions that do not fit together take turns."""

    max_length: int  # tokens per sequence; one that is so long may need the whole budget
    max_batch: int
    bytes_per_token: int  # of target and draft together
    budget_bytes: int

    @property
    def budget_tokens(self) -> int:
        """Tokens that the budget holds, rows times columns of the caches."""
        return self.budget_bytes // self.bytes_per_token

    @property
    def cache_bytes(self) -> int:
        """The most that the caches will take: every sequence as long as it may be, or the budget."""
        return min(self.max_batch * self.max_length, self.budget_tokens) * self.bytes_per_token


def plan_cache(
    facts: ModelFacts, draft_bytes_per_token: int, config: EngineConfig, pending_bytes: int = 0
) -> CachePlan:
    """Tokens per sequence: what was asked for, else what context and budget allow; the budget holds one such sequence.

    Args:
        facts: of the target.
        draft_bytes_per_token: of the drafter's cache.
        config: limits of the engine.
        pending_bytes: weights that will take room on the device and do not yet.

    Raises CapacityError if what was asked for does not fit, or not even two tokens do.
    """
    bytes_per_token = facts.bytes_per_token + draft_bytes_per_token
    budget = cache_budget(facts.device, config, pending_bytes)
    fits = budget // bytes_per_token
    context, wanted = facts.context_length, config.max_model_len
    if wanted is not None and context is not None and wanted > context:
        raise CapacityError(f"max_model_len={wanted} exceeds the model's context of {context}; lower it")
    least = wanted or _LEAST_LENGTH
    if fits < least:
        raise CapacityError(
            f"one sequence of {least} tokens needs {bytes_per_token * least / 2**30:.3g} GiB of cache and the "
            f"budget is {budget / 2**30:.3g} GiB; raise kv_cache_gib, or lower max_model_len"
        )
    max_length = min(limit for limit in (context, wanted, fits) if limit is not None)
    return CachePlan(max_length, config.max_batch, bytes_per_token, budget)


def cache_budget(device: torch.device, config: EngineConfig, pending_bytes: int = 0) -> int:
    """Bytes that the caches may take on a device.

    >>> from evodraft.config import EngineConfig
    >>> cache_budget(torch.device("cpu"), EngineConfig(kv_cache_gib=1.5)) == 3 * 2**29
    True
    """
    if config.kv_cache_gib is not None:
        return int(config.kv_cache_gib * 2**30)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, int(total * config.gpu_memory_utilization) - (total - free) - pending_bytes)
    return int(physical_memory() * _CPU_CACHE_SHARE)


def physical_memory() -> int:
    """Bytes of memory in this machine."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 8 * 2**30  # where the system does not tell (Windows); kv_cache_gib overrides it
