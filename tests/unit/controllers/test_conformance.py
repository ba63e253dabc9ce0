"""Every controller of the table."""

from __future__ import annotations

import pytest

from evodraft.controllers import CONTROLLERS, ConfidenceConfig, ConfidenceController, FixedConfig, FixedController
from evodraft.testing import ScriptedController, SignalController, check_controller


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_conforms(name) -> None:
    entry = CONTROLLERS[name]
    check_controller(lambda: entry.build(entry.config()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedController(FixedConfig(num_draft_tokens=0)),
        lambda: FixedController(FixedConfig(num_draft_tokens=64)),
        lambda: FixedController(FixedConfig(num_draft_tokens=3, num_nodes=8)),
        lambda: ConfidenceController(ConfidenceConfig(threshold=0.0)),
        lambda: ConfidenceController(ConfidenceConfig(threshold=1.0, max_draft_tokens=1)),
        lambda: ConfidenceController(ConfidenceConfig(threshold=0.7, adapt=False)),
        lambda: ScriptedController([0, 3, 1]),
        lambda: SignalController(lambda signals: len(signals) % 3 < 2, width=4),
    ],
)
def test_options_and_doubles_conform(make) -> None:
    check_controller(make)
