"""A result on a terminal. What cells say is in `tables`; which columns there is room for is seen when it is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from evodraft.bench.report import settings, tables
from evodraft.bench.result import ALL
from evodraft.display import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

    from evodraft.bench.result import Result

_WIDE: Final = 132  # characters from which on all columns are shown


@dataclass(frozen=True, slots=True)
class Report:
    """Renders itself in the width of the console that prints it; the overview comes last and stays in sight."""

    result: Result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        is_wide = options.max_width >= _WIDE
        columns = [column for column in tables.COLUMNS if is_wide or not column.is_wide]
        for section in tables.sections(self.result):
            yield from _section(section, columns)
        yield _text(f"\n[low, high]: bootstrap intervals of 95 %. Dimmed rows do not count. {tables.STAR}.", "dim")
        if not is_wide:
            heads = ", ".join(column.head for column in tables.COLUMNS if column.is_wide)
            yield _text(f"Left out for want of room: {heads}; they take {_WIDE} characters.", "dim")
        yield _title("settings")
        yield _settings(self.result)
        yield from _overview(self.result)


# --------------------------------------------------------------------------------
# One condition
# --------------------------------------------------------------------------------


def _section(section: tables.Section, columns: Sequence[tables.Column]) -> Iterator[RenderableType]:
    yield _title(f"{section.condition.name}: {settings.described(section.condition)}")
    heads = ["", *(column.head for column in columns), "note"]
    lines = [_cells(line, columns) for block in (*section.methods, *section.peers) for line in block.lines]
    widths = [max(map(len, cells)) for cells in zip(heads, *lines, strict=True)]
    grid = _grid(widths)
    grid.add_row(*heads, style="bold")
    yield grid
    yield Rule(style="dim")
    for block in section.methods:
        yield from _block(block, columns, widths)
    if section.peers:
        yield _text("\npeers: other engines, each in an environment of its own", "bold")
    for block in section.peers:
        yield from _block(block, columns, widths)
    for word in tables.notes_of(section):
        yield _text(f"{word}: {tables.NOTES[word]}", "yellow")


def _block(block: tables.Block, columns: Sequence[tables.Column], widths: Sequence[int]) -> Iterator[RenderableType]:
    """A line with the name and what a reader must know, then one line for each group."""
    introduction = settings.introduced(block.contestant)
    yield Text.assemble(_text(block.contestant.name, "bold cyan"), "  ", _text(introduction, "dim"))
    grid = _grid(widths)
    for line in block.lines:
        style = "dim" if line.note else "bold" if line.row.group == ALL else None
        grid.add_row(*map(_text, _cells(line, columns)), style=style)
    yield grid


def _cells(line: tables.Line, columns: Sequence[tables.Column]) -> list[str]:
    return [f"  {line.row.group}", *(column.cell(line.row) for column in columns), line.note]


def _grid(widths: Sequence[int]) -> Table:
    """Without a frame; the columns of several of them stand below each other."""
    grid = Table.grid(padding=(0, 1))
    for number, width in enumerate(widths):
        is_text = number in (0, len(widths) - 1)
        grid.add_column(justify="left" if is_text else "right", width=width, no_wrap=not is_text, overflow="fold")
    return grid


# --------------------------------------------------------------------------------
# The whole
# --------------------------------------------------------------------------------


def _settings(result: Result) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in settings.listed(result):
        grid.add_row(_text(label), _text(text))
    return grid


def _overview(result: Result) -> Iterator[RenderableType]:
    yield _title("overview")
    grid = Table.grid(padding=(0, 2))
    for number in range(len(result.conditions) + 1):
        grid.add_column(justify="right" if number else "left", overflow="fold")
    grid.add_row("", *(_text(condition.name) for condition in result.conditions), style="bold")
    for contestant, cells in tables.overview(result):
        grid.add_row(_text(contestant.name, "cyan"), *map(_text, cells))
    yield grid
    yield _text(tables.OVERVIEW, "dim")
    yield from (_text(f"synthetic: {line}", "yellow") for line in settings.synthetic(result))
    yield from (_text(line, "red") for line in tables.remarks(result))
    is_quiet, text = settings.noise(result)
    yield _text(f"control: {text}", "green" if is_quiet else "bold red" if result.noise else "yellow")


def _title(text: str) -> Text:
    return _text(f"\n{text}", "bold underline")


def _text(text: str, style: str = "") -> Text:
    """Literal text: names come from files."""
    return Text(printable(text), style)
