"""Where prompts come from: one table of kinds, each with its options. Does not know how many are chosen, or how asked.

A kind reads or makes all prompts that it has for the wanted groups, in a fixed order; `evodraft.bench.prompts` chooses.
The layout of the data folder is described in docs/benchmark_suites.md.
"""

from __future__ import annotations

import importlib
import importlib.resources
import os
import random
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, NamedTuple

from evodraft.bench.fields import built
from evodraft.bench.jsonl import Record, read_records
from evodraft.config import Entry, check_range
from evodraft.errors import BenchError, UnknownOptionError

DATA_VARIABLE: Final = "EVODRAFT_BENCH_DATA"
_MAX_RAW_ID: Final = 2**31


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, or the beginning of a text."""

    group: str  # domain or task
    text: str
    is_chat: bool = True  # asked through the chat template; False: continued as it stands
    token_ids: tuple[int, ...] | None = None  # instead of text: any whole numbers, folded into the target's vocabulary
    before: str = ""  # other text of its group, for conditions that want longer prompts


class Wanted(NamedTuple):
    """What is asked of a source."""

    groups: tuple[str, ...]
    num_prompts: int  # of the group that needs most: kinds that make prompts make as many
    seed: int
    data: Path | None


# --------------------------------------------------------------------------------
# Options of the kinds
# --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OwnOptions:
    """The prompts that ship with this package."""


@dataclass(frozen=True, slots=True)
class CorpusOptions:
    """Held-out files of a data folder."""

    form: str = "chat"  # "chat": prompts of <domain>.chat.valid; "text": beginnings of texts of <domain>.valid
    num_chars: int = 200  # of a beginning, at most
    max_chars: int = 6000  # longer prompts are left out
    skip: tuple[str, ...] = ()  # patterns of `source` fields to leave out

    def __post_init__(self) -> None:
        if self.form not in ("chat", "text"):
            raise UnknownOptionError("form", self.form, ("chat", "text"))
        check_range(self, "num_chars", 1, 10**6)
        check_range(self, "max_chars", 1, 10**6)


@dataclass(frozen=True, slots=True)
class BenchFileOptions:
    """The published benchmarks of a data folder; of several turns the first."""

    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # group -> names; {} = by `domain`
    skip: tuple[str, ...] = ()  # names to leave out; in both, `*` stands for anything
    max_chars: int = 6000  # longer prompts are left out

    def __post_init__(self) -> None:
        check_range(self, "max_chars", 1, 10**6)


@dataclass(frozen=True, slots=True)
class JsonlOptions:
    """A file of your own: .jsonl, .jsonl.gz or .jsonl.xz."""

    path: str
    text: str = "prompt"  # the field with the text, or with a list of turns
    group_field: str = "group"
    group: str | None = None  # of all prompts, instead of a field
    is_chat: bool = True
    max_chars: int = 6000

    def __post_init__(self) -> None:
        check_range(self, "max_chars", 1, 10**6)


@dataclass(frozen=True, slots=True)
class HubOptions:
    """A data set of the Hugging Face hub, through the package `datasets`."""

    dataset: str
    split: str = "test"
    subset: str | None = None
    revision: str | None = None
    text: str = "prompt"
    group_field: str = "group"
    group: str | None = None
    is_chat: bool = True
    max_chars: int = 6000

    def __post_init__(self) -> None:
        check_range(self, "max_chars", 1, 10**6)


@dataclass(frozen=True, slots=True)
class RandomIdsOptions:
    """Token ids drawn evenly, special tokens excepted."""

    group: str = "random"
    num_tokens: int = 64

    def __post_init__(self) -> None:
        check_range(self, "num_tokens", 1, 2**20)


@dataclass(frozen=True, slots=True)
class RandomTextOptions:
    """Words of random letters."""

    group: str = "random"
    num_words: int = 24

    def __post_init__(self) -> None:
        check_range(self, "num_words", 1, 2**20)


# --------------------------------------------------------------------------------
# The kinds
# --------------------------------------------------------------------------------


def _own(options: OwnOptions, wanted: Wanted) -> Iterator[Prompt]:
    for _, fields in read_records(own_file("prompts.jsonl")):
        yield Prompt(fields["group"], fields["text"], fields.get("is_chat", True))


def _corpus(options: CorpusOptions, wanted: Wanted) -> Iterator[Prompt]:
    name, key = {"chat": ("chat.valid", "prompt"), "text": ("valid", "text")}[options.form]
    folder = _needed(wanted.data, "corpus") / "corpus"
    for group in wanted.groups:
        for record in read_records(folder / f"{group}.{name}.jsonl.xz"):
            if any(fnmatch(str(record.fields.get("source", "")), pattern) for pattern in options.skip):
                continue
            text = _text(record, key)
            if options.form == "text":
                yield Prompt(group, _beginning(text, options.num_chars), is_chat=False)
            elif len(text) <= options.max_chars:
                yield Prompt(group, text)


def _bench_file(options: BenchFileOptions, wanted: Wanted) -> Iterator[Prompt]:
    for record in read_records(_needed(wanted.data, "bench_file") / "bench" / "prompts.jsonl.xz"):
        name = str(_field(record, "bench"))
        if any(fnmatch(name, pattern) for pattern in options.skip):
            continue
        text = _text(record, "turns")
        groups = _groups_of(name, str(_field(record, "domain")), options.groups)
        if len(text) <= options.max_chars:
            yield from (Prompt(group, text) for group in groups)


def _jsonl(options: JsonlOptions, wanted: Wanted) -> Iterator[Prompt]:
    return _prompts(read_records(Path(options.path).expanduser()), options)


def _hub(options: HubOptions, wanted: Wanted) -> Iterator[Prompt]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise BenchError(
            f"the source hub needs the package `datasets` ({error}); pip install datasets, or save the prompts as JSONL"
        ) from error
    try:
        rows = datasets.load_dataset(options.dataset, options.subset, split=options.split, revision=options.revision)
    except Exception as error:  # no common root: its own errors, the hub's, the network's, the file formats'
        raise BenchError(
            f"data set {options.dataset!r}, split {options.split!r}: {type(error).__name__}: {error}; "
            "check name, subset, split and network, or save the prompts as JSONL"
        ) from error
    records = (Record(f"{options.dataset}, row {number}", row) for number, row in enumerate(rows))
    return _prompts(records, options)


def _random_ids(options: RandomIdsOptions, wanted: Wanted) -> Iterator[Prompt]:
    generator = random.Random(f"ids {wanted.seed} {options.group}")
    for number in range(wanted.num_prompts):
        ids = tuple(generator.randrange(_MAX_RAW_ID) for _ in range(options.num_tokens))
        yield Prompt(options.group, f"random ids {number}", is_chat=False, token_ids=ids)


def _random_text(options: RandomTextOptions, wanted: Wanted) -> Iterator[Prompt]:
    generator = random.Random(f"text {wanted.seed} {options.group}")
    for _ in range(wanted.num_prompts):
        words = (
            generator.choices(string.ascii_lowercase, k=generator.randint(1, 10)) for _ in range(options.num_words)
        )
        yield Prompt(options.group, " ".join("".join(word) for word in words))


KINDS: Final[Mapping[str, Entry]] = {
    "own": Entry(OwnOptions, _own),
    "corpus": Entry(CorpusOptions, _corpus),
    "bench_file": Entry(BenchFileOptions, _bench_file),
    "jsonl": Entry(JsonlOptions, _jsonl),
    "hub": Entry(HubOptions, _hub),
    "random_ids": Entry(RandomIdsOptions, _random_ids),
    "random_text": Entry(RandomTextOptions, _random_text),
}


def options_of(kind: str, options: Mapping[str, object]) -> Any:
    """The checked options of a kind. Raises UnknownOptionError or ConfigError."""
    if kind not in KINDS:
        raise UnknownOptionError("kind of source", kind, KINDS)
    return built(KINDS[kind].config, f"source {kind!r}", options)


def read_source(kind: str, options: Mapping[str, object], wanted: Wanted) -> Iterator[Prompt]:
    """All prompts of a source for the wanted groups, in its order. Raises BenchError for data that cannot be read."""
    read: Callable[[Any, Wanted], Iterator[Prompt]] = KINDS[kind].build
    return (prompt for prompt in read(options_of(kind, options), wanted) if prompt.group in wanted.groups)


# --------------------------------------------------------------------------------
# Files and fields
# --------------------------------------------------------------------------------


def data_folder(given: str | os.PathLike[str] | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The data folder: the given one, else that of EVODRAFT_BENCH_DATA, else None. Raises BenchError if it is none."""
    named = given if given is not None else environment.get(DATA_VARIABLE) or None
    if named is None:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise BenchError(f"data folder {folder} is no folder; check --data and {DATA_VARIABLE}")
    return folder


def own_file(name: str) -> Path:
    """A file of prompts or passages that ships with this package."""
    return Path(str(importlib.resources.files("evodraft.bench"))) / name


def own_passages(group: str) -> list[str]:
    """Long texts of a group that ship with this package; never asked, only put before prompts."""
    records = read_records(own_file("passages.jsonl"))
    return [record.fields["text"] for record in records if record.fields["group"] == group]


def _needed(data: Path | None, kind: str) -> Path:
    if data is None:
        raise BenchError(
            f"the source {kind} needs a data folder; give one with --data FOLDER or {DATA_VARIABLE}, or ask prompts of "
            "your own with --prompts FILE.jsonl"
        )
    return data


def _prompts(records: Iterator[Record], options: JsonlOptions | HubOptions) -> Iterator[Prompt]:
    for record in records:
        text = _text(record, options.text)
        group = str(_field(record, options.group_field)) if options.group is None else options.group
        if len(text) <= options.max_chars:
            yield Prompt(group, text, options.is_chat)


def _field(record: Record, name: str) -> Any:
    if name not in record.fields:
        raise BenchError(f"{record.place} has no field {name!r}, only {', '.join(record.fields)}; name another one")
    return record.fields[name]


def _text(record: Record, name: str) -> str:
    """The text of a field, of a list of turns the first."""
    value = _field(record, name)
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, str) or not first.strip():
        raise BenchError(f"{record.place}: {name}={str(value)[:40]!r} is neither text nor a list of turns; mend it")
    return first


def _groups_of(bench: str, domain: str, groups: Mapping[str, tuple[str, ...]]) -> list[str]:
    if not groups:
        return [domain]
    return [group for group, patterns in groups.items() if any(fnmatch(bench, pattern) for pattern in patterns)]


def _beginning(text: str, num_chars: int) -> str:
    """At most `num_chars` characters, up to the end of a word if there is one."""
    if len(text) <= num_chars:
        return text
    kept = text[:num_chars]
    is_word_cut = not text[num_chars].isspace() and len(kept.split()) > 1
    return kept.rsplit(None, 1)[0] if is_word_cut else kept.rstrip()
