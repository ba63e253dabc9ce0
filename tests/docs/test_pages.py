"""The documentation points at things that exist: files, headings of tests, paths of modules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("**/*.md")])

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_MODULE = re.compile(r"`((?!tests/)(?:[a-z_]+/)*[a-z_]+\.py|[a-z_]+/)`")


def _name(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


def _local_links(text: str) -> Iterator[str]:
    return (link for link in _LINK.findall(text) if "://" not in link and not link.startswith("mailto:"))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_local_links_lead_somewhere(page: Path) -> None:
    links = _local_links(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_named_tests_exist(page: Path) -> None:
    missing = []
    for file, test in _TEST.findall(page.read_text(encoding="utf-8")):
        source = (PROJECT / file).read_text(encoding="utf-8") if (PROJECT / file).is_file() else None
        if source is None or (test and not re.search(rf"^(class|def) {test}\b", source, re.MULTILINE)):
            missing.append(f"{file}::{test}")
    assert missing == []


@pytest.mark.parametrize("name", ["architecture.md", "paper_index.md"])
def test_named_modules_exist(name: str) -> None:
    text = (PROJECT / "docs" / name).read_text(encoding="utf-8")
    named = set(_MODULE.findall(text)) - {"base.py"}  # one in every folder of variants
    assert [path for path in sorted(named) if not (PROJECT / "src" / "evodraft" / path).exists()] == []


def test_every_page_is_in_a_table_of_the_index_once() -> None:
    index = (PROJECT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in PAGES if page.parent.name == "docs"} - {"index.md"}
    rows = "\n".join(line for line in index.splitlines() if line.startswith("|"))
    assert sorted(_local_links(rows)) == sorted(pages)


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_checks_find_what_is_wrong(tmp_path: Path) -> None:
    assert list(_local_links("[a](b.md#c) [d](https://e.f) ![g](h.png)")) == ["b.md", "h.png"]
    assert _TEST.findall("`tests/a/test_b.py::test_c` and `tests/d.py`") == [
        ("tests/a/test_b.py", "test_c"),
        ("tests/d.py", ""),
    ]
    assert _MODULE.findall("`drafters/model.py` `engine.py` `drafters/` `tests/test_a.py` `make test`") == [
        "drafters/model.py",
        "engine.py",
        "drafters/",
    ]
