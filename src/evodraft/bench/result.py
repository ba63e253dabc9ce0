"""The result of one benchmark run, as it is written to JSON. Frozen data; figures are computed elsewhere.

Every number says what it is by its name and unit; definitions in docs/glossary.md. None = not known, or not to be
said because an item of the row failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from evodraft.bench.contestants import Kind, Memory

SCHEMA: Final = "evodraft.bench/1"
MIN_DISTINCT_4: Final = 0.6  # greedy rows with drafts and outputs more repetitive than this do not count
MAX_NOISE_WIDTH: Final = 0.06  # of the control's interval
ALL: Final = "all"  # the group of rows over every prompt
VARIED: Final = "varied"  # of greedy rows over the prompts that the baseline answers without looping
CONTROL: Final = "control"  # the contestant that is the baseline once more

CheckKind = Literal["equality", "distribution", "none"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A median of ratios and its bootstrap interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Check:
    """Whether the outputs of a row are what the target says.

    `equality`: every token is the target's own choice, up to a deficit that rounding explains. `distribution`: the
    tokens' places in the target's laws are spread evenly. `none`: the contestant does not claim the target's law.
    """

    kind: CheckKind
    is_passed: bool
    num_identical: int | None = None  # outputs that equal the baseline's token by token
    num_outputs: int = 0
    worst_deficit_nats: float | None = None  # of log-probability (plus noise), best token over emitted token
    tolerance_nats: float | None = None
    p_value: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Mean milliseconds of one round, by what they were spent on."""

    draft_ms: float
    verify_ms: float  # the target's pass
    overhead_ms: float  # everything else: planning, verdicts, commits, Python
    learn_ms: float


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant on one group of prompts under one condition."""

    group: str  # domain or task; ALL = every prompt of the condition, VARIED = where greedy text does not loop
    condition: str
    contestant: str
    num_prompts: int
    num_repeats: int
    num_tokens: int = 0
    error: str | None = None  # a failed item fails the row: then there are no figures
    speed_up: Interval | None = None  # tokens/s of decoding, over the baseline; None for peers that cannot tell
    request_speed_up: Interval | None = None  # tokens/s of whole requests, reading the prompt included
    replayed_speed_up: float | None = None  # counts x mean measured costs
    tokens_per_s: float | None = None  # of decoding
    request_tokens_per_s: float | None = None
    mean_acceptance_length: float | None = None
    acceptance_rate: float | None = None
    tokens_per_target_pass: float | None = None
    per_position_rates: tuple[float, ...] = ()  # rounds accepting position i / rounds
    distinct_4: float | None = None  # different 4-grams / 4-grams within one output, mean over outputs
    is_counted: bool = False  # fit to be quoted: no error, exact, real, checks passed, varied at temperature 0
    check: Check | None = None
    time_split: TimeSplit | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is known that nothing was drafted: then its speed does not depend on what was said."""
        return self.tokens_per_target_pass is not None and self.acceptance_rate is None


class Item(NamedTuple):
    """One answer (of a batch: all its answers together), in the order in which they were measured."""

    number: int  # of the prompt or batch within its condition
    group: str
    condition: str
    contestant: str
    repeat: int
    num_tokens: int
    request_s: float
    decode_s: float | None
    num_rounds: int | None
    num_draft_tokens: int | None
    num_accepted_tokens: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class ConditionRecord:
    """Under what the prompts were asked."""

    name: str
    temperature: float
    repetition_penalty: float
    batch_size: int
    verifier: str
    prompt_tokens: int | None  # prompts of exactly this length; None = as they are
    seeds: tuple[int, ...]  # of the first prompt, one for each repeat


@dataclass(frozen=True, slots=True)
class ContestantRecord:
    """Who took part."""

    name: str
    kind: Kind
    options: Mapping[str, object]
    versions: Mapping[str, str]
    is_exact: bool
    synthetic: str | None
    label: str
    memory: Memory | None


@dataclass(frozen=True, slots=True)
class SuiteRecord:
    """What was asked."""

    name: str
    sha256: str  # of the suite's file
    prompts_sha256: str  # of the token ids of all prompts in order
    sources: tuple[str, ...]
    is_quick: bool
    max_new_tokens: int
    phases: tuple[str, ...]  # of a shifting stream: groups in order, each as many prompts as the others


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Which target, and which weights exactly."""

    name: str
    sha256: str | None  # of the manifest of its files (demo: of the bundle); None for objects
    num_parameters: int
    dtype: str
    synthetic: str | None  # e.g. "random weights, 4 of 32 layers"


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """Where it ran."""

    processor: str
    features: tuple[str, ...]  # instruction sets that matter: amx_bf16, avx512_bf16, ...
    num_cores: int
    threads: int  # that torch used; peers are given the same number
    accelerator: str | None
    memory_gib: float


@dataclass(frozen=True, slots=True)
class Noise:
    """The baseline measured against itself: what a difference is worth on this machine today."""

    condition: str
    interval: Interval
    is_quiet: bool  # the interval holds 1 and is narrower than MAX_NOISE_WIDTH


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one suite."""

    schema: str
    date: str
    commit: str | None
    command: tuple[str, ...]
    seconds: float
    suite: SuiteRecord
    model: ModelRecord
    machine: MachineRecord
    versions: Mapping[str, str]
    seed: int
    baseline: str
    conditions: tuple[ConditionRecord, ...]
    contestants: tuple[ContestantRecord, ...]
    rows: tuple[Row, ...]
    items: tuple[Item, ...]
    noise: Noise | None = None
    notes: tuple[str, ...] = field(default=())
