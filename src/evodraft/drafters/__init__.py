"""Drafters, by name. A new one is a file here and a line in the table.

`build` takes (config, DrafterContext) and returns a DrafterPlan.
"""

from __future__ import annotations

from collections.abc import Mapping

from evodraft.config import Entry, NoOptions
from evodraft.drafters.base import Drafter, DrafterContext, DrafterPlan
from evodraft.drafters.model import ModelConfig, ModelDrafter, plan_model_drafter
from evodraft.drafters.ngram import NgramConfig, NgramDrafter, plan_ngram_drafter

__all__ = [
    "DRAFTERS",
    "Drafter",
    "DrafterContext",
    "DrafterPlan",
    "ModelConfig",
    "ModelDrafter",
    "NgramConfig",
    "NgramDrafter",
]


def _plan_auto(config: NoOptions, context: DrafterContext) -> DrafterPlan:
    """The target's bundled draft, else prompt lookup, which fits every target."""
    if context.bundled_draft is not None:
        return plan_model_drafter(ModelConfig(), context)
    return plan_ngram_drafter(NgramConfig(), context)


DRAFTERS: Mapping[str, Entry] = {
    "auto": Entry(NoOptions, _plan_auto),
    "model": Entry(ModelConfig, plan_model_drafter),
    "ngram": Entry(NgramConfig, plan_ngram_drafter),
}
