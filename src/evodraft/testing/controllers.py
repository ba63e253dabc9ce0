"""Controllers for tests: widths from a list, and any rule over the signals of the tokens drawn so far.

Do not know tokens, drafters or time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from evodraft.types import Plan, Signals

if TYPE_CHECKING:
    from evodraft.controllers.base import Progress
    from evodraft.types import Feedback


class ScriptedController:
    """Plans the given widths in turn, for every request from the start; the last one stays. A Plan stands for itself.

    `log` holds what the engine told it: ("start" | "observe" | "finish", request id).

    >>> controller = ScriptedController([2, 0])
    >>> controller.start("a")
    >>> [controller.plan("a").width for _ in range(3)]
    [2, 0, 0]
    """

    needs_signals = False

    def __init__(self, widths: Sequence[int | Plan]) -> None:
        self.plans = tuple(width if isinstance(width, Plan) else Plan(width) for width in widths)
        self.log: list[tuple[str, str]] = []
        self._num_plans: dict[str, int] = {}

    def start(self, request_id: str) -> None:
        self.log.append(("start", request_id))
        self._num_plans[request_id] = 0

    def plan(self, request_id: str) -> Plan:
        number = self._num_plans[request_id]
        self._num_plans[request_id] += 1
        return self.plans[min(number, len(self.plans) - 1)]

    def more(self, rows: Sequence[Progress]) -> list[bool]:
        return [row.num_drawn < row.plan.width for row in rows]

    def observe(self, feedback: Feedback) -> None:
        self.log.append(("observe", feedback.request_id))

    def finish(self, request_id: str) -> None:
        self.log.append(("finish", request_id))
        del self._num_plans[request_id]


class SignalController:
    """Draws on as long as `rule` likes the signals of the tokens drawn so far.

    >>> from evodraft.controllers.base import Progress
    >>> controller = SignalController(lambda signals: len(signals) < 1, width=4)
    >>> controller.more([Progress("a", Plan(4)), Progress("b", Plan(4), [None])])
    [True, False]
    """

    needs_signals = True

    def __init__(self, rule: Callable[[Sequence[Signals | None]], bool], width: int) -> None:
        self.rule = rule
        self._plan = Plan(width=width)

    def start(self, request_id: str) -> None:
        """Nothing to keep."""

    def plan(self, request_id: str) -> Plan:
        return self._plan

    def more(self, rows: Sequence[Progress]) -> list[bool]:
        return [row.num_drawn < row.plan.width and self.rule(row.signals) for row in rows]

    def observe(self, feedback: Feedback) -> None:
        """Nothing to learn."""

    def finish(self, request_id: str) -> None:
        """Nothing was kept."""
