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


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Caches of one engine. They grow with use and never beyond `cache_bytes`."""

    max_length: int  # tokens per sequence
    bytes_per_token: int  # of target and draft together
    cache_bytes: int  # if every sequence is as long as it may be
    budget_bytes: int


def plan_cache(
    facts: ModelFacts, draft_bytes_per_token: int, config: EngineConfig, pending_bytes: int = 0
) -> CachePlan:
    """Tokens per sequence: what was asked for if it fits, else what context and memory allow.

    Args:
        facts: of the target.
        draft_bytes_per_token: of the drafter's cache.
        config: limits of the engine.
        pending_bytes: weights that will take room on the device and do not yet.

    Raises CapacityError if what was asked for does not fit, or not even two tokens do.
    """
    bytes_per_token = facts.bytes_per_token + draft_bytes_per_token
    budget = cache_budget(facts.device, config, pending_bytes)
    fits = budget // (config.max_batch * bytes_per_token)
    context = facts.context_length or fits
    wanted = config.max_model_len
    if wanted is not None and wanted > context:
        raise CapacityError(f"max_model_len={wanted} exceeds the model's context of {context}; lower it")
    length = min(wanted or context, context)
    if fits < (length if wanted is not None else 2):
        raise CapacityError(
            f"{config.max_batch} sequences of {length} tokens need "
            f"{config.max_batch * bytes_per_token * length / 2**30:.3g} GiB of cache and the budget is "
            f"{budget / 2**30:.3g} GiB; raise kv_cache_gib, or lower max_model_len or max_batch"
        )
    length = min(length, fits)
    return CachePlan(length, bytes_per_token, config.max_batch * bytes_per_token * length, budget)


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
