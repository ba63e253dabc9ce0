"""What an inspection found out, as frozen records: for people to be shown, for machines by `dataclasses.asdict`.

Holds facts and sentences; does not gather them and does not print.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that was decided, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class ModelReport:
    """A model as its config describes it. None = the config does not say, or the model cannot be decoded."""

    name: str  # a folder or a hub id
    model_type: str
    architecture: str  # class in transformers
    num_parameters: int
    num_layers: int
    vocab_size: int  # rows of the embedding, padding included
    context_length: int | None
    dtype: str
    weight_bytes: int
    cache_bytes_per_token: int | None
    num_file_bytes: int | None  # of weights on this disk; None if they are not here


@dataclass(frozen=True, slots=True)
class MachineReport:
    """Where it would run."""

    device: str
    device_name: str
    memory_bytes: int
    free_bytes: int  # what programs could take now
    num_threads: int
    features: tuple[str, ...]  # of the processor, as far as they matter for matrices
    has_bfloat16: bool | None  # in hardware; None = the system does not tell
    versions: Mapping[str, str]  # of system, Python and packages


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A draft that `auto` would take if it could."""

    name: str
    method: str
    why: str


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """How a model would be decoded, or is."""

    name: str
    why: str
    passed_over: tuple[Choice, ...]  # what comes before it in the order, and why not
    numerics: Choice | None  # "invariant", "fast", or "untried" of what is not loaded; a draft's decide nothing


@dataclass(frozen=True, slots=True)
class DrafterReport:
    """Who would draft, and how well it fits the target."""

    asked: str
    name: str | None  # of the table of drafters; None = plain decoding
    why: str
    model: ModelReport | None = None
    revision: str | None = None
    license: str | None = None  # for registered drafts
    is_verified: bool | None = None  # for registered drafts
    tokens: Choice | None = None  # "same", "different" or "unknown"
    cost_ratio: float | None = None  # bytes of weights, draft / target: taken for the ratio of times
    assumed_acceptance: float | None = None  # of each draft token, for what follows
    best_speed_up: float | None = None  # over all draft lengths
    best_num_draft_tokens: int | None = None
    passed_over: tuple[PassedOver, ...] = ()
    runtime: RuntimeChoice | None = None  # of the draft model, if it can be decoded


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What would be taken, before anything is. Weights and caches of target and draft together."""

    max_batch: int
    max_model_len: int
    weight_bytes: int  # with the copies that runtimes make
    cache_bytes_per_token: int
    cache_bytes: int  # if every sequence is as long as it may be, within the budget
    cache_budget_bytes: int
    cache_budget_tokens: int  # of all sequences that run at once, each taken to be as long as the longest
    needed_bytes: int
    free_bytes: int
    is_enough: bool


@dataclass(frozen=True, slots=True)
class LoadedReport:
    """What came of really loading it and saying a few tokens, plainly and with drafts."""

    drafter: str | None
    max_model_len: int
    num_tokens: int
    num_equal_tokens: int  # before the first difference
    acceptance_rate: float
    runtime: RuntimeChoice | None
    draft_runtime: RuntimeChoice | None  # None of drafters without a model


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that `evodraft inspect` says."""

    target: ModelReport
    machine: MachineReport
    runtime: RuntimeChoice | None  # None if the target cannot be decoded
    drafter: DrafterReport
    memory: MemoryReport | None  # None if the target cannot be decoded or nothing fits
    problems: tuple[str, ...]  # it would not run
    warnings: tuple[str, ...]  # it would run, and here is what to know
    python: str  # the line that loads it
    loaded: LoadedReport | None = None

    @property
    def can_run(self) -> bool:
        return not self.problems
