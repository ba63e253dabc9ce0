"""Which drafter `auto` takes: a bundled head or draft, else a registered one that can run here, else prompt lookup.

A registered draft is fetched like any hub model. What cannot be fetched or does not fit is passed over with a warning,
so that `auto` always drafts. Does not know where the registry is or how models are loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from evodraft.config import NoOptions
from evodraft.drafters.base import DrafterContext, DrafterPlan, RegisteredDraft
from evodraft.drafters.eagle.config import BUNDLED_HEADS, EagleConfig
from evodraft.drafters.eagle.plan import plan_eagle_drafter
from evodraft.drafters.model import ModelConfig, plan_model_drafter
from evodraft.drafters.ngram import NgramConfig, plan_ngram_drafter
from evodraft.errors import CapacityError, ModelError, WeightsError

RUNNABLE_METHODS: Final[Mapping[str, str]] = {"eagle3": "eagle", "model": "model"}
"""Method of a registered draft -> drafter."""

_CONFIGS: Final[Mapping[str, Callable[[str, str], EagleConfig | ModelConfig]]] = {
    "eagle": EagleConfig,
    "model": ModelConfig,
}
_PLANS: Final[Mapping[str, Callable[[Any, DrafterContext], DrafterPlan]]] = {
    "eagle": plan_eagle_drafter,
    "model": plan_model_drafter,
    "ngram": plan_ngram_drafter,
}

_logger = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """A drafter that `auto` considers."""

    drafter: str  # its name in the table
    config: EagleConfig | ModelConfig | NgramConfig
    why: str
    registered: RegisteredDraft | None = None


def auto_candidates(
    bundled_draft: Path | None,
    registered_drafts: Sequence[RegisteredDraft],
    bundled_heads: Mapping[str, Path] | None = None,
) -> list[Candidate]:
    """What `auto` would take, in this order; the last one fits every target.

    >>> [candidate.drafter for candidate in auto_candidates(None, [])]
    ['ngram']
    """
    found: list[Candidate] = []
    if BUNDLED_HEADS[None] in (bundled_heads or {}):
        found.append(Candidate("eagle", EagleConfig(), "its head comes with the target"))
    if bundled_draft is not None:
        found.append(Candidate("model", ModelConfig(bundled_draft), "its draft comes with the target"))
    for draft in registered_drafts:
        if not_taken(draft) is None:
            drafter = RUNNABLE_METHODS[draft.method]
            config = _CONFIGS[drafter](draft.name, draft.revision)
            found.append(Candidate(drafter, config, "registered for this target", draft))
    return [*found, Candidate("ngram", NgramConfig(), "needs no draft model and fits every target")]


def not_taken(draft: RegisteredDraft) -> str | None:
    """Why `auto` leaves a registered draft to those who name it; None if it would take it.

    >>> not_taken(RegisteredDraft("owner/head", "medusa", "main", "MIT"))
    "this version has no drafter for method 'medusa'"
    """
    drafter = RUNNABLE_METHODS.get(draft.method)
    if drafter is None:
        return f"this version has no drafter for method {draft.method!r}"
    lacks = [
        *(["is not pinned to a commit"] if draft.revision == "main" else []),
        *(["has no known licence"] if draft.license == "unknown" else []),
    ]
    return f"it {' and '.join(lacks)} in the registry; take it with drafter='{drafter}:{draft.name}'" if lacks else None


def plan_auto_drafter(config: NoOptions, context: DrafterContext) -> DrafterPlan:
    """Plans the first candidate that can be had; the last one always can."""
    candidates = auto_candidates(context.bundled_draft, context.registered_drafts, context.bundled_heads)
    plans = (_plan(candidate, context) for candidate in candidates)
    return next(plan for plan in plans if plan is not None)


def check_is_no_folder(draft: RegisteredDraft) -> None:
    """Raises WeightsError if a local folder would be loaded in place of the published draft."""
    if Path(draft.name).exists():
        raise WeightsError(
            f"the local {draft.name} hides the published draft of that name; run from another folder, or take the "
            f"local one with drafter='{RUNNABLE_METHODS[draft.method]}:./{draft.name}'"
        )


def _plan(candidate: Candidate, context: DrafterContext) -> DrafterPlan | None:
    """None if a registered draft cannot be had, after a warning. Trust in the target's code is none in the draft's."""
    plan, draft = _PLANS[candidate.drafter], candidate.registered
    if draft is None:
        return plan(candidate.config, context)
    name = f"{draft.name} at revision {draft.revision}"
    _logger.info("drafter='auto' loads %s (licence %s), registered for this target", name, draft.license)
    try:
        check_is_no_folder(draft)
        return plan(candidate.config, replace(context, trust_remote_code=False))
    except (ModelError, CapacityError) as error:
        _logger.warning(
            "the registered draft %s is not used: %s. Without it drafter='auto' takes the next best; name a draft with "
            "drafter='%s:PATH-OR-HUB-ID', or say drafter='ngram' to leave models out",
            name,
            error,
            candidate.drafter,
        )
        return None
