"""A result as Markdown: everything, or the few lines that a README has room for. What cells say is in `tables`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from evodraft.bench.report import settings, tables
from evodraft.bench.result import ALL, CONTROL, VARIED
from evodraft.display import printable
from evodraft.errors import BenchError

if TYPE_CHECKING:
    from evodraft.bench.result import ContestantRecord, Result

_SPECIAL: Final = re.compile(r"[\\`*\[\]<>|&~]|(?<!\w)_|_(?!\w)|^[#+-]|^\d+(?=[.)])")
_HEADLINE: Final = ("speed-up", "whole request", "MAL", "distinct-4", "check")


def full(result: Result) -> str:
    """The overview, a table for each condition, settings."""
    is_quiet, noise = settings.noise(result)
    parts = [f"# Benchmark: {plain(result.suite.name)}"]
    parts += [f"**{'Control' if is_quiet else 'Warning'}**: {plain(noise)}."]
    parts += [f"**Synthetic**: {plain(text)}." for text in settings.synthetic(result)]
    overview = ([plain(contestant.name), *cells] for contestant, cells in tables.overview(result))
    parts += [_table(["", *(plain(condition.name) for condition in result.conditions)], overview)]
    parts += [f"{plain(tables.OVERVIEW)}."]
    for section in tables.sections(result):
        parts += _section(section)
    remarks = tables.remarks(result)
    parts += ["## Remarks", _list(map(plain, remarks))] if remarks else []
    parts += ["## What the columns say", _list(f"{column.head}: {column.about}" for column in tables.COLUMNS)]
    lines = ([label, plain(text)] for label, text in settings.listed(result))
    return "\n\n".join([*parts, "## Settings", _table(["", ""], lines, num_text=2)]) + "\n"


def _section(section: tables.Section) -> Iterator[str]:
    yield f"## {plain(section.condition.name)}: {plain(settings.described(section.condition))}"
    for title, blocks in (("", section.methods), ("### Peers: other engines", section.peers)):
        if blocks:
            yield from filter(None, [title])
            contestants = [block.contestant for block in blocks if settings.introduced(block.contestant)]
            yield from filter(None, [_list(plain(f"{c.name}: {settings.introduced(c)}") for c in contestants)])
            heads = ["contestant", "prompts", *(column.head for column in tables.COLUMNS), "note"]
            yield _table(heads, _lines(blocks), num_text=2)
    yield from filter(None, [_list(f"{word}: {tables.NOTES[word]}" for word in tables.notes_of(section))])


def _lines(blocks: Iterable[tables.Block]) -> Iterator[list[str]]:
    for block in blocks:
        for row, note in block.lines:
            cells = [column.cell(row) for column in tables.COLUMNS]
            yield [plain(row.contestant), plain(row.group), *cells, note]


# --------------------------------------------------------------------------------
# For a README
# --------------------------------------------------------------------------------


def compact(result: Result, contestant: str | None = None) -> str:
    """What a README has room for: who measured what, one contestant by group, everybody over all prompts.

    Rows that do not count show the reason in place of figures; what is synthetic is left out.

    Args:
        contestant: whose groups are shown; None = the first method that is neither the baseline nor the control.

    Raises:
        BenchError: the result is synthetic, or there is no such contestant.
    """
    if result.model.synthetic:
        raise BenchError(f"the result is synthetic ({result.model.synthetic}); measure real weights")
    if not result.conditions:
        raise BenchError("the result has no conditions, so there is nothing to show")
    real = [c for c in result.contestants if not c.synthetic and c.name not in (CONTROL, result.baseline)]
    chosen = next((c for c in real if contestant in (None, c.name)), None)
    if chosen is None:
        known = ", ".join(c.name for c in real) or "none"
        raise BenchError(f"nobody of the name {contestant or 'of a method'} can be shown; there are: {known}")
    parts = [_summary(result, chosen), _by_group(result, chosen)]
    return "\n\n".join([*parts, _by_contestant(result, real)] if len(real) > 1 else parts) + "\n"


def _summary(result: Result, contestant: ContestantRecord) -> str:
    """Who measured what, where and with what: the sentences without which no figure may stand."""
    model, machine, versions = result.model, result.machine, result.versions
    packages = [f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions]
    where = [machine.processor, machine.accelerator, f"threads: {machine.threads}", *packages, result.date]
    suite = f"{result.suite.name}{' (quick)' if result.suite.is_quick else ''}, {result.conditions[0].name}"
    weights = ", ".join([model.name, settings.size(model.num_parameters), model.dtype])
    text = (
        f"{contestant.name} over {result.baseline} in the same run, suite {suite}: {settings.asked(result)}; medians "
        f"of the prompts' own ratios, bootstrap intervals of 95 %. {weights}, on {', '.join(filter(None, where))}. "
        f"Control: {settings.noise(result)[1]}."
    )
    return textwrap.fill(plain(text), 120, break_long_words=False, break_on_hyphens=False)


def _by_group(result: Result, contestant: ContestantRecord) -> str:
    """A line for each group: the first condition in full, the speed-up and identical outputs of the others."""
    lines = _lines_of(result, contestant)
    first, *others = result.conditions
    heads = ["prompts", *_HEADLINE, *(f"{plain(other.name)}, identical" for other in others)]
    cells = [
        [
            plain(group),
            *_headline(lines.get((first.name, group))),
            *(_brief(lines.get((o.name, group))) for o in others),
        ]
        for group in sorted(
            dict.fromkeys(group for _, group in lines), key=lambda group: (group == ALL, group == VARIED)
        )
    ]
    return _table(heads, cells)


def _by_contestant(result: Result, contestants: Sequence[ContestantRecord]) -> str:
    """A line for each contestant: all prompts under the first condition."""
    first = result.conditions[0]
    heads = ["contestant", "with", *_HEADLINE, "req. tok/s"]
    cells = []
    for contestant in contestants:
        line = _lines_of(result, contestant).get((first.name, ALL))
        speed = tables.decimal(line.row.request_tokens_per_s, 1) if line and not line.note else tables.NONE
        cells.append([plain(contestant.name), plain(settings.introduced(contestant)), *_headline(line), speed])
    return _table(heads, cells, num_text=2)


def _lines_of(result: Result, contestant: ContestantRecord) -> dict[tuple[str, str], tables.Line]:
    """By names of condition and group."""
    return {
        (section.condition.name, line.row.group): line
        for section in tables.sections(result)
        for block in (*section.methods, *section.peers)
        for line in block.lines
        if block.contestant.name == contestant.name
    }


def _headline(line: tables.Line | None) -> list[str]:
    if line is None or line.note:
        return [line.note if line else tables.NONE, *[tables.NONE] * 4]
    row = line.row
    figures = [tables.decimal(row.mean_acceptance_length), tables.decimal(row.distinct_4)]
    request = tables.times(row.request_speed_up.value if row.request_speed_up else None)
    return [tables.spread(row.speed_up), request, *figures, tables.checked(row.check)]


def _brief(line: tables.Line | None) -> str:
    if line is None or line.note:
        return line.note if line else tables.NONE
    speed_up = tables.times(line.row.speed_up.value if line.row.speed_up else None)
    same = tables.identical(line.row.check)
    return speed_up if same == tables.NONE else f"{speed_up}, {same}"


# --------------------------------------------------------------------------------
# Markdown
# --------------------------------------------------------------------------------


def plain(text: str) -> str:
    r"""`text` so that Markdown shows it as it is, on one line.

    >>> plain("a|b <i>\n*c* d_e")
    'a\\|b \\<i\\> \\*c\\* d_e'
    """
    return _SPECIAL.sub(r"\\\g<0>", " ".join(printable(text).split()))


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]], num_text: int = 1) -> str:
    """Of cells that are Markdown; figures, which follow `num_text` columns of text, stand at the right."""
    rule = ["---"] * num_text + ["---:"] * (len(heads) - num_text)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *lines))


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
