"""Results as JSON files: strict in both directions. Knows types, not what a figure means.

Objects are JSON objects under the names of `evodraft.bench.result`. `items`, of which there are thousands, are a table:
a list whose first entry names the columns. Options of contestants may be anything that JSON has; tuples among them come
back as lists. NaN and infinity are refused: JSON has neither.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, cast, get_args, get_origin, get_type_hints

from evodraft.bench.result import SCHEMA, Result
from evodraft.errors import BenchError

_LARGEST = 2**63
_NAMES: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def document(result: Result) -> dict[str, Any]:
    """What `write` writes, made of dictionaries, lists, strings and numbers. Raises BenchError for a number that JSON
    does not have and for a value of another kind."""
    return cast("dict[str, Any]", _encoded(result, ""))


def dumped(result: Result) -> str:
    """The text of a result's file: one line for each entry of a long part, so that versions of it can be compared."""
    parts = [f"{json.dumps(key)}: {_part(value)}" for key, value in document(result).items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write(path: Path, result: Result) -> None:
    """Writes a result as JSON; folders on the way are made. Raises BenchError if it cannot."""
    text = dumped(result)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror}; choose another file") from error


def read(path: Path) -> Result:
    """The result in a file. Raises BenchError, with the place, for anything that `write` would not have written."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise BenchError(
            f"cannot read {path}: {error.strerror}; `evodraft bench run SUITE --json FILE` makes one"
        ) from error
    except UnicodeDecodeError as error:
        raise BenchError(f"{path} is not JSON: byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise BenchError(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # NaN; a number of thousands of digits; brackets without end
        raise BenchError(f"{path} is not JSON that a result can be read from: {error}") from error
    try:
        return parsed(loaded)
    except BenchError as error:
        raise BenchError(f"{path}: {error}") from None
    except RecursionError:
        raise BenchError(f"{path} is nested too deeply for a result") from None


def parsed(loaded: object) -> Result:
    """The result that `document` made this of. Raises BenchError."""
    if not isinstance(loaded, dict):
        raise BenchError(f"the result is {_kind(loaded)}, not an object; was it written by `evodraft bench run`?")
    if "schema" not in loaded:
        raise BenchError(f"there is no key 'schema', so this is no result of a benchmark; supported: {SCHEMA!r}")
    if loaded["schema"] != SCHEMA:
        raise BenchError(
            f"schema {loaded['schema']!r} is not known; this version reads {SCHEMA!r}: run the suite again"
        )
    return cast("Result", _decoded(loaded, Result, ""))


# --------------------------------------------------------------------------------
# To JSON
# --------------------------------------------------------------------------------


def _encoded(value: object, path: str) -> object:
    match value:
        case None | bool() | int() | float() | str():
            return _single(value, path)
        case Mapping():
            return {_key(key, path): _encoded(entry, _inner(path, key)) for key, entry in value.items()}
        case tuple() | list():
            return _encoded_sequence(value, path)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encoded(getattr(value, f.name), _inner(path, f.name)) for f in fields(value)}
    return _wrong(path, f"values of type {type(value).__name__} cannot be written as JSON")


def _encoded_sequence(values: Sequence[object], path: str) -> list[object]:
    columns = getattr(values[0], "_fields", None) if values else None
    if columns is None:
        return [_encoded(entry, f"{path}[{number}]") for number, entry in enumerate(values)]
    lines = [
        _encoded_line(cast("tuple[object, ...]", line), columns, f"{path}[{n}]") for n, line in enumerate(values, 1)
    ]
    return [list(columns), *lines]


def _encoded_line(line: tuple[object, ...], columns: Sequence[str], path: str) -> list[object]:
    return [_encoded(entry, f"{path}.{name}") for name, entry in zip(columns, line, strict=True)]


def _part(value: object) -> str:
    """A list of lists or objects: one of them a line."""
    if isinstance(value, list) and any(isinstance(entry, list | dict) for entry in value):
        return "[\n" + ",\n".join(_compact(entry) for entry in value) + "\n]"
    return _compact(value)


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


# --------------------------------------------------------------------------------
# From JSON
# --------------------------------------------------------------------------------


def _decoded(value: object, hint: Any, path: str) -> object:
    """`value` as `hint` wants it: a dataclass, `X | None`, a Literal, `tuple[X, ...]`, `Mapping[str, X]`, or single."""
    if is_dataclass(hint):
        return _decoded_object(value, cast("type", hint), path)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        [inner] = [argument for argument in arguments if argument is not types.NoneType]
        return None if value is None else _decoded(value, inner, path)
    if origin is Literal:
        return value if value in arguments else _wrong(path, f"{_kind(value)} instead of {_either(arguments)}")
    if origin is tuple:
        return _decoded_sequence(value, arguments[0], path)
    if origin is Mapping:
        entries = _of_type(value, dict, path)
        return {_key(key, path): _decoded(entry, arguments[1], _inner(path, key)) for key, entry in entries.items()}
    if hint is object:
        return _encoded(value, path)  # finite numbers and real text only
    if hint is float and type(value) is int:
        return _float(value, path)
    return _single(_of_type(value, hint, path), path)


def _decoded_object(value: object, kind: type, path: str) -> object:
    entries = _of_type(value, dict, path)
    hints = get_type_hints(kind)
    _check_names(entries, hints, path)
    return kind(**{name: _decoded(entries[name], hint, _inner(path, name)) for name, hint in hints.items()})


def _decoded_sequence(value: object, hint: Any, path: str) -> tuple[object, ...]:
    entries = _of_type(value, list, path)
    if not hasattr(hint, "_fields") or not entries:
        return tuple(_decoded(entry, hint, f"{path}[{number}]") for number, entry in enumerate(entries))
    columns, hints = _of_type(entries[0], list, f"{path}[0]"), get_type_hints(hint)
    _check_names([_of_type(name, str, f"{path}[0]") for name in columns], hints, f"{path}[0]")
    return tuple(_decoded_line(line, hint, hints, columns, f"{path}[{n}]") for n, line in enumerate(entries[1:], 1))


def _decoded_line(line: object, kind: Any, hints: Mapping[str, Any], columns: Sequence[str], path: str) -> object:
    entries = _of_type(line, list, path)
    if len(entries) != len(columns):
        _wrong(path, f"{len(entries)} entries for {len(columns)} columns")
    pairs = zip(columns, entries, strict=True)
    return kind(**{name: _decoded(entry, hints[name], f"{path}.{name}") for name, entry in pairs})


def _check_names(given: Iterable[str], wanted: Iterable[str], path: str) -> None:
    names, known = list(given), list(wanted)
    for name in known:
        if names.count(name) != 1:
            _wrong(_inner(path, name), "is missing" if name not in names else "is there twice")
    for name in names:
        if name not in known:
            _wrong(_inner(path, name), f"is not known; known are {', '.join(known)}")


# --------------------------------------------------------------------------------
# Single values and complaints
# --------------------------------------------------------------------------------


def _of_type(value: object, kind: type, path: str) -> Any:
    if type(value) is not kind:  # not isinstance: True is no number
        _wrong(path, f"{_kind(value)} instead of {_NAMES[kind]}")
    return value


def _single(value: object, path: str) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        _wrong(path, f"{value} is no number that JSON has")
    if isinstance(value, int) and abs(value) >= _LARGEST:
        _wrong(path, "the number is too large")
    return _key(value, path) if isinstance(value, str) else value


def _float(value: int, path: str) -> float:
    try:
        return float(value)
    except OverflowError:
        _wrong(path, "the number is too large")


def _key(text: object, path: str) -> str:
    """Text that a file can hold."""
    if not isinstance(text, str):
        _wrong(path, f"the key {text!r} is not text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        _wrong(path, f"{text!r} holds half of a character")
    return text


def _kind(value: object) -> str:
    return f"the text {value[:40]!r}" if isinstance(value, str) else _NAMES.get(type(value), type(value).__name__)


def _either(values: Sequence[object]) -> str:
    return " or ".join(map(repr, values))


def _inner(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON has")


def _wrong(path: str, complaint: str) -> NoReturn:
    raise BenchError(f"{path or 'the result'}: {complaint}")
