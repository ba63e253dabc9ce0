"""Reads the registry of published drafts and checks every field.

A name in it is a hub id, compared exactly and never used as a path. Does not load models, and does not know which
methods this version can run.
"""

from __future__ import annotations

import importlib.resources
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Final

from evodraft.config import from_options
from evodraft.drafters.base import RegisteredDraft
from evodraft.errors import ConfigError, UnknownOptionError

METHODS: Final = ("eagle3", "model")  # vLLM's spelling for heads

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class PublishedDraft:
    """One `[[draft]]` of registry.toml, which says what the fields mean. Raises ConfigError for what is no value."""

    name: str
    method: str
    revision: str
    license: str
    evidence: str
    targets: list[str]
    verified: list[str]
    note: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), list if "list" in str(field.type) else str
            if not isinstance(value, kind):
                self._refuse(field.name, "a list of hub ids" if kind is list else "a string")
        if self.method not in METHODS:
            raise UnknownOptionError(f"method of {self.name}", self.method, METHODS)
        for name in ("name", "targets", "verified"):
            value = getattr(self, name)
            if not all(_is_hub_id(part) for part in (value if isinstance(value, list) else [value])):
                self._refuse(name, "made of hub ids 'owner/model'")
        if not self.targets or self.name in self.targets:
            self._refuse("targets", "a list of one or more other models")
        if self.revision != "main" and not _COMMIT.fullmatch(self.revision):
            self._refuse("revision", "'main' or a commit of 40 hexadecimal digits")
        if not self.license:
            self._refuse("license", "a licence; write 'unknown' where it is not established")
        if not self.evidence.startswith("https://"):
            self._refuse("evidence", "an address that starts with https://")
        if not set(self.verified) <= set(self.targets):
            self._refuse("verified", "a part of targets")
        if self.verified and self.revision == "main":
            self._refuse("revision", "a commit, because what 'main' names can change after it was verified")

    def _refuse(self, name: str, wanted: str) -> None:
        raise ConfigError(f"registry: {name}={getattr(self, name)!r} of draft {self.name!r} is not {wanted}; mend it")


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and a published draft for it."""

    target: str
    draft: PublishedDraft
    is_verified: bool


def read_registry() -> tuple[Pair, ...]:
    """All pairs that ship with this version, drafts in order of preference.

    >>> len(read_registry()) >= 15
    True
    """
    source = importlib.resources.files("evodraft.zoo") / "registry.toml"
    return parse_registry(source.read_text(encoding="utf-8"))


def parse_registry(text: str) -> tuple[Pair, ...]:
    """The pairs of a TOML document like registry.toml.

    Raises ConfigError for a value that is none, an unknown key, or a pair of target and method that comes twice.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"registry: {error}; mend the TOML") from error
    for key in document:
        if key != "draft":
            raise UnknownOptionError("registry table", key, ["draft"])
    tables = document.get("draft", [])
    if not isinstance(tables, list):
        raise ConfigError("registry: [draft] is one table and not a list of them; write [[draft]]")
    pairs = tuple(pair for table in tables for pair in _pairs(table))
    _check_unique(pairs)
    return pairs


def registered_drafts(target: str) -> tuple[RegisteredDraft, ...]:
    """Drafts for the target with this hub id, the preferred one first; none for a target that nobody registered.

    >>> [draft.name for draft in registered_drafts("Qwen/Qwen2.5-7B-Instruct")]
    ['Qwen/Qwen2.5-0.5B-Instruct']
    """
    return tuple(
        RegisteredDraft(draft.name, draft.method, draft.revision, draft.license, pair.is_verified, draft.note)
        for pair in read_registry()
        for draft in [pair.draft]
        if pair.target == target
    )


def _pairs(table: Mapping[str, object]) -> Iterator[Pair]:
    required = [field.name for field in fields(PublishedDraft) if field.default is MISSING]
    missing = [name for name in required if name not in table]
    if missing:
        raise ConfigError(f"registry: draft {table.get('name')!r} has no {', '.join(missing)}; every draft needs them")
    draft: PublishedDraft = from_options(PublishedDraft, f"registry draft {table['name']!r}", table)
    for target in draft.targets:
        yield Pair(target, draft, target in draft.verified)


def _check_unique(pairs: tuple[Pair, ...]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for pair in pairs:
        key = (pair.target, pair.draft.method)
        if key in seen:
            raise ConfigError(
                f"registry: target {pair.target!r} has two drafts of method {pair.draft.method!r}, {seen[key]!r} and "
                f"{pair.draft.name!r}; keep the better one"
            )
        seen[key] = pair.draft.name


def _is_hub_id(text: object) -> bool:
    return isinstance(text, str) and _HUB_ID.fullmatch(text) is not None and ".." not in text
