"""Which drafter `auto` takes: the bundled draft, else a registered one that this version can run, else prompt lookup.

A registered draft is fetched like any hub model. What cannot be fetched or does not fit is passed over with a warning,
so that `auto` always drafts. Does not know where the registry is or how models are loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from evodraft.config import NoOptions
from evodraft.drafters.base import DrafterContext, DrafterPlan, RegisteredDraft
from evodraft.drafters.model import ModelConfig, plan_model_drafter
from evodraft.drafters.ngram import NgramConfig, plan_ngram_drafter
from evodraft.errors import CapacityError, ModelError, WeightsError

RUNNABLE_METHODS: Final[Mapping[str, str]] = {"model": "model"}  # method of a registered draft -> drafter

_logger = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """A drafter that `auto` considers."""

    drafter: str  # its name in the table
    config: ModelConfig | NgramConfig
    why: str
    registered: RegisteredDraft | None = None


def auto_candidates(bundled_draft: Path | None, registered_drafts: Sequence[RegisteredDraft]) -> list[Candidate]:
    """What `auto` would take, in this order; the last one fits every target.

    >>> [candidate.drafter for candidate in auto_candidates(None, [])]
    ['ngram']
    """
    found: list[Candidate] = []
    if bundled_draft is not None:
        found.append(Candidate("model", ModelConfig(bundled_draft), "its draft comes with the target"))
    for draft in registered_drafts:
        drafter = RUNNABLE_METHODS.get(draft.method)
        if drafter is not None:
            found.append(
                Candidate(drafter, ModelConfig(draft.name, draft.revision), "registered for this target", draft)
            )
    return [*found, Candidate("ngram", NgramConfig(), "needs no draft model and fits every target")]


def plan_auto_drafter(config: NoOptions, context: DrafterContext) -> DrafterPlan:
    """Plans the first candidate that can be had; the last one always can."""
    candidates = auto_candidates(context.bundled_draft, context.registered_drafts)
    plans = (_plan(candidate, context) for candidate in candidates)
    return next(plan for plan in plans if plan is not None)


def check_is_no_folder(draft: RegisteredDraft) -> None:
    """Raises WeightsError if a local folder would be loaded in place of the published draft."""
    if Path(draft.name).exists():
        raise WeightsError(
            f"the local {draft.name} hides the published draft of that name; run from another folder, or take the "
            f"local one with drafter='model:./{draft.name}'"
        )


def _plan(candidate: Candidate, context: DrafterContext) -> DrafterPlan | None:
    if isinstance(candidate.config, NgramConfig):
        return plan_ngram_drafter(candidate.config, context)
    if candidate.registered is None:
        return plan_model_drafter(candidate.config, context)
    return _plan_registered(candidate.config, candidate.registered, context)


def _plan_registered(config: ModelConfig, draft: RegisteredDraft, context: DrafterContext) -> DrafterPlan | None:
    """None if the draft cannot be had, after a warning. Trust in the target's code is no trust in the draft's."""
    name = f"{draft.name} at revision {draft.revision}"
    _logger.info("drafter='auto' loads %s (licence %s), registered for this target", name, draft.license)
    try:
        check_is_no_folder(draft)
        return plan_model_drafter(config, replace(context, trust_remote_code=False))
    except (ModelError, CapacityError) as error:
        _logger.warning(
            "the registered draft %s is not used: %s. Without it drafter='auto' takes the next best; name a draft with "
            "drafter='model:PATH-OR-HUB-ID', or say drafter='ngram' to leave models out",
            name,
            error,
        )
        return None
