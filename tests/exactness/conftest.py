"""Every drafter and every controller, as fixtures: a test that takes one runs once for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import pytest

from evodraft.controllers import CONTROLLERS, ConfidenceConfig, ConfidenceController, FixedConfig, FixedController
from evodraft.controllers.base import Controller
from evodraft.drafters import DRAFTERS
from evodraft.drafters.base import Drafter
from evodraft.testing import ScriptedController, SignalController, TableLM
from evodraft.testing.table_drafters import TABLE_DRAFTERS
from evodraft.types import Plan

MakeDrafter = Callable[[TableLM], Drafter]
MakeController = Callable[[], Controller]

# a head feeds on hidden states, which tables have not: test_eagle.py
assert set(DRAFTERS) - {"auto", "eagle"} <= set(TABLE_DRAFTERS), (
    "a drafter is missing in evodraft.testing.table_drafters"
)


def _of_table(name: str) -> MakeController:
    entry = CONTROLLERS[name]
    return lambda: entry.build(entry.config())


MAKE_CONTROLLER: Final[Mapping[str, MakeController]] = {
    **{name: _of_table(name) for name in CONTROLLERS},
    "fixed:1": lambda: FixedController(FixedConfig(num_draft_tokens=1)),
    "fixed:0": lambda: FixedController(FixedConfig(num_draft_tokens=0)),
    "confidence:0.6": lambda: ConfidenceController(ConfidenceConfig(threshold=0.6, max_draft_tokens=2)),
    "widths": lambda: ScriptedController([2, 0, 1, 3]),
    "tree": lambda: FixedController(FixedConfig(num_draft_tokens=2, num_nodes=5)),
    "trees and chains": lambda: ScriptedController([Plan(3, 6), 1, Plan(2, 2), 0, Plan(1, 3)]),
    "entropy": lambda: SignalController(lambda signals: _is_sure(signals), width=3),
    "unlikely": lambda: SignalController(lambda signals: _was_unlikely(signals), width=3),
}


def _is_sure(signals) -> bool:
    last = signals[-1] if signals else None
    return last is None or last.entropy_nats < 0.9


def _was_unlikely(signals) -> bool:
    """Goes on only after improbable tokens: the decision depends on the value of the token before."""
    last = signals[-1] if signals else None
    return last is None or last.probability < 0.5


@pytest.fixture(params=sorted(TABLE_DRAFTERS))
def make_drafter(request: pytest.FixtureRequest) -> MakeDrafter:
    return TABLE_DRAFTERS[request.param]


@pytest.fixture(params=list(MAKE_CONTROLLER))
def make_controller(request: pytest.FixtureRequest) -> MakeController:
    return MAKE_CONTROLLER[request.param]
