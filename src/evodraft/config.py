"""Names and options to parts: tables, option checking, and other projects' spellings.

Every plug-point has one table name -> Entry(config dataclass, build function). This module turns what a user wrote (a
name, "name:argument", a config dataclass, a mapping, or a ready object) into a config or that object. It does not know
what any option means: each variant's config checks its own ranges.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from evodraft.errors import ConfigError, UnknownOptionError


class Entry(NamedTuple):
    """A line of a plug-point's table."""

    config: type  # a frozen dataclass; its first field takes the argument of "name:argument"
    build: Callable[..., Any]  # called with a config, and what else the plug-point's docs name


@dataclass(frozen=True, slots=True)
class NoOptions:
    """Config of a part without options."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of one engine. Raises ConfigError for values outside their range."""

    max_batch: int = 8  # sessions that run at once; more wait in line
    max_model_len: int | None = None  # tokens per sequence; None = what model and memory allow
    kv_cache_gib: float | None = None  # memory for all slots of target and drafter; None = decided by the device
    gpu_memory_utilization: float = 0.9  # share of a GPU that may be filled, weights included
    prefill_budget: int = 512  # prompt tokens fed per step, so that running streams do not stall
    learner_budget_ms: float = 20.0  # time for learners between two rounds

    def __post_init__(self) -> None:
        check_range(self, "max_batch", 1, 1024)
        check_range(self, "max_model_len", 2, 2**31 - 1)
        check_range(self, "kv_cache_gib", 1e-3, 1e6)
        check_range(self, "gpu_memory_utilization", 0.05, 1.0)
        check_range(self, "prefill_budget", 1, 2**20)
        check_range(self, "learner_budget_ms", 0.0, 1e6)


def check_range(config: object, name: str, low: float, high: float) -> None:
    """Raises ConfigError unless `config.name` is None (if its default is) or a number within low .. high."""
    value = getattr(config, name)
    fields = {field.name: field for field in dataclasses.fields(config)}  # type: ignore[arg-type]  # a dataclass
    if value is None and fields[name].default is None:
        return
    wants_integer = isinstance(fields[name].default, int) or "int" in str(fields[name].type)
    is_number = isinstance(value, int if wants_integer else (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        kind = "whole number" if wants_integer else "number"
        raise ConfigError(f"{name}={value!r} is not a {kind} from {low:g} to {high:g}; choose one within")


def from_options(config_class: type, kind: str, options: Mapping[str, object]) -> Any:
    """A config from keyword options; an unknown one is an error that names the nearest.

    >>> from_options(EngineConfig, "engine", {"max_batch": 2}).max_batch
    2
    """
    known = [field.name for field in dataclasses.fields(config_class)]
    for name in options:
        if name not in known:
            raise UnknownOptionError(f"{kind} option", name, known)
    return config_class(**options)


def parse_part(kind: str, spec: object, table: Mapping[str, Entry]) -> tuple[Entry | None, Any]:
    """What the user meant by `spec`: (its table entry, its config), or (None, the object itself).

    >>> from evodraft.controllers import CONTROLLERS
    >>> parse_part("controller", "fixed:3", CONTROLLERS)[1]
    FixedConfig(num_draft_tokens=3, num_nodes=None)
    """
    if isinstance(spec, str):
        name, _, argument = spec.partition(":")
        entry = _lookup(kind, name, table)
        return entry, _with_argument(entry.config, f"{kind} {name!r}", argument)
    if isinstance(spec, Mapping):
        options = dict(spec)
        if "name" not in options:
            raise ConfigError(
                f"{kind}={dict(spec)!r} has no 'name'; write {{'name': ...}} with one of: {', '.join(table)}"
            )
        name = str(options.pop("name"))
        entry = _lookup(kind, name, table)
        return entry, from_options(entry.config, f"{kind} {name!r}", options)
    for entry in table.values():
        if isinstance(spec, entry.config) and entry.config is not NoOptions:
            return entry, spec
    return None, spec


def _lookup(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    if name not in table:
        raise UnknownOptionError(kind, name, table)
    return table[name]


def _with_argument(config_class: type, what: str, argument: str) -> Any:
    if not argument:
        return config_class()
    fields = dataclasses.fields(config_class)
    if not fields:
        raise ConfigError(f"{what} takes no argument, but {argument!r} was given; leave it out")
    first = fields[0]
    kind = typing.get_type_hints(config_class)[first.name]
    try:
        value = kind(argument) if kind in (int, float) else argument
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{what} needs {wanted} for {first.name}, not {argument!r}") from None
    return config_class(**{first.name: value})
