"""The same number of draft tokens in every round, or the same budget of tree nodes. Knows nothing about the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evodraft.config import check_range
from evodraft.errors import ConfigError
from evodraft.types import Plan

if TYPE_CHECKING:
    from evodraft.controllers.base import Progress
    from evodraft.types import Feedback


@dataclass(frozen=True, slots=True)
class FixedConfig:
    """Options of the fixed controller."""

    num_draft_tokens: int = 5  # 0 = plain decoding; 3 to 8 suits most pairs
    num_nodes: int | None = None  # more than num_draft_tokens: a tree of that depth, from drafters that can grow one

    def __post_init__(self) -> None:
        check_range(self, "num_draft_tokens", 0, 64)
        if self.num_nodes is None:
            return
        check_range(self, "num_nodes", 1, 256)
        if self.num_nodes < self.num_draft_tokens:
            raise ConfigError(
                f"num_nodes={self.num_nodes} is below num_draft_tokens={self.num_draft_tokens}, the depth of the tree; "
                "raise num_nodes, or leave it out for a chain"
            )


class FixedController:
    """Always the same width."""

    needs_signals = False

    def __init__(self, config: FixedConfig = FixedConfig()) -> None:
        self._plan = Plan(config.num_draft_tokens, config.num_nodes)

    def start(self, request_id: str) -> None:
        """Nothing to keep."""

    def plan(self, request_id: str) -> Plan:
        return self._plan

    def more(self, rows: Sequence[Progress]) -> list[bool]:
        return [row.num_drawn < row.plan.width for row in rows]

    def observe(self, feedback: Feedback) -> None:
        """Nothing to learn."""

    def finish(self, request_id: str) -> None:
        """Nothing was kept."""
