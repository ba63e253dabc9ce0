"""Results survive their file, and a file that is no result is refused with the place."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evodraft.bench import schema
from evodraft.bench.result import (
    SCHEMA,
    ContestantRecord,
    Interval,
    Item,
    MachineRecord,
    ModelRecord,
    Noise,
    Result,
    Row,
    SuiteRecord,
)
from evodraft.errors import BenchError

INTEGERS = st.integers(-(2**63) + 1, 2**63 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SINGLE: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=8),
    int: INTEGERS,
    float: FINITE,
    bool: st.booleans(),
    types.NoneType: st.none(),
    object: st.recursive(
        st.none() | st.booleans() | INTEGERS | FINITE | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
        max_leaves=4,
    ),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Anything that a field of this type may hold."""
    if hint in SINGLE:
        return SINGLE[hint]
    arguments = get_args(hint)
    if is_dataclass(hint) or hasattr(hint, "_fields"):
        return st.builds(hint, **{name: values_of(inner) for name, inner in get_type_hints(hint).items()})
    if get_origin(hint) is Literal:
        return st.sampled_from(arguments)
    if get_origin(hint) is tuple:
        return st.lists(values_of(arguments[0]), max_size=2).map(tuple)
    if get_origin(hint) is Mapping:
        return st.dictionaries(st.text(max_size=8), values_of(arguments[1]), max_size=2)
    return st.one_of(*map(values_of, arguments))


results = values_of(Result).map(lambda result: replace(result, schema=SCHEMA))


@given(results)
@settings(max_examples=60)
def test_a_result_survives_its_json(result: Result) -> None:
    text = schema.dumped(result)
    assert schema.parsed(json.loads(text)) == result
    assert schema.dumped(schema.parsed(json.loads(text))) == text


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "result.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def document(result: Result) -> dict[str, Any]:
    """Of a small result; tests break it."""
    broken: dict[str, Any] = json.loads(schema.dumped(result))
    return broken


@pytest.fixture
def result() -> Result:
    row = Row("code", "T=0.7", "auto", 8, 3, speed_up=Interval(1.4, 1.3, 1.5))
    items = tuple(Item(n, "code", "T=0.7", "auto", 0, 64, 1.5, None, None, None, None, None) for n in range(3))
    return Result(
        SCHEMA,
        "2026-11-21",
        None,
        ("evodraft", "bench"),
        12.0,
        SuiteRecord("domains", "a", "b", ("own",), True, 64, ()),
        ModelRecord("demo", None, 12, "bfloat16", None),
        MachineRecord("a processor", (), 2, 2, None, 15.5),
        {"torch": "2.13.0"},
        7,
        "plain",
        (),
        (),
        (row, row),
        items,
        Noise("T=0.7", Interval(1.0, 0.99, 1.01), True),
    )


def test_a_file_is_written_and_read(tmp_path: Path, result: Result) -> None:
    path = tmp_path / "there" / "result.json"
    schema.write(path, result)
    assert schema.read(path) == result
    assert path.read_bytes().endswith(b"}\n")


def test_items_are_a_table_with_one_line_each(result: Result) -> None:
    lines = schema.dumped(result).splitlines()
    start = lines.index('"items": [')
    assert json.loads(lines[start + 1].rstrip(",")) == list(Item._fields)
    assert lines[start + 2] == '[0,"code","T=0.7","auto",0,64,1.5,null,null,null,null,null],'
    assert all(line == line.rstrip() for line in lines)


def test_columns_of_items_may_stand_in_another_order(document: dict[str, Any], result: Result) -> None:
    document["items"] = [line[::-1] for line in document["items"]]
    assert schema.parsed(document) == result


def test_a_whole_number_will_do_where_a_number_is_wanted(document: dict[str, Any]) -> None:
    document["seconds"] = 12
    assert schema.parsed(document).seconds == 12.0


def test_tuples_in_options_come_back_as_lists(document: dict[str, Any], result: Result) -> None:
    one = ContestantRecord("auto", "method", {"sizes": (1, 2)}, {}, True, None, "", None)
    written = json.loads(schema.dumped(replace(result, contestants=(one,))))
    assert schema.parsed(written).contestants[0].options == {"sizes": [1, 2]}


# --------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------


def _set(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner: Any = document
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = to

    return change


def _drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner: Any = document
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            _set("schema", to="evodraft.bench/0"),
            f"schema 'evodraft.bench/0' is not known; this version reads '{SCHEMA}'",
        ),
        (_drop("schema"), f"no key 'schema', so this is no result of a benchmark; supported: '{SCHEMA}'"),
        (_drop("suite"), "suite: is missing"),
        (_drop("rows", 1, "group"), "rows[1].group: is missing"),
        (_set("colour", to=1), "colour: is not known; known are schema, date"),
        (_set("rows", 1, "colour", to=1), "rows[1].colour: is not known"),
        (_set("rows", 1, "speed_up", "low", to="fast"), "rows[1].speed_up.low: the text 'fast' instead of a number"),
        (_set("rows", 1, "speed_up", to=[1, 2, 3]), "rows[1].speed_up: a list instead of an object"),
        (_set("rows", 0, "num_prompts", to=8.0), "rows[0].num_prompts: a number instead of a whole number"),
        (_set("rows", 0, "num_prompts", to=True), "rows[0].num_prompts: true or false instead of a whole number"),
        (_set("rows", 0, "num_prompts", to=None), "rows[0].num_prompts: null instead of a whole number"),
        (_set("rows", to={}), "rows: an object instead of a list"),
        (_set("versions", to=[]), "versions: a list instead of an object"),
        (_set("versions", "torch", to=2), "versions.torch: a whole number instead of text"),
        (_set("seconds", to=10**400), "seconds: the number is too large"),
        (_set("model", "num_parameters", to=10**400), "model.num_parameters: the number is too large"),
        (_set("date", to="\ud800"), "date: '\\ud800' holds half of a character"),
        (_set("items", 2, to=[1]), "items[2]: 1 entries for 12 columns"),
        (_set("items", 2, 6, to="long"), "items[2].request_s: the text 'long' instead of a number"),
        (_set("items", 0, 0, to="nr"), "items[0].number: is missing"),
        (_set("items", 0, 0, to="group"), "items[0].number: is missing"),
        (_set("items", 0, 0, to=1), "items[0]: a whole number instead of text"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(
    document: dict[str, Any], write: Callable[[str], Path], change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    change(document)
    path = write(json.dumps(document))
    with pytest.raises(BenchError) as caught:
        schema.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)


def test_a_column_that_is_there_twice_is_refused(document: dict[str, Any]) -> None:
    document["items"] = [[*line, line[0]] for line in document["items"]]
    with pytest.raises(BenchError, match=r"items\[0\].number: is there twice"):
        schema.parsed(document)


def test_a_kind_that_nobody_knows_is_refused(document: dict[str, Any]) -> None:
    document["rows"][0]["check"] = {"kind": "hope", "is_passed": True, "num_identical": None, "num_outputs": 0}
    document["rows"][0]["check"] |= {"worst_deficit_nats": None, "tolerance_nats": None, "p_value": None, "note": ""}
    with pytest.raises(BenchError, match=r"rows\[0\].check.kind: the text 'hope' instead of 'equality' or"):
        schema.parsed(document)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is not JSON: line 1, column 1: Expecting value"),
        ('{"schema":\n x}', "is not JSON: line 2, column 2: Expecting value"),
        (b"\xff{}", "is not JSON: byte 0 is not UTF-8"),
        ('{"schema": NaN}', "NaN is no number that JSON has"),
        ('{"schema": -Infinity}', "-Infinity is no number that JSON has"),
        ("[" * 100_000, "is not JSON that a result can be read from: "),
        (f'{{"schema": {"1" * 5000}}}', "is not JSON that a result can be read from: "),
        ("[]", "the result is a list, not an object; was it written by `evodraft bench run`?"),
        ("null", "the result is null, not an object"),
        ("{}", "no key 'schema'"),
    ],
)
def test_a_file_that_is_no_result_is_refused(
    write: Callable[[str | bytes], Path], content: str | bytes, complaint: str
) -> None:
    with pytest.raises(BenchError) as caught:
        schema.read(write(content))
    assert complaint in str(caught.value)


def test_brackets_without_end_are_refused(document: dict[str, Any], write: Callable[[str], Path]) -> None:
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    entry = {"name": "auto", "kind": "method", "options": {"deep": deep}, "versions": {}, "is_exact": True}
    document["contestants"] = [{**entry, "synthetic": None, "label": "", "memory": None}]
    with pytest.raises(BenchError, match="is nested too deeply for a result"):
        schema.read(write(json.dumps(document)))


def test_an_overflow_is_no_number(document: dict[str, Any], write: Callable[[str], Path]) -> None:
    text = json.dumps(document).replace('"seconds": 12.0', '"seconds": 1e999')
    with pytest.raises(BenchError, match="seconds: inf is no number that JSON has"):
        schema.read(write(text))


def test_a_file_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"cannot read .*gone.json: No such file.*bench run SUITE --json FILE"):
        schema.read(tmp_path / "gone.json")


def test_a_folder_cannot_be_written(tmp_path: Path, result: Result) -> None:
    with pytest.raises(BenchError, match="cannot write .*; choose another file"):
        schema.write(tmp_path, result)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_not_are_not_written(tmp_path: Path, result: Result, number: float) -> None:
    item = result.items[1]._replace(request_s=number)
    with pytest.raises(BenchError, match=r"items\[2\].request_s: -?(nan|inf) is no number that JSON has"):
        schema.write(tmp_path / "x.json", replace(result, items=(result.items[0], item)))
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("versions", "complaint"),
    [
        ({"torch": object()}, "versions.torch: values of type object cannot be written as JSON"),
        ({1: "one"}, "versions: the key 1 is not text"),
        ({"\ud800": "x"}, "versions: '\\ud800' holds half of a character"),
    ],
)
def test_what_is_no_json_is_not_written(result: Result, versions: Any, complaint: str) -> None:
    with pytest.raises(BenchError) as caught:
        schema.document(replace(result, versions=versions))
    assert complaint in str(caught.value)


def test_every_field_is_written(result: Result) -> None:
    assert list(schema.document(result)) == [field.name for field in fields(Result)]
