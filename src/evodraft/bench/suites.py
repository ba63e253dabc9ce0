"""Suites: which prompts are asked, under which conditions, of which contestants. Reads TOML; measures nothing.

What a file may hold is in docs/benchmark_suites.md. Options of methods are checked where methods are built.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_type_hints

from evodraft.bench.fields import built, fitting
from evodraft.bench.result import ALL, CONTROL, VARIED
from evodraft.bench.sources import options_of
from evodraft.config import check_range
from evodraft.errors import BenchError, ConfigError, UnknownOptionError

MIN_REPEATS: Final = 3  # an interval over fewer says nothing
MAX_SEED: Final = 10**12  # seeds of single answers are a million times as large, and take 63 bits at most


@dataclass(frozen=True, slots=True)
class Condition:
    """How prompts are asked. Raises ConfigError for a value outside its range."""

    name: str
    temperature: float = 0.7
    repetition_penalty: float = 1.0
    batch_size: int = 1
    verifier: str = "rejection"  # of methods that name none
    prompt_tokens: int | None = None  # prompts of exactly this many tokens, cut or filled up; None = as they are

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("name='' names nothing; rows are found by it, so give one")
        check_range(self, "temperature", 0, 100)
        check_range(self, "repetition_penalty", 0.01, 100)
        check_range(self, "batch_size", 1, 1024)
        check_range(self, "prompt_tokens", 1, 2**20)


@dataclass(frozen=True, slots=True)
class Source:
    """Where prompts come from: one of the kinds in `evodraft.bench.sources`. Raises ConfigError for wrong options."""

    kind: str  # a name in the table of kinds
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options_of(self.kind, self.options)

    @property
    def label(self) -> str:
        """What a reader of a result sees; of a path only the file's name, of a table its keys.

        >>> Source("jsonl", {"path": "mine/prompts.jsonl", "group": "law"}).label
        'jsonl(path=prompts.jsonl, group=law)'
        """
        inner = ", ".join(f"{key}={_shown(key, value)}" for key, value in self.options.items())
        return f"{self.kind}({inner})" if inner else self.kind


@dataclass(frozen=True, slots=True)
class Suite:
    """What is measured, beside plain decoding. `quick` versions differ in size alone.

    Raises ConfigError for what cannot be measured.
    """

    name: str
    about: str
    sources: tuple[Source, ...]
    groups: tuple[str, ...]  # domains or tasks, in the order of the report; prompts of others are left out
    conditions: tuple[Condition, ...]  # the first is the headline
    methods: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # name -> options of LLM.from_pretrained
    peers: tuple[str, ...] = ()  # "transformers/plain", ...
    prompts_per_group: int = 8
    max_new_tokens: int = 128
    repeats: int = 3
    seed: int = 7
    ignore_eos: bool = False  # no token ends an answer, so that all have max_new_tokens
    phases: tuple[str, ...] = ()  # a stream: groups in this order, state kept from one to the next
    sha256: str = ""  # of the file
    is_quick: bool = False

    def __post_init__(self) -> None:
        for name in ("sources", "groups", "conditions"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; name at least one")
        _check_unique("groups", self.groups)
        _check_unique("conditions", [condition.name for condition in self.conditions])
        _check_unique("peers", self.peers)
        _check_names("groups", self.groups, {ALL, VARIED})
        _check_names("methods", self.methods, {CONTROL, "plain"})
        for phase in self.phases:
            if phase not in self.groups:
                raise UnknownOptionError("group in phases", phase, self.groups)
        for group in self.groups if self.phases else ():
            if group not in self.phases:
                raise ConfigError(f"group {group!r} is in no phase; add it to phases, or take it out of groups")
        self._check_sizes()

    def num_prompts(self, group: str) -> int:
        """Different prompts of one group that one repeat needs."""
        return self.prompts_per_group * max(1, self.phases.count(group))

    def _check_sizes(self) -> None:
        check_range(self, "prompts_per_group", 1, 10_000)
        check_range(self, "max_new_tokens", 1, 2**20)
        check_range(self, "repeats", MIN_REPEATS, 1000)
        check_range(self, "seed", 0, MAX_SEED)
        for condition in self.conditions:
            if self.prompts_per_group % condition.batch_size:
                raise ConfigError(
                    f"prompts_per_group={self.prompts_per_group} leaves a smaller last batch under condition "
                    f"{condition.name!r} of batch_size={condition.batch_size}; take a multiple of it"
                )


def suite_names() -> tuple[str, ...]:
    """The suites that ship with this version.

    >>> "domains" in suite_names()
    True
    """
    return tuple(sorted(path.stem for path in _shipped().glob("*.toml")))


def load_suite(
    name_or_path: str | os.PathLike[str], *, is_quick: bool = False, has_data: bool = False, **overrides: Any
) -> Suite:
    """The suite of this name, or of a TOML file anywhere.

    Args:
        name_or_path: a name in `suite_names()`, or a path.
        is_quick: take the sizes of its table `[quick]`.
        has_data: there is a data folder: take what its table `[data]` says, before `[quick]`.
        **overrides: keys of the file with other values, last of all; None = as it is in the file. `conditions` and
            `methods` may be lists of names, which choose among those of the file.

    Raises UnknownOptionError for an unknown suite or key, BenchError for a file that cannot be read, and ConfigError
    for a value that is wrong: each names the file and the remedy.

    >>> suite = load_suite("domains", prompts_per_group=2, conditions=["T=0"])
    >>> [condition.name for condition in suite.conditions], suite.num_prompts("law")
    (['T=0'], 2)
    """
    path = _find(name_or_path)
    content, where = _read(path), f"suite {path.name}"
    document = _parsed(content, where)
    tables = {key: _table(document.pop(key, {}), f"{where}, [{key}]") for key in ("data", "quick")}
    said = {key: value for key, value in overrides.items() if value is not None}
    layers: dict[str, Mapping[str, object]] = {where: document}
    if has_data:
        layers[f"{where}, [data]"] = tables["data"]
    if is_quick:
        layers[f"{where}, [quick]"] = tables["quick"]
    layers[f"{where} with overrides"] = said
    values: dict[str, Any] = {"name": path.stem, "sha256": hashlib.sha256(content).hexdigest(), "is_quick": is_quick}
    for place, layer in layers.items():
        _take(values, layer, place)
        suite = built(Suite, place, values)  # every layer on its own: what a later one leaves out is checked too
    return suite


# --------------------------------------------------------------------------------
# The file
# --------------------------------------------------------------------------------


def _shipped() -> Path:
    return Path(str(importlib.resources.files("evodraft.bench"))) / "suites"


def _find(name_or_path: str | os.PathLike[str]) -> Path:
    path = Path(name_or_path)
    if str(name_or_path) in suite_names():
        return _shipped() / f"{path.name}.toml"
    if path.suffix == ".toml" or len(path.parts) > 1:
        return path
    raise UnknownOptionError("suite", str(name_or_path), suite_names())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        names = ", ".join(suite_names())
        raise BenchError(f"cannot read suite {path}: {error.strerror}; shipped suites are {names}") from error


def _parsed(content: bytes, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BenchError(f"{where} is not TOML: {error}; mend it") from error


def _table(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}={value!r} is not a table; write its keys below a line with its name in brackets")
    return value


# --------------------------------------------------------------------------------
# The keys
# --------------------------------------------------------------------------------


def _take(values: dict[str, Any], layer: Mapping[str, object], where: str) -> None:
    """Puts what one layer says over what earlier ones said."""
    hints = get_type_hints(Suite)
    known = [name for name in hints if name not in ("name", "sha256", "is_quick")]
    for key, value in layer.items():
        if key not in known:
            raise UnknownOptionError(f"key of {where}", key, [*known, "quick", "data"])
        if key in _READERS:
            values[key] = _READERS[key](value, values.get(key, ()), where)
        else:
            values[key] = fitting(value, hints[key], where, key)


def _conditions(value: object, before: Sequence[Condition], where: str) -> tuple[Condition, ...]:
    """Conditions of tables, or chosen by name among those of `before`."""
    by_name = {condition.name: condition for condition in before}
    chosen = []
    for number, entry in enumerate(_entries("conditions", value, where), 1):
        if isinstance(entry, Condition):
            chosen.append(entry)
        elif isinstance(entry, Mapping):
            chosen.append(built(Condition, f"{where}, condition {entry.get('name', number)!r}", entry))
        elif entry in by_name:
            chosen.append(by_name[entry])
        else:
            raise UnknownOptionError(f"condition of {where}", entry, by_name)
    return tuple(chosen)


def _sources(value: object, before: object, where: str) -> tuple[Source, ...]:
    chosen = []
    for number, entry in enumerate(_entries("sources", value, where), 1):
        if isinstance(entry, Source):
            chosen.append(entry)
            continue
        what = f"{where}, source {number}"
        options = dict(_table(entry, what))
        if "kind" not in options:
            raise ConfigError(f"{what} has no key 'kind'; add it")
        kind = fitting(options.pop("kind"), str, what, "kind")
        chosen.append(built(Source, what, {"kind": kind, "options": options}))
    return tuple(chosen)


def _methods(value: object, before: Any, where: str) -> dict[str, Mapping[str, object]]:
    """Methods of a table of tables, or chosen by name among those of `before`."""
    if isinstance(value, Mapping):
        return {name: fitting(options, Mapping[str, object], where, name) for name, options in value.items()}
    known: Mapping[str, Mapping[str, object]] = dict(before)
    chosen = _entries("methods", value, where)
    for name in chosen:
        if name not in known:
            raise UnknownOptionError(f"method of {where}", name, known)
    return {name: known[name] for name in chosen}


_READERS: Final[Mapping[str, Callable[[object, Any, str], object]]] = {
    "conditions": _conditions,
    "sources": _sources,
    "methods": _methods,
}


def _entries(key: str, value: object, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where}: {key}={value!r} is not a list; write [[{key}]] above each entry, or [...]")
    return value


def _shown(key: str, value: object) -> str:
    if key == "path":
        return Path(str(value)).name
    return "/".join(map(str, value)) if isinstance(value, Mapping | list | tuple) else str(value)


def _check_unique(key: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{key}: {name!r} is there twice; rows are found by it, so rename or drop one")


def _check_names(key: str, names: Iterable[str], reserved: set[str]) -> None:
    for name in names:
        if not name or name in reserved or "/" in name:
            raise ConfigError(f"{key}: {name!r} is taken, empty, or has a '/' as the names of peers do; rename it")
