"""Controllers, by name. A new one is a file here and a line in the table."""

from __future__ import annotations

from collections.abc import Mapping

from evodraft.config import Entry
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

CONTROLLERS: Mapping[str, Entry] = {
    "auto": Entry(ConfidenceConfig, ConfidenceController),
    "fixed": Entry(FixedConfig, FixedController),
    "confidence": Entry(ConfidenceConfig, ConfidenceController),
}
