"""Drafters, by name. A new one is a file here and a line in the table.

`build` takes (config, DrafterContext) and returns a DrafterPlan.
"""

from __future__ import annotations

from collections.abc import Mapping

from evodraft.config import Entry, NoOptions
from evodraft.drafters.auto import plan_auto_drafter
from evodraft.drafters.base import Drafter, DrafterContext, DrafterPlan, RegisteredDraft
from evodraft.drafters.eagle.config import EagleConfig
from evodraft.drafters.eagle.drafter import EagleDrafter
from evodraft.drafters.eagle.plan import plan_eagle_drafter
from evodraft.drafters.model import ModelConfig, ModelDrafter, plan_model_drafter
from evodraft.drafters.ngram import NgramConfig, NgramDrafter, plan_ngram_drafter

__all__ = [
    "DRAFTERS",
    "Drafter",
    "DrafterContext",
    "DrafterPlan",
    "EagleConfig",
    "EagleDrafter",
    "ModelConfig",
    "ModelDrafter",
    "NgramConfig",
    "NgramDrafter",
    "RegisteredDraft",
]

DRAFTERS: Mapping[str, Entry] = {
    "auto": Entry(NoOptions, plan_auto_drafter),
    "eagle": Entry(EagleConfig, plan_eagle_drafter),
    "model": Entry(ModelConfig, plan_model_drafter),
    "ngram": Entry(NgramConfig, plan_ngram_drafter),
}
