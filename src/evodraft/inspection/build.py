"""Puts an inspection together: target, machine, memory, drafter, and what would go wrong.

Everything is read from configs, file headers and the machine; weights are loaded only by `try_out`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Final

import torch

from evodraft.assemble import LoadOptions, find_target
from evodraft.config import EngineConfig
from evodraft.errors import CapacityError
from evodraft.inspection.drafter import DrafterFindings, InspectedTarget, read_drafter
from evodraft.inspection.machine import read_machine
from evodraft.inspection.model import Blueprint, read_model
from evodraft.inspection.report import LoadedReport, MachineReport, MemoryReport, Report, RuntimeChoice
from evodraft.inspection.runtime import described, foretold
from evodraft.llm import LLM
from evodraft.memory import plan_cache
from evodraft.runtime.choose import runtime_of
from evodraft.runtime.placement import chosen_device

_PROMPT: Final = "The history of the world is a history of"
_NUM_TRIED_TOKENS: Final = 16


def inspect_target(
    name: str | os.PathLike[str],
    drafter: str | None = "auto",
    load: LoadOptions | None = None,
    config: EngineConfig | None = None,
) -> Report:
    """What `LLM.from_pretrained` would do with a target, without loading it.

    Args:
        name: "demo", a folder, or a hub id, of which at most configs are fetched.
        drafter: as in `LLM.from_pretrained`, by name.
        load: how it would be loaded.
        config: limits of the engine.

    Raises ModelError if not even the config can be read, and ConfigError for options that do not exist; what else
    would go wrong is in the report's `problems`.

    >>> report = inspect_target("demo", config=EngineConfig(max_batch=1))
    >>> report.can_run, report.drafter.name, report.drafter.tokens.name
    (True, 'eagle', 'same')
    """
    load, config = load or LoadOptions(), config or EngineConfig()
    device = chosen_device(load.device)
    source = find_target(name)
    target = read_model(source.name, load.dtype, load.revision, trust_remote_code=load.trust_remote_code)
    drafting = read_drafter(drafter, InspectedTarget(source, target, load))
    machine = read_machine(device)
    runtime = foretold(target, device, load.runtime_options, target.report.weight_bytes)
    problems = [*target.problems, *runtime.problems, *drafting.problems]
    try:
        memory = _memory(target, drafting, runtime.copied_bytes, config, device, machine)
    except CapacityError as error:
        memory = None
        problems.append(str(error))
    return Report(
        target=target.report,
        machine=machine,
        runtime=runtime.choice,
        drafter=drafting.report,
        memory=memory,
        problems=tuple(problems),
        warnings=tuple(_warnings(target, drafting, machine, memory, config)),
        python=_python_line(name, drafter, load, config),
    )


def try_out(
    name: str | os.PathLike[str],
    drafter: str | None = "auto",
    load: LoadOptions | None = None,
    config: EngineConfig | None = None,
) -> LoadedReport:
    """Loads the target for real and lets it say a few tokens, plainly and with drafts. Raises what loading raises."""
    options = _options(drafter, load or LoadOptions(), config or EngineConfig())
    said: dict[str, Any] = {"max_new_tokens": _NUM_TRIED_TOKENS, "ignore_eos": True}
    with LLM.from_pretrained(name, **options) as llm:
        target, used = llm.engine.target.decoder, llm.engine.drafter
        plain = llm.generate(_PROMPT, speculative=False, **said)
        fast = llm.generate(_PROMPT, **said)
        pairs = zip(plain.token_ids, fast.token_ids, strict=True)
        num_equal = next((i for i, (left, right) in enumerate(pairs) if left != right), len(plain.token_ids))
        draft_runtime = _chosen(getattr(used, "decoder", None))
        return LoadedReport(
            drafter=None if used is None else type(used).__name__,
            max_model_len=target.max_length,
            num_tokens=len(plain.token_ids),
            num_equal_tokens=num_equal,
            acceptance_rate=fast.stats.acceptance_rate,
            runtime=_chosen(target),
            draft_runtime=draft_runtime and replace(draft_runtime, numerics=None),
        )


def _chosen(decoder: object) -> RuntimeChoice | None:
    """What a decoder was made by, in words; None of a decoder that nobody chose."""
    runtime = runtime_of(decoder)
    return None if runtime is None else described(runtime.report, str(runtime.facts.dtype).removeprefix("torch."))


def _memory(
    target: Blueprint,
    drafting: DrafterFindings,
    copied_bytes: int,
    config: EngineConfig,
    device: torch.device,
    machine: MachineReport,
) -> MemoryReport | None:
    """None if one of them cannot be decoded at all. Raises CapacityError for what does not fit."""
    draft = drafting.draft
    if target.facts is None or (draft is not None and draft.report.cache_bytes_per_token is None):
        return None
    weight_bytes = target.report.weight_bytes + (draft.report.weight_bytes if draft else 0)
    weight_bytes += copied_bytes + drafting.copied_bytes
    limit = machine.free_bytes if device.type == "cuda" else machine.memory_bytes
    if weight_bytes > limit:
        raise CapacityError(
            f"the weights take {weight_bytes / 2**30:.1f} GiB and {machine.device} has {limit / 2**30:.1f} GiB; take a "
            "smaller dtype, a smaller model, or another device"
        )
    draft_bytes_per_token = (draft.report.cache_bytes_per_token or 0) if draft else 0
    facts = replace(target.facts, device=device)
    plan = plan_cache(facts, draft_bytes_per_token, config, pending_bytes=weight_bytes)
    needed = weight_bytes + plan.cache_bytes
    return MemoryReport(
        max_batch=config.max_batch,
        max_model_len=plan.max_length,
        weight_bytes=weight_bytes,
        cache_bytes_per_token=plan.bytes_per_token,
        cache_bytes=plan.cache_bytes,
        cache_budget_bytes=plan.budget_bytes,
        cache_budget_tokens=plan.budget_tokens,
        needed_bytes=needed,
        free_bytes=machine.free_bytes,
        is_enough=needed <= machine.free_bytes,
    )


def _warnings(
    target: Blueprint,
    drafting: DrafterFindings,
    machine: MachineReport,
    memory: MemoryReport | None,
    config: EngineConfig,
) -> Iterator[str]:
    yield from target.warnings
    yield from drafting.warnings
    if target.report.dtype == "bfloat16" and machine.has_bfloat16 is False:
        yield (
            f"{machine.device_name} has no instructions for bfloat16, which is then emulated; dtype='float32' may be "
            "faster"
        )
    if target.report.dtype == "float16" and machine.device == "cpu":
        yield "float16 is slow on most processors; dtype='bfloat16' or 'float32' may be faster"
    if memory is not None:
        yield from _memory_warnings(target, memory, config)


def _memory_warnings(target: Blueprint, memory: MemoryReport, config: EngineConfig) -> Iterator[str]:
    if not memory.is_enough:
        yield (
            f"{memory.needed_bytes / 2**30:.1f} GiB may be needed and {memory.free_bytes / 2**30:.1f} GiB are free: "
            "close other programs, lower max_batch or max_model_len, or take a smaller dtype or model"
        )
    context = target.report.context_length
    if config.max_model_len is None and context is not None and memory.max_model_len < context:
        yield (
            f"sequences are limited to {memory.max_model_len} of the model's {context} tokens by memory; raise "
            "kv_cache_gib for longer ones"
        )
    num_together = memory.cache_budget_tokens // memory.max_model_len
    if num_together < config.max_batch:
        yield (
            f"of sequences of {memory.max_model_len} tokens, the caches hold {num_together} at once, and max_batch is "
            f"{config.max_batch}: others wait in line; ask for shorter ones or raise kv_cache_gib"
        )


def _options(drafter: str | None, load: LoadOptions, config: EngineConfig) -> dict[str, Any]:
    """Keywords of `LLM.from_pretrained`, without those that are the default anyway."""
    options: dict[str, Any] = {} if drafter == "auto" else {"drafter": drafter}
    for part in (load, config):
        for field in fields(part):
            value = getattr(part, field.name)
            if value != field.default:
                options[field.name] = str(value).removeprefix("torch.") if field.name == "dtype" else value
    return options


def _python_line(name: str | os.PathLike[str], drafter: str | None, load: LoadOptions, config: EngineConfig) -> str:
    options = "".join(f", {key}={value!r}" for key, value in _options(drafter, load, config).items())
    return f"LLM.from_pretrained({os.fspath(name)!r}{options})"
