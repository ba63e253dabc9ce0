"""Results as one HTML page that needs nothing else: no network, no scripts. What is said is in `tables` and `settings`.

Everything becomes elements through `_element`, which escapes whatever is not markup already: names in a result come
from files, and a file may say anything.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from evodraft.bench.report import settings, tables
from evodraft.bench.report.pictures import pictures
from evodraft.bench.report.style import STYLE
from evodraft.bench.result import ALL, CONTROL
from evodraft.bench.schema import dumped
from evodraft.display import printable
from evodraft.errors import BenchError

if TYPE_CHECKING:
    from evodraft.bench.result import Result

# Nothing is fetched and nothing runs, whatever a name in a result says.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class _Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def page(results: Sequence[Result]) -> str:
    """The page. Raises BenchError without results, and if matplotlib is missing."""
    if not results:
        raise BenchError("there is no result to show; `evodraft bench run SUITE --json FILE` makes one")
    names = ", ".join(dict.fromkeys(result.suite.name for result in results))
    title = f"evodraft bench: {names}"
    body = [_element("h1", title), *(_comparison(results) if len(results) > 1 else [])]
    body += [_article(result, number, is_single=len(results) == 1) for number, result in enumerate(results, start=1)]
    head = [
        _Markup('<meta charset="utf-8">'),
        _Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        _Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        _element("title", title),
        _element("style", _Markup(STYLE)),
    ]
    return f"<!doctype html>\n{_element('html', _element('head', *head), _element('body', *body), lang='en')}\n"


def _comparison(results: Sequence[Result]) -> Iterator[_Markup]:
    """Everybody's headline side by side, a column for each result."""
    yield _element("h2", "Side by side")
    heads = ["", *(f"{number}: {result.suite.name}" for number, result in enumerate(results, start=1))]
    first = [dict(_headlines(result)) for result in results]
    names = dict.fromkeys(name for headlines in first for name in headlines)
    lines = [[name, *(headlines.get(name, tables.NONE) for headlines in first)] for name in names]
    known = [dict(settings.listed(result)) for result in results]
    lines += [[label, *(texts[label] for texts in known)] for label in ("model", "machine", "threads", "date")]
    yield _table(heads, [_element("tbody", *(_line(cells) for cells in lines))], "brief")
    yield _element("p", f"Under the first condition of each: {tables.OVERVIEW}.", class_="muted")


def _headlines(result: Result) -> Iterator[tuple[str, str]]:
    for contestant, cells in tables.overview(result):
        yield contestant.name, cells[0] if cells else tables.NONE


# --------------------------------------------------------------------------------
# One result
# --------------------------------------------------------------------------------


def _article(result: Result, number: int, *, is_single: bool) -> _Markup:
    is_quiet, noise = settings.noise(result)
    kind = "good" if is_quiet else "bad" if result.noise else "warn"
    parts = [
        _element("h2", f"{'' if is_single else f'{number}: '}{result.suite.name}, {result.model.name}, {result.date}"),
        _element("p", f"Control: {noise}.", class_=f"banner {kind}"),
        *(_element("p", f"Synthetic, {text}.", class_="banner warn") for text in settings.synthetic(result)),
        *_tiles(result),
        _overview(result),
        _element("div", *_figures(result, number), class_="pictures"),
        *(_section(section, is_open=n == 0) for n, section in enumerate(tables.sections(result))),
        *_remarks(result),
        _element("h3", "Settings"),
        _definitions(settings.listed(result)),
        _columns(),
        _download(result),
    ]
    return _element("article", *parts)


def _tiles(result: Result) -> Iterator[_Markup]:
    """The headline: the first method that is no baseline and not synthetic, over all prompts, if it counts."""
    sections = tables.sections(result)
    blocks = [b for b in sections[0].methods if b.contestant.name not in (result.baseline, CONTROL)] if sections else []
    for block in blocks:
        line = block.lines[-1]
        if line.row.group != ALL or line.note:
            continue
        tiles = [_tile(column, line) for column in tables.COLUMNS if not column.is_wide]
        about = (
            f"{block.contestant.name} over {result.baseline}, {settings.described(sections[0].condition)}, all prompts"
        )
        yield _element("h3", about)
        yield _element("div", *tiles, class_="tiles")
        return


def _tile(column: tables.Column, line: tables.Line) -> _Markup:
    return _element("div", _element("b", _figure(column.cell(line.row))), _element("span", column.head), class_="tile")


def _overview(result: Result) -> _Markup:
    lines = [_line([contestant.name, *cells]) for contestant, cells in tables.overview(result)]
    table = _table(["", *(condition.name for condition in result.conditions)], [_element("tbody", *lines)], "brief")
    legend = _element("p", f"{tables.OVERVIEW[0].upper()}{tables.OVERVIEW[1:]}.", class_="muted")
    return _element("section", _element("h3", "Overview"), table, legend)


def _figures(result: Result, number: int) -> Iterator[_Markup]:
    for picture in pictures(result, str(number)):
        label = html.escape(picture.title)
        drawn = _Markup(picture.svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
        yield _element("figure", _element("h4", picture.title), drawn, _element("figcaption", picture.caption))


def _section(section: tables.Section, *, is_open: bool) -> _Markup:
    """Tables of one condition; all but the first wait to be opened."""
    parts = []
    for title, blocks in (
        ("", section.methods),
        ("Peers: other engines, each in an environment of its own", section.peers),
    ):
        if blocks:
            parts += [_element("h4", title)] if title else []
            heads = ["", *(column.head for column in tables.COLUMNS), "note"]
            parts.append(_table(heads, map(_block, blocks)))
    notes = [_element("li", f"{word}: {tables.NOTES[word]}") for word in tables.notes_of(section)]
    parts += [_element("ul", *notes, class_="muted")] if notes else []
    summary = _element("summary", f"{section.condition.name}: {settings.described(section.condition)}")
    return _element("details", summary, *parts, open="" if is_open else None)


def _block(block: tables.Block) -> _Markup:
    about = _element("span", f" {settings.introduced(block.contestant)}", class_="muted")
    name = _element("th", block.contestant.name, about, colspan=str(len(tables.COLUMNS) + 2), scope="rowgroup")
    lines = [
        _line(
            [line.row.group, *(_figure(column.cell(line.row)) for column in tables.COLUMNS)],
            " ".join(["total"] * (line.row.group == ALL) + ["uncounted"] * bool(line.note)),
            line.note,
        )
        for line in block.lines
    ]
    return _element("tbody", _element("tr", name, class_="name"), *lines)


def _remarks(result: Result) -> list[_Markup]:
    remarks = [_element("li", remark) for remark in tables.remarks(result)]
    return [_element("h3", "Failures and remarks"), _element("ul", *remarks)] if remarks else []


def _columns() -> _Markup:
    """What the columns say."""
    meanings = _definitions((column.head, column.about) for column in tables.COLUMNS)
    return _element("details", _element("summary", "What the columns say"), meanings)


def _download(result: Result) -> _Markup:
    data = base64.b64encode(dumped(result).encode("utf-8")).decode("ascii")
    link = _element("a", "the JSON of this result", href=f"data:application/json;base64,{data}", download="result.json")
    return _element("p", "All figures, with every single item: ", link, ".")


# --------------------------------------------------------------------------------
# Elements
# --------------------------------------------------------------------------------


def _element(name: str, *children: str, **attributes: str | None) -> _Markup:
    """An element; children are escaped unless they are markup, attributes always. None = without this attribute."""
    given = {key.rstrip("_"): value for key, value in attributes.items() if value is not None}
    text = "".join(f' {key}="{html.escape(value)}"' for key, value in given.items())
    return _Markup(f"<{name}{text}>{''.join(map(_escaped, children))}</{name}>")


def _escaped(text: str) -> str:
    return text if isinstance(text, _Markup) else html.escape(printable(text))


def _figure(cell: str) -> _Markup:
    """A figure with its interval in small."""
    value, bracket, interval = cell.partition(" [")
    return _Markup(_escaped(value) + (_element("small", bracket + interval) if bracket else ""))


def _table(heads: Sequence[str], bodies: Iterable[_Markup], kind: str = "") -> _Markup:
    """Wide tables scroll within their own frame; "brief" ones are no wider than they need."""
    head = _element("thead", _element("tr", *(_element("th", text, scope="col") for text in heads)))
    return _element("div", _element("table", head, *bodies), class_=f"scroll {kind}".strip())


def _line(cells: Sequence[str], kind: str = "", note: str | None = None) -> _Markup:
    first, *others = cells
    row = [_element("th", first, scope="row"), *(_element("td", cell) for cell in others)]
    row += [] if note is None else [_element("td", note, class_="note")]
    return _element("tr", *row, class_=kind or None)


def _definitions(pairs: Iterable[tuple[str, str]]) -> _Markup:
    lines = [_Markup(_element("dt", label) + _element("dd", text)) for label, text in pairs]
    return _element("dl", *lines)
