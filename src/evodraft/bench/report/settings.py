"""What a report says in words: what was measured, on what, by whom, and how quiet it was. Does not know a layout."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from evodraft.bench.report.tables import spread
from evodraft.bench.result import ALL, MAX_NOISE_WIDTH, ConditionRecord, ContestantRecord, Result


def described(condition: ConditionRecord) -> str:
    """Temperature, verifier (which has no choice at temperature 0), and what differs from the usual.

    >>> described(ConditionRecord("greedy", 0.0, 1.1, 1, "rejection", None, (7,)))
    'temperature 0, repetition penalty 1.1'
    """
    parts = [f"temperature {condition.temperature:g}", *([condition.verifier] if condition.temperature else [])]
    if condition.repetition_penalty != 1:
        parts.append(f"repetition penalty {condition.repetition_penalty:g}")
    if condition.batch_size != 1:
        parts.append(f"batch of {condition.batch_size}")
    if condition.prompt_tokens is not None:
        parts.append(f"prompts of {condition.prompt_tokens:,} tokens")
    return ", ".join(parts)


def introduced(contestant: ContestantRecord) -> str:
    """Options, versions and label of a contestant on one line, "" if it has none."""
    parts = [", ".join(f"{key} = {value}" for key, value in contestant.options.items())]
    parts += [", ".join(f"{key} {value}" for key, value in contestant.versions.items())]
    parts += [contestant.label, "" if contestant.is_exact else "inexact"]
    parts += [f"synthetic: {contestant.synthetic}" if contestant.synthetic else ""]
    return "; ".join(filter(None, parts))


def listed(result: Result) -> Iterator[tuple[str, str]]:
    """What was measured, on what and how: a label and its text."""
    suite, model, machine = result.suite, result.model, result.machine
    yield "suite", f"{suite.name}{' (quick: fewer prompts)' if suite.is_quick else ''}, file {suite.sha256[:12]}"
    yield "model", ", ".join(filter(None, [model.name, size(model.num_parameters), model.dtype, model.synthetic]))
    yield "weights", f"manifest {model.sha256[:12]}" if model.sha256 else "no manifest"
    yield "machine", ", ".join(filter(None, [machine.processor, machine.accelerator, " ".join(machine.features)]))
    yield "threads", f"{machine.threads} ({machine.num_cores} cores, {machine.memory_gib:.1f} GiB of memory)"
    yield "asked", asked(result)
    yield "prompts", f"{', '.join(suite.sources)}; token ids {suite.prompts_sha256[:12]}"
    yield "baseline", result.baseline
    yield "seeds", _seeds(result)
    yield "versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())
    yield "commit", result.commit or "not known"
    yield "date", f"{result.date}, took {duration(result.seconds)}"
    if result.command:
        yield "command", shlex.join(result.command)
    yield from (("note", text) for text in result.notes)


def asked(result: Result) -> str:
    """How many prompts, repeats and tokens."""
    prompts, repeats = (
        {getattr(r, name) for r in result.rows if r.group == ALL} for name in ("num_prompts", "num_repeats")
    )
    counts = [f"{_range(numbers)} {word}" for numbers, word in ((prompts, "prompts"), (repeats, "repeats")) if numbers]
    return ", ".join([*counts, f"up to {result.suite.max_new_tokens} new tokens", f"seed {result.seed}"])


def _seeds(result: Result) -> str:
    """Of the first prompt, one for each repeat."""
    of_condition = {condition.name: ", ".join(map(str, condition.seeds)) for condition in result.conditions}
    if len(set(of_condition.values())) == 1:
        return next(iter(of_condition.values()))
    return "; ".join(f"{name}: {seeds}" for name, seeds in of_condition.items())


def _range(numbers: set[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if len(numbers) > 1 else str(*numbers)


def size(num_parameters: int) -> str:
    """
    >>> size(12_300_000), size(8_030_000_000)
    ('12.3M parameters', '8.0B parameters')
    """
    if num_parameters >= 1e9:
        return f"{num_parameters / 1e9:.1f}B parameters"
    return f"{num_parameters / 1e6:.1f}M parameters"


def duration(seconds: float) -> str:
    """
    >>> duration(154), duration(48.2), duration(7500)
    ('2 min 34 s', '48 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def noise(result: Result) -> tuple[bool, str]:
    """Whether the machine was quiet enough, and what the baseline gives against itself."""
    found = result.noise
    if found is None:
        return False, "not measured: what a difference is worth on this machine is not known"
    measured = f"{result.baseline} against itself ({found.condition}): {spread(found.interval)}"
    if found.is_quiet:
        return True, f"{measured}; differences below its width are noise"
    return False, (
        f"machine too noisy: {measured}; it must hold 1.00 and be narrower than {MAX_NOISE_WIDTH:g}. "
        "Figures of this run prove nothing: repeat it on an idle machine"
    )


def synthetic(result: Result) -> list[str]:
    """What of the result is synthetic, and why."""
    model = [f"model: {result.model.synthetic}"] if result.model.synthetic else []
    return model + [f"{c.name}: {c.synthetic}" for c in result.contestants if c.synthetic]
