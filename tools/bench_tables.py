"""Fills the tables of README.md and docs from committed results of benchmarks, or checks that they are filled.

    python tools/bench_tables.py [--check]

Between the lines `<!-- bench:NAME -->` and `<!-- /bench -->` stands the compact form of benchmarks/results/NAME.json;
`<!-- bench:NAME CONTESTANT -->` chooses whose figures are shown by kind of prompt. A result is refused if it was
measured with other demo models than those in the tree, on a machine that was too noisy, or with synthetic
weights. Does not measure.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

from evodraft.bench.report import markdown
from evodraft.bench.schema import read
from evodraft.errors import BenchError

PROJECT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"
MANIFEST = "demo/src/evodraft_demo/MANIFEST.json"
_OPENING = re.compile(r"^<!-- bench:(?P<name>[\w-]+)(?: (?P<contestant>[^\n]+?))? -->$", re.MULTILINE)
_CLOSING = "\n<!-- /bench -->"


def main(arguments: list[str]) -> int:
    """Fills or checks all pages; 1 and a line for each fault if something is wrong. Nothing is written then."""
    if arguments not in ([], ["--check"]):
        print("usage: python tools/bench_tables.py [--check]", file=sys.stderr)
        return 2
    is_check, pages, faults = bool(arguments), {}, []
    for page in [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]:
        name, text = page.relative_to(PROJECT).as_posix(), page.read_text(encoding="utf-8")
        try:
            new = filled(text)
        except BenchError as error:
            faults.append(f"{name}: {error}")
            continue
        if new != text and is_check:
            faults.append(f"{name} is not what {RESULTS} says; run `python tools/bench_tables.py`")
        elif new != text:
            pages[page] = new
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        return 1
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")
    return 0


def filled(text: str) -> str:
    """A page with its tables. Raises BenchError for a result that must not be shown, and for a table without an end."""
    parts, start = [], 0
    for opening in _OPENING.finditer(text):
        end = text.find(_CLOSING, opening.end())
        if end < 0 or _OPENING.search(text, opening.end(), end):
            raise BenchError(f"{opening[0]} has no line {_CLOSING.strip()} after it")
        parts += [text[start : opening.end()], f"\n\n{table(opening['name'], opening['contestant'])}"]
        start = end
    return "".join([*parts, text[start:]])


def table(name: str, contestant: str | None = None) -> str:
    """The compact form of one result, after all checks."""
    path = PROJECT / RESULTS / f"{name}.json"
    result = read(path)
    manifest = (PROJECT / MANIFEST).read_bytes()
    bundle = hashlib.sha256(manifest).hexdigest()
    # `auto` took the small draft before there were heads: it did not change with them
    if result.model.sha256 not in (bundle, *json.loads(manifest).get("same_models_as", [])):
        raise BenchError(
            f"{RESULTS}/{name}.json was measured with weights {result.model.sha256 or 'without a manifest'}, "
            f"the bundle in the tree is {bundle}; measure again"
        )
    if result.noise is None or not result.noise.is_quiet:
        raise BenchError(f"{RESULTS}/{name}.json was measured on a machine that was too noisy; measure again")
    return markdown(result, compact=True, contestant=contestant)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
