"""Controllers, by name. A new one is a file here and a line in the table."""

from __future__ import annotations

from collections.abc import Mapping

from evodraft.config import Entry, NoOptions
from evodraft.controllers.base import Controller, Progress
from evodraft.controllers.confidence import ConfidenceConfig, ConfidenceController
from evodraft.controllers.fixed import FixedConfig, FixedController

__all__ = [
    "CONTROLLERS",
    "ConfidenceConfig",
    "ConfidenceController",
    "Controller",
    "FixedConfig",
    "FixedController",
    "Progress",
]

# Of the caps tried (5, 8, 20) five lost least at batch 8 and nothing measurable at batch 1 (docs/log.md).
_AUTO = ConfidenceConfig(max_draft_tokens=5)

CONTROLLERS: Mapping[str, Entry] = {
    "auto": Entry(NoOptions, lambda config: ConfidenceController(_AUTO)),
    "fixed": Entry(FixedConfig, FixedController),
    "confidence": Entry(ConfidenceConfig, ConfidenceController),
}
