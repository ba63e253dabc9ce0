"""The page stands alone, escapes everything foreign, and carries its data."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from evodraft.bench import schema
from evodraft.bench.report import html, tables
from evodraft.bench.result import Result
from evodraft.errors import BenchError

VOID = {"meta"}


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.around: list[str] = []  # tags outside of pictures
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.around += [] if "svg" in self.open else [tag, *(name for name, _ in attrs)]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    """Pages that several tests read; drawing takes a second each."""
    return {}


def page_of(drawn: dict[str, str], name: str, *results: Result) -> str:
    if name not in drawn:
        drawn[name] = html(results)
    return drawn[name]


def test_the_page_needs_nothing_from_elsewhere(domains: Result, drawn: dict[str, str]) -> None:
    text = page_of(drawn, "domains", domains)
    page = Page(text)
    assert text.startswith('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">')
    assert not page.tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "image"}
    links = [value for _, name, value in page.attributes if name in {"href", "src", "xlink:href", "action", "srcset"}]
    assert {link.partition(",")[0] for link in links if not link.startswith("#")} == {"data:application/json;base64"}
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    [policy] = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content") and "src" in value]
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert re.findall(r"@import|url\((?!#)", text) == []


def test_the_page_has_pictures_tables_settings_and_failures(domains: Result, drawn: dict[str, str]) -> None:
    text = page_of(drawn, "domains", domains)
    page = Page(text)
    assert page.tags["figure"] == page.tags["figcaption"] == page.tags["svg"] == 8
    assert page.tags["details"] == len(domains.conditions) + 1
    assert page.tags["table"] == 1 + 2 * len(domains.conditions)
    said = set(page.texts)
    assert "openvino/plain, greedy-penalty, math: failed: the process ended with signal 9" in said
    assert "Synthetic, forced:0.8: accepts 4 of 5 draft tokens, whatever they are." in said
    assert "AMD EPYC, avx2 avx512_bf16" in said
    assert {"repetitive", "synthetic", "check failed", "failed"} <= said
    assert "prefers-color-scheme: dark" in text
    assert "auto over plain, temperature 0.7, rejection, all prompts" in said


def test_every_name_inside_occurs_once(domains: Result, drawn: dict[str, str]) -> None:
    names = Counter(value for _, name, value in Page(page_of(drawn, "domains", domains)).attributes if name == "id")
    assert [name for name, count in names.items() if count > 1] == []


def test_the_page_carries_its_data(domains: Result, drawn: dict[str, str]) -> None:
    [data] = re.findall(r'href="data:application/json;base64,([^"]+)"', page_of(drawn, "domains", domains))
    assert schema.parsed(json.loads(base64.b64decode(data))) == domains


def test_the_same_result_gives_the_same_page(shift: Result, drawn: dict[str, str]) -> None:
    assert page_of(drawn, "shift", shift) == html([shift])


def test_foreign_words_are_no_markup(shift: Result, renamed: Callable[[Result, str], Result]) -> None:
    """Outside of pictures, tags and attributes are those of a harmless page one by one; inside, none is new."""
    words = "'\"></style></title></td><script>alert(1)</script><img src=x onerror=alert(1)>&lt;\x1b]0;"
    small = replace(shift, rows=shift.rows[:8], items=shift.items[:90])
    usual, hostile = Page(html([renamed(small, "x")])), Page(html([renamed(small, words)]))
    assert hostile.around == usual.around
    assert hostile.tags.keys() == usual.tags.keys()
    assert any(words.replace("\x1b", "\ufffd") in text for text in hostile.texts)


def test_a_noisy_run_warns_at_the_top(shift: Result, drawn: dict[str, str]) -> None:
    text = page_of(drawn, "shift", shift)
    assert '<p class="banner bad">Control: machine too noisy' in text
    assert text.index("machine too noisy") < text.index("<figure>")


def test_what_does_not_count_makes_no_headline(shift: Result) -> None:
    uncounted = replace(shift, rows=tuple(replace(row, is_counted=False) for row in shift.rows), items=())
    assert 'class="tiles"' not in html([uncounted])


def test_several_results_stand_side_by_side(shift: Result, batch: Result) -> None:
    page = Page(html([shift, batch]))
    assert {"Side by side", "1: shift", "2: batch", "1: shift, demo, 2026-11-21"} <= set(page.texts)
    names = Counter(value for _, name, value in page.attributes if name == "id")
    assert set(names.values()) == {1}


def test_a_result_without_anything_is_a_page(domains: Result) -> None:
    empty = replace(domains, rows=(), items=(), contestants=(), conditions=())
    assert Page(html([empty, empty])).tags["svg"] == 0
    assert tables.NONE not in html([empty])


def test_no_result_is_no_page() -> None:
    with pytest.raises(
        BenchError, match="there is no result to show; `evodraft bench run SUITE --json FILE` makes one"
    ):
        html([])
