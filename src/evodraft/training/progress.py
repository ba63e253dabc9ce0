"""Show a run's progress on the terminal and append it to a JSON-lines file.

Does not know: what the steps do.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from evodraft.training.target import StepReport

SMOOTHING = 0.02


class ProgressReport:
    """A callable context manager that takes one `StepReport` a step; `smooth_loss` is an exponential mean."""

    def __init__(self, title: str, num_steps: int, first_step: int = 0, history: Path | None = None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns)
        self._title, self._history_path = title, history
        self._task = self._bar.add_task(title, total=num_steps, completed=first_step)
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

    def __call__(self, report: StepReport) -> None:
        previous = report.loss if self.smooth_loss is None else self.smooth_loss
        self.smooth_loss = previous + SMOOTHING * (report.loss - previous)
        text = f"{self._title}  loss {self.smooth_loss:.3f}  {report.num_tokens / report.seconds:,.0f} tokens/s"
        self._bar.update(self._task, completed=report.step, description=text)
        if self._history is not None:
            self._history.write(json.dumps(report._asdict()) + "\n")
            self._history.flush()
