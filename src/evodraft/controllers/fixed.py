"""The same number of draft tokens in every round. Knows nothing about the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evodraft.config import check_range
from evodraft.types import Plan

if TYPE_CHECKING:
    from evodraft.controllers.base import Progress
    from evodraft.types import Feedback


@dataclass(frozen=True, slots=True)
class FixedConfig:
    """Options of the fixed controller."""

    num_draft_tokens: int = 5  # 0 = plain decoding; 3 to 8 suits most pairs

    def __post_init__(self) -> None:
        check_range(self, "num_draft_tokens", 0, 64)


class FixedController:
    """Always the same width."""

    needs_signals = False

    def __init__(self, config: FixedConfig = FixedConfig()) -> None:
        self._plan = Plan(width=config.num_draft_tokens)

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
