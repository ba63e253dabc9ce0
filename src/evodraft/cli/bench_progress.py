"""What commands of the bench show while they measure, and how they name themselves in results. Measures nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from evodraft.bench.run import Step

_PLACE: Final = re.compile(r"(^|[=:])/(?:[^/,]*/)*")


@contextmanager
def progress() -> Iterator[Callable[[Step], None]]:
    """A bar on standard error; drawn between answers, never during one."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    console = Console(stderr=True)
    how: Any = {"console": console, "auto_refresh": False, "transient": True, "disable": not console.is_terminal}
    with Progress(*columns, TimeRemainingColumn(), **how) as bar:
        task = bar.add_task("loading", total=None)

        def show(step: Step) -> None:
            bar.update(task, description=step.condition, completed=step.num_done, total=step.num_turns, refresh=True)

        bar.refresh()
        yield show


def command_line() -> tuple[str, ...]:
    """The arguments of this process; of absolute paths only the last part, since places here say nothing to others."""
    return tuple(without_places(part) for part in sys.argv[1:])


def without_places(argument: str) -> str:
    """An argument with its absolute paths cut to their last part.

    >>> without_places("drafter=model:/models/draft,controller=fixed:3"), without_places("transformers/plain")
    ('drafter=model:draft,controller=fixed:3', 'transformers/plain')
    """
    return _PLACE.sub(r"\1", argument)
