"""The Controller protocol: who decides how many tokens are drafted.

One controller serves a whole batch and keeps a state per request. It is asked before every draw, the first included,
so that no decision can depend on the token it is about (X2). It does not know tokens, models or verifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from evodraft.types import Feedback, Plan, Signals


@dataclass(slots=True)
class Progress:
    """What is known of one request's draft before its next draw."""

    request_id: str
    plan: Plan
    signals: list[Signals | None] = field(default_factory=list)  # of the tokens drawn so far; None: no law

    @property
    def num_drawn(self) -> int:
        return len(self.signals)


class Controller(Protocol):
    """Plans drafts and stops them early."""

    needs_signals: bool

    def start(self, request_id: str) -> None:
        """A request was admitted."""
        ...

    def plan(self, request_id: str) -> Plan:
        """The most that this request may draft in the coming round."""
        ...

    def more(self, rows: Sequence[Progress]) -> list[bool]:
        """Which rows may draw one more token; asked before every draw."""
        ...

    def observe(self, feedback: Feedback) -> None:
        """Takes note of one round."""
        ...

    def finish(self, request_id: str) -> None:
        """A request ended; its state may be dropped."""
        ...
