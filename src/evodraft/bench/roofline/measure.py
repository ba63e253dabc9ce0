"""Measures a roofline: limits of target and draft, plain decoding, passes. Does not show it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from evodraft.bench.environment import describe_machine, describe_model
from evodraft.bench.roofline.kernels import KERNELS, last_level_cache_bytes
from evodraft.bench.roofline.passes import Passes, check_context, pass_costs, plain_ms
from evodraft.bench.roofline.reads import read_cache_bytes, read_weights
from evodraft.bench.roofline.record import KernelSpeed, Limit, Roofline, Speculation, check_speculation
from evodraft.bench.roofline.timing import Timer, median_ms, timer_for
from evodraft.inspection.machine import read_machine
from evodraft.machine import software_versions, source_commit
from evodraft.runtime.support import ModelFacts

if TYPE_CHECKING:
    import torch

    from evodraft.assemble import LoadedTarget

_WIDTHS: Final = (1, 2, 4, 8)  # tokens scored in one pass
_MAX_MEASURED_S: Final = 20.0  # for one kernel, or for all passes of one model


def measure_roofline(
    target: LoadedTarget,
    draft: torch.nn.Module | None = None,
    *,
    name: str = "target",
    context: int = 128,
    repeats: int = 15,
    mean_acceptance_length: float | None = None,
    num_draft_tokens: int | None = None,
    synthetic: str | None = None,
    timer: Timer | None = None,
) -> Roofline:
    """What reading allows for a target (and a draft model), and what this runtime takes.

    Args:
        target: as `evodraft.assemble.load_target` gives it; measured on its device, in its dtype, at torch's threads.
        draft: a draft model on the same device.
        name: of the target, for the record: demo, a folder or a hub id.
        context: tokens that a sequence has when its passes are measured.
        repeats: of every sweep and pass; less where they are slow, at least three.
        mean_acceptance_length: with `num_draft_tokens`, what speculation could reach.
        num_draft_tokens: drafted in a round.
        synthetic: why the weights are no real model's.
        timer: runs a function and returns its seconds; None = events on CUDA, else the wall clock.

    Raises BenchError for a model whose bytes per token are not known, and for lengths that cannot be.

    >>> from evodraft.assemble import LoadedTarget
    >>> from evodraft.testing.tiny import tiny_model
    >>> roofline = measure_roofline(LoadedTarget(tiny_model("llama"), None), repeats=3)
    >>> roofline.target.read_bytes.head
    8192
    """
    check_speculation(mean_acceptance_length, num_draft_tokens)
    widths = {*_WIDTHS, 1 + (num_draft_tokens or 0)}
    for model in filter(None, (target.model, draft)):
        check_context(model, context, max(widths))
    device = ModelFacts.of(target.model).device
    passes = Passes(context, repeats, _MAX_MEASURED_S, timer or timer_for(device))
    measured = Roofline(
        model=describe_model(name, target, synthetic),
        date=datetime.now(UTC).date().isoformat(),
        commit=source_commit(),
        machine=describe_machine(device),
        versions=software_versions(),
        context=context,
        repeats=repeats,
        target=_limit(target.model, passes),
        plain_ms=plain_ms(target, passes),
        passes=pass_costs(target.model, widths, passes),
        cache_bytes=last_level_cache_bytes(device),
        draft=None if draft is None else _limit(draft, passes),
        draft_step_ms=None if draft is None else pass_costs(draft, [1], passes)[0].ms,
    )
    if mean_acceptance_length is None or num_draft_tokens is None:
        return measured
    return replace(measured, speculation=Speculation.at(mean_acceptance_length, num_draft_tokens, measured))


def _limit(model: Any, passes: Passes) -> Limit:
    """Sweeps of every kernel that can run, one kernel after the other: each may hold a copy of the weights."""
    reads = read_weights(model)
    matrices = reads.in_order()
    speeds, left_out = [], {}
    for name, kernel in KERNELS.items():
        problem = kernel.problem(matrices, read_machine(matrices[0].device).free_bytes)
        if problem is not None:
            left_out[name] = problem
            continue
        ms = median_ms({name: kernel.prepare(matrices)}, passes.timer, passes.repeats, passes.max_s)[name]
        speeds.append(KernelSpeed(name, ms, sum(matrix.nbytes for matrix in matrices) / ms / 1e6))
    return Limit(reads.count(read_cache_bytes(model, passes.context)), tuple(speeds), left_out)
