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

# Few tokens, because checking is not free; and drafted in one call, because nothing asks for signals (docs/log.md).
_AUTO = FixedConfig(num_draft_tokens=3)

CONTROLLERS: Mapping[str, Entry] = {
    "auto": Entry(NoOptions, lambda config: FixedController(_AUTO)),
    "fixed": Entry(FixedConfig, FixedController),
    "confidence": Entry(ConfidenceConfig, ConfidenceController),
}
