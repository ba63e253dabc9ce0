"""Show a run's progress on the terminal and append it to a JSON-lines file.

Does not know: what the steps do.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

SMOOTHING = 0.02


class Step(Protocol):
    """What a report of one step says at least; all of it goes into the history."""

    @property
    def step(self) -> int:
        """Counted from 1."""

    @property
    def loss(self) -> float:
        """Before the update."""

    @property
    def num_tokens(self) -> int:
        """Of this step."""

    @property
    def seconds(self) -> float:
        """Of this step."""

    def _asdict(self) -> dict[str, Any]: ...


class ProgressReport:
    """A callable context manager that takes one `Step` at a time; `smooth_loss` is an exponential mean.

    `measure` says how much of `total` is done after a step: by default, the steps.
    """

    def __init__(
        self,
        title: str,
        total: float,
        first: float = 0,
        history: Path | None = None,
        measure: Callable[[Step], float] = lambda report: report.step,
    ) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns)
        self._title, self._history_path, self._measure = title, history, measure
        self._task = self._bar.add_task(title, total=total, completed=int(first))
        self._history: TextIO | None = None
        self.smooth_loss: float | None = None

    def __enter__(self) -> ProgressReport:
        if self._history_path is not None:
            self._history_path.parent.mkdir(parents=True, exist_ok=True)
            self._history = self._history_path.open("a", encoding="utf-8")
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._history is not None:
            self._history.close()

    def __call__(self, report: Step) -> None:
        previous = report.loss if self.smooth_loss is None else self.smooth_loss
        self.smooth_loss = previous + SMOOTHING * (report.loss - previous)
        text = f"{self._title}  loss {self.smooth_loss:.3f}  {report.num_tokens / report.seconds:,.0f} tokens/s"
        self._bar.update(self._task, completed=int(self._measure(report)), description=text)
        if self._history is not None:
            self._history.write(json.dumps(report._asdict()) + "\n")
            self._history.flush()
