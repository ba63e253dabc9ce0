"""Who would draft for a target, and how well the draft fits: by the same order in which `auto` chooses.

Does not load weights. Drafters that are not named in the table are not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from evodraft.config import NoOptions, parse_part
from evodraft.drafters import DRAFTERS
from evodraft.drafters.auto import Candidate, auto_candidates, check_is_no_folder, not_taken
from evodraft.drafters.eagle.config import EagleConfig, source_of
from evodraft.drafters.model import ModelConfig
from evodraft.drafters.ngram import NgramConfig
from evodraft.drafters.pairing import check_same_tokens
from evodraft.errors import ConfigError, ModelError, ModelMismatchError
from evodraft.inspection.head import bytes_per_step, read_head
from evodraft.inspection.model import Blueprint, read_model
from evodraft.inspection.report import Choice, DrafterReport, PassedOver
from evodraft.inspection.runtime import foretold
from evodraft.inspection.speed import ASSUMED_ACCEPTANCE, best_case
from evodraft.runtime.load import load_tokenizer
from evodraft.runtime.placement import chosen_device

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evodraft.assemble import LoadOptions, TargetSource
    from evodraft.drafters.base import RegisteredDraft
    from evodraft.inspection.runtime import RuntimeFindings

LEAST_SPEED_UP: Final = 1.1  # below it, at the assumed acceptance, a draft is called too large


class DrafterFindings(NamedTuple):
    """A report, and what follows from it."""

    report: DrafterReport
    draft: Blueprint | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    copied_bytes: int = 0  # of the draft's weights, by its runtime


class InspectedTarget(NamedTuple):
    """What the drafter's fit depends on."""

    source: TargetSource
    blueprint: Blueprint
    options: LoadOptions


def read_drafter(spec: str | None, target: InspectedTarget) -> DrafterFindings:
    """What becomes of `drafter=spec`. Raises UnknownOptionError or ConfigError for what names no drafter."""
    if spec is None:
        return DrafterFindings(DrafterReport("None", None, "you asked for plain decoding"))
    _, config = parse_part("drafter", spec, DRAFTERS)
    if isinstance(config, NoOptions):
        return _auto(spec, target)
    if isinstance(config, NgramConfig):
        return DrafterFindings(DrafterReport(spec, "ngram", "you asked for it; it copies from the text so far"))
    if isinstance(config, ModelConfig):
        return _named_model(spec, config, target)
    if isinstance(config, EagleConfig):
        is_bundled = config.head is None
        why = "you asked for the head that comes with the target" if is_bundled else "you asked for it"
        return _head(DrafterReport(spec, "eagle", why, revision=config.revision), config, target)
    raise ConfigError(
        f"drafter={spec!r} cannot be inspected before it is loaded; pass auto, eagle, model, ngram or None"
    )


def _head(report: DrafterReport, config: EagleConfig, target: InspectedTarget) -> DrafterFindings:
    source = source_of(config, target.source.bundled_heads)
    dtype: torch.dtype = getattr(torch, target.blueprint.report.dtype)
    head = read_head(source, config.revision, target.blueprint, dtype, check_target=config.check_target)
    cost_ratio = bytes_per_step(head.model, target.blueprint) / target.blueprint.report.weight_bytes
    tokens = Choice("same", "a head reads and says the target's own token ids")
    full = _with_costs(replace(report, model=head.report), cost_ratio, None if head.problems else tokens)
    return DrafterFindings(full, head, head.problems, (*head.warnings, *_size_warnings(full, head)))


def _named_model(spec: str, config: ModelConfig, target: InspectedTarget) -> DrafterFindings:
    bundled = target.source.bundled_draft
    source = config.model or bundled
    if source is None:
        raise ConfigError(
            "drafter 'model' needs a draft model and this target has none bundled; write drafter='model:PATH-OR-HUB-ID'"
        )
    draft = _read(str(source), config.revision, target)
    why = "you asked for the draft that comes with the target" if config.model is None else "you asked for it"
    return _fitted(DrafterReport(spec, "model", why, draft.report, config.revision), draft, target)


def _auto(spec: str, target: InspectedTarget) -> DrafterFindings:
    """The first candidate that can be had, and what was refused before it."""
    registered = target.source.registered_drafts
    candidates = iter(auto_candidates(target.source.bundled_draft, registered, target.source.bundled_heads))
    refused: list[PassedOver] = []
    found = _considered(spec, next(candidates), target)
    while isinstance(found, PassedOver):
        refused.append(found)
        found = _considered(spec, next(candidates), target)
    unknown = [
        PassedOver(draft.name, draft.method, why) for draft in registered if (why := not_taken(draft)) is not None
    ]
    warnings = tuple(f"the registered draft {draft.name} is passed over: {draft.why}" for draft in refused)
    report = replace(found.report, passed_over=(*unknown, *refused))
    return found._replace(report=report, warnings=warnings + found.warnings)


def _considered(spec: str, candidate: Candidate, target: InspectedTarget) -> DrafterFindings | PassedOver:
    config, registered = candidate.config, candidate.registered
    if isinstance(config, NgramConfig):
        return DrafterFindings(DrafterReport(spec, candidate.drafter, candidate.why))
    if registered is None:
        return _read_and_fitted(DrafterReport(spec, candidate.drafter, candidate.why), config, target)
    target = target._replace(options=replace(target.options, trust_remote_code=False))  # as `auto` loads it
    report = DrafterReport(
        spec,
        candidate.drafter,
        candidate.why,
        None,
        registered.revision,
        registered.license,
        registered.is_verified,
    )
    try:
        check_is_no_folder(registered)
        found = _read_and_fitted(report, config, target)
    except ModelError as error:
        return PassedOver(registered.name, registered.method, str(error))
    if found.problems or found.draft is None:
        return PassedOver(registered.name, registered.method, found.problems[0])
    return found._replace(warnings=(*_registry_warnings(registered, found.draft), *found.warnings))


def _read_and_fitted(
    report: DrafterReport, config: EagleConfig | ModelConfig, target: InspectedTarget
) -> DrafterFindings:
    if isinstance(config, EagleConfig):
        return _head(report, config, target)
    draft = _read(str(config.model), config.revision, target)
    return _fitted(replace(report, model=draft.report), draft, target)


def _read(name: str, revision: str | None, target: InspectedTarget) -> Blueprint:
    """The draft in the dtype of the target, in which it is loaded."""
    dtype: torch.dtype = getattr(torch, target.blueprint.report.dtype)
    return read_model(name, dtype, revision, trust_remote_code=target.options.trust_remote_code)


def _fitted(report: DrafterReport, draft: Blueprint, target: InspectedTarget) -> DrafterFindings:
    """The report with costs and tokens compared."""
    cost_ratio = draft.report.weight_bytes / target.blueprint.report.weight_bytes
    tokens = _compare_tokens(report, draft, target)
    runtime = _runtime(draft, target)
    full = replace(_with_costs(report, cost_ratio, tokens), runtime=runtime.choice)
    problems = draft.problems + ((tokens.why,) if tokens.name == "different" else ()) + runtime.problems
    warnings = (*draft.warnings, *_fit_warnings(full, draft, target))
    return DrafterFindings(full, draft, problems, warnings, runtime.copied_bytes)


def _with_costs(report: DrafterReport, cost_ratio: float, tokens: Choice | None) -> DrafterReport:
    best = best_case(ASSUMED_ACCEPTANCE, cost_ratio)
    return replace(
        report,
        tokens=tokens,
        cost_ratio=cost_ratio,
        assumed_acceptance=ASSUMED_ACCEPTANCE,
        best_speed_up=best.speed_up,
        best_num_draft_tokens=best.num_draft_tokens,
    )


def _runtime(draft: Blueprint, target: InspectedTarget) -> RuntimeFindings:
    """How the draft would be decoded, once the weights of both are there. Its numerics decide nothing."""
    options, pending_bytes = target.options, target.blueprint.report.weight_bytes + draft.report.weight_bytes
    found = foretold(draft, chosen_device(options.device), options.draft_runtime_options, pending_bytes)
    return found if found.choice is None else found._replace(choice=replace(found.choice, numerics=None))


def _compare_tokens(report: DrafterReport, draft: Blueprint, target: InspectedTarget) -> Choice:
    """Whether both read the same tokens, where both tokenizers are on this machine."""
    trust = target.options.trust_remote_code
    try:
        ours = _tokenizer(target.source.name, target.options.revision, trust)
        theirs = _tokenizer(draft.report.name, report.revision, trust)
    except ModelError as error:
        return Choice("unknown", f"compared when both are loaded; now: {error}")
    try:
        check_same_tokens(ours, theirs, draft.report.vocab_size)
    except ModelMismatchError as error:
        return Choice("different", str(error))
    return Choice("same", "every token id of the target means the same to the draft")


def _tokenizer(name: str, revision: str | None, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    return load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code, local_files_only=True)


def _size_warnings(report: DrafterReport, draft: Blueprint) -> Iterator[str]:
    name = draft.report.name
    if report.best_speed_up is not None and report.best_speed_up <= LEAST_SPEED_UP:
        yield (
            f"the draft {name} is too large to help: it has {report.cost_ratio:.2f} of the target's bytes, and if time "
            f"goes with bytes, {ASSUMED_ACCEPTANCE:.0%} of accepted tokens give {report.best_speed_up:.2f}x at best; "
            "take a smaller one, or drafter='ngram'"
        )


def _fit_warnings(report: DrafterReport, draft: Blueprint, target: InspectedTarget) -> Iterator[str]:
    yield from _size_warnings(report, draft)
    context, whole = draft.report.context_length, target.blueprint.report.context_length
    if context is not None and (whole is None or context < whole):
        yield (
            f"the draft's context of {context} tokens is shorter than the target's: what lies beyond is decoded plainly"
        )


def _registry_warnings(registered: RegisteredDraft, draft: Blueprint) -> Iterator[str]:
    if draft.report.num_file_bytes is None:
        size = draft.report.weight_bytes / 2**30
        yield f"the draft {registered.name} is not in the local cache; about {size:.1f} GiB will be downloaded"
    if registered.note:
        yield f"{registered.name}: {registered.note}"
