"""What commands of the bench show while they measure, and how they name themselves in results. Measures nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from evodraft.bench.places import without_places
from evodraft.cli.loading import heard
from evodraft.display import printable

if TYPE_CHECKING:
    from evodraft.bench.run import Step


@contextmanager
def progress() -> Iterator[Callable[[Step], None]]:
    """A bar on standard error; drawn between answers, never during one."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    console = Console(stderr=True)
    how: Any = {"console": console, "auto_refresh": False, "transient": True, "disable": not console.is_terminal}
    with Progress(*columns, TimeRemainingColumn(), **how) as bar:
        task = bar.add_task("loading", total=None)

        def show(step: Step) -> None:
            name = printable(step.condition)
            bar.update(task, description=name, completed=step.num_done, total=step.num_turns, refresh=True)

        bar.refresh()
        with heard(lambda message: bar.update(task, description=message, refresh=True)):
            yield show


def command_line() -> tuple[str, ...]:
    """The arguments of this process; of absolute paths only the last part, since places here say nothing to others."""
    return tuple(without_places(part) for part in sys.argv[1:])
