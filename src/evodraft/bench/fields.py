"""Values that somebody wrote (TOML, keywords) to a frozen dataclass. Does not know which dataclass, or which file.

A field may be a string, a number, a truth value, `X | None`, `tuple[X, ...]`, `Mapping[str, X]`, or `object`. Ranges
are checked by the dataclass itself.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from evodraft.errors import ConfigError, UnknownOptionError

T = TypeVar("T")

_SINGLE: Mapping[Any, str] = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def built(kind: type[T], what: str, values: Mapping[str, object]) -> T:
    """A `kind` with the fields `values`; `what` names it in complaints.

    Raises UnknownOptionError for a key that is no field, ConfigError for a field that is missing, of another type, or
    refused by the dataclass.
    """
    hints = get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise UnknownOptionError(f"key of {what}", name, hints)
    for field in fields(kind):  # type: ignore[arg-type]  # callers pass dataclasses
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{what} has no key {field.name!r}; add it ({wanted(hints[field.name])})")
    fitted = {name: fitting(value, hints[name], what, name) for name, value in values.items()}
    try:
        return kind(**fitted)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error


def fitting(value: object, hint: Any, what: str, key: str) -> Any:
    """`value` as the field type `hint` wants it: lists become tuples. Raises ConfigError for another type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        [inner] = [argument for argument in arguments if argument is not types.NoneType]
        return None if value is None else fitting(value, inner, what, key)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(fitting(entry, arguments[0], what, key) for entry in value)
    if origin is Mapping and isinstance(value, Mapping):
        return {str(name): fitting(entry, arguments[1], what, f"{key}.{name}") for name, entry in value.items()}
    if hint is object or type(value) is hint or (hint is float and type(value) is int):
        return value
    raise ConfigError(f"{what}: {key}={value!r} is not {wanted(hint)}; write it as one")


def wanted(hint: Any) -> str:
    """A field type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return f"a list, each entry {wanted(arguments[0])}"
    return _SINGLE.get(hint, "a table")
