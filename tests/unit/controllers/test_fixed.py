"""The fixed controller."""

from __future__ import annotations

import pytest

from evodraft.controllers import FixedConfig, FixedController, Progress
from evodraft.errors import ConfigError
from evodraft.types import Plan


@pytest.mark.parametrize("width", [0, 1, 5, 64])
def test_always_the_same_width(width) -> None:
    controller = FixedController(FixedConfig(num_draft_tokens=width))
    assert [controller.plan(name).width for name in "ab"] == [width, width]


def test_draws_up_to_the_plan() -> None:
    rows = [Progress("a", Plan(2), [None] * num_drawn) for num_drawn in range(4)]
    assert FixedController().more(rows) == [True, True, False, False]
    assert not FixedController.needs_signals


@pytest.mark.parametrize("width", [-1, 65, 2.0])
def test_widths_outside_the_range(width) -> None:
    with pytest.raises(ConfigError, match=f"num_draft_tokens={width}"):
        FixedConfig(num_draft_tokens=width)


@pytest.mark.parametrize(("width", "num_nodes"), [(1, 1), (3, 3), (5, 60), (0, 4)])
def test_a_tree_has_a_budget_of_nodes(width, num_nodes) -> None:
    assert FixedController(FixedConfig(width, num_nodes)).plan("a") == Plan(width, num_nodes)


@pytest.mark.parametrize(
    ("width", "num_nodes", "message"),
    [(5, 4, "below num_draft_tokens=5"), (5, 0, "num_nodes=0"), (5, 257, "num_nodes=257"), (1, 2.0, "num_nodes=2.0")],
)
def test_budgets_outside_the_range(width, num_nodes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        FixedConfig(width, num_nodes)
