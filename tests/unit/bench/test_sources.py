"""Every kind of source yields prompts of the wanted groups, or says what it lacks."""

from __future__ import annotations

import json
import lzma
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from evodraft.assemble import demo_folder
from evodraft.bench.jsonl import read_records
from evodraft.bench.sources import (
    KINDS,
    Prompt,
    Wanted,
    data_folder,
    options_of,
    own_file,
    own_passages,
    read_source,
)
from evodraft.errors import BenchError, ConfigError, UnknownOptionError

DOMAINS: Final = ("general", "code", "law", "medicine", "math")
# What a kind needs to yield prompts of the group "law" from the folder of `data`, and of the group "random" otherwise.
OPTIONS: Final[Mapping[str, Mapping[str, object]]] = {
    "own": {},
    "corpus": {},
    "bench_file": {},
    "jsonl": {"path": "prompts.jsonl"},
    "hub": {"dataset": "owner/prompts"},
    "random_ids": {"num_tokens": 5},
    "random_text": {"num_words": 5},
}


def save(path: Path, *records: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder, a file of one's own in the current folder, and a hub with one data set."""
    folder = tmp_path / "data"
    chat = {"prompt": "What is a lien?", "response": "A right.", "source": "owner/book"}
    save(
        folder / "corpus" / "law.chat.valid.jsonl.xz", chat, {**chat, "prompt": "long " * 9, "source": "owner/glossary"}
    )
    save(folder / "corpus" / "law.valid.jsonl.xz", {"text": "The lessee shall pay the rent.", "source": "owner/book"})
    bench: Sequence[Mapping[str, object]] = [
        {"bench": "exam/law", "id": "1", "domain": "law", "turns": ["Is it valid?", "Why?"], "reference": None},
        {"bench": "exam/math", "id": "2", "domain": "math", "turns": ["1 + 1?"], "reference": None},
        {"bench": "chat", "id": "3", "domain": "law", "turns": ["Draft a will."], "reference": None},
    ]
    save(folder / "bench" / "prompts.jsonl.xz", *bench)
    rows = [{"prompt": "Who owns it?", "group": "law"}, {"prompt": "2 + 2?", "group": "math"}]
    save(tmp_path / "prompts.jsonl", *rows)
    monkeypatch.chdir(tmp_path)
    hub(monkeypatch, rows)
    return folder


def hub(monkeypatch: pytest.MonkeyPatch, rows: object) -> list[tuple[Any, ...]]:
    """A package `datasets` that hands out `rows`, or raises them; returns the calls."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, name: str | None, *, split: str, revision: str | None) -> object:
        calls.append((path, name, split, revision))
        if isinstance(rows, Exception):
            raise rows
        return rows

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def texts(kind: str, data: Path | None = None, of: tuple[str, ...] = ("law",), **options: object) -> list[str]:
    return [prompt.text for prompt in read_source(kind, options, Wanted(of, 3, 7, data))]


# --- every kind ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_yields_prompts_of_the_wanted_groups_alone(kind: str, data: Path) -> None:
    group = "random" if "random" in kind else "law"
    prompts = list(read_source(kind, OPTIONS[kind], Wanted((group,), 3, 7, data)))
    assert prompts
    assert {prompt.group for prompt in prompts} == {group}
    assert all(prompt.text.strip() and not prompt.before for prompt in prompts)
    assert prompts == list(read_source(kind, OPTIONS[kind], Wanted((group,), 3, 7, data)))
    assert list(read_source(kind, OPTIONS[kind], Wanted((), 3, 7, data))) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_option_names_the_nearest(kind: str) -> None:
    with pytest.raises(UnknownOptionError, match=f"unknown key of source '{kind}' 'nonsense'"):
        options_of(kind, {**OPTIONS[kind], "nonsense": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_have_a_range(kind: str) -> None:
    for field in fields(KINDS[kind].config):
        if field.type == "int":
            with pytest.raises(ConfigError, match=f"source '{kind}': {field.name}=0 is not a whole number from 1"):
                options_of(kind, {**OPTIONS[kind], field.name: 0})


def test_an_unknown_kind() -> None:
    with pytest.raises(UnknownOptionError, match="unknown kind of source 'bench_fil'; did you mean 'bench_file'"):
        options_of("bench_fil", {})


@pytest.mark.parametrize("kind", ["corpus", "bench_file"])
def test_without_a_data_folder_the_remedy_is_named(kind: str) -> None:
    with pytest.raises(BenchError, match=f"{kind} needs a data folder; give one with --data FOLDER or EVODRAFT_BENCH_"):
        texts(kind)


# --- own ----------------------------------------------------------------------------------------------------------


def own_prompts() -> list[Prompt]:
    return list(read_source("own", {}, Wanted((*DOMAINS, "foreign"), 0, 0, None)))


def test_the_own_set_is_large_enough_and_varied() -> None:
    prompts = own_prompts()
    assert len(prompts) == len(list(read_records(own_file("prompts.jsonl"))))
    assert len({" ".join(prompt.text.split()) for prompt in prompts}) == len(prompts)
    assert len({prompt.text[:40] for prompt in prompts}) == len(prompts)  # no templates
    for group in (*DOMAINS, "foreign"):
        own = [prompt for prompt in prompts if prompt.group == group]
        assert len(own) >= 16
        assert sum(not prompt.is_chat for prompt in own) >= 2  # continuations
        assert all(8 <= len(prompt.text.split()) <= 120 for prompt in own)


def test_the_own_set_is_not_that_of_the_demo() -> None:
    shown = {record.fields["prompt"] for record in read_records(demo_folder() / "prompts.jsonl")}
    assert shown
    assert not shown & {prompt.text for prompt in own_prompts()}


@pytest.mark.parametrize("group", DOMAINS)
def test_passages_of_every_domain(group: str) -> None:
    assert sum(map(len, own_passages(group))) > 5000
    assert not {prompt.text for prompt in own_prompts()} & set(own_passages(group))


# --- the data folder ----------------------------------------------------------------------------------------------


def test_corpus_chats_and_beginnings_of_texts(data: Path) -> None:
    assert texts("corpus", data) == ["What is a lien?", ("long " * 9)]
    assert texts("corpus", data, max_chars=20) == ["What is a lien?"]
    assert texts("corpus", data, skip=["*/glossary*"]) == ["What is a lien?"]
    assert texts("corpus", data, form="text") == ["The lessee shall pay the rent."]
    assert texts("corpus", data, form="text", num_chars=12) == ["The lessee"]
    assert texts("corpus", data, form="text", num_chars=10) == ["The lessee"]
    assert texts("corpus", data, form="text", num_chars=2) == ["Th"]
    assert [prompt.is_chat for prompt in read_source("corpus", {"form": "text"}, Wanted(("law",), 1, 7, data))] == [
        False
    ]
    with pytest.raises(UnknownOptionError, match="form 'texts'; did you mean 'text'"):
        KINDS["corpus"].config(form="texts")
    with pytest.raises(BenchError, match="cannot read .*code.chat.valid.jsonl.xz"):
        texts("corpus", data, of=("code",))


def test_bench_file_by_domain_and_by_name(data: Path) -> None:
    assert texts("bench_file", data) == ["Is it valid?", "Draft a will."]
    assert texts("bench_file", data, skip=["exam/*"]) == ["Draft a will."]
    assert texts("bench_file", data, max_chars=12) == ["Is it valid?"]
    groups = {"exam": ["exam/*"], "talk": ["chat", "exam/law"]}
    assert texts("bench_file", data, ("exam",), groups=groups) == ["Is it valid?", "1 + 1?"]
    assert texts("bench_file", data, ("talk",), groups=groups) == ["Is it valid?", "Draft a will."]
    with pytest.raises(ConfigError, match="groups.exam='exam/\\*' is not a list"):
        options_of("bench_file", {"groups": {"exam": "exam/*"}})


def test_the_folder_is_given_or_in_the_environment(tmp_path: Path) -> None:
    environment = {"EVODRAFT_BENCH_DATA": str(tmp_path)}
    assert data_folder(None, {}) is None
    assert data_folder(None, {"EVODRAFT_BENCH_DATA": ""}) is None
    assert data_folder(None, environment) == tmp_path
    assert data_folder(tmp_path / ".." / tmp_path.name, {}) == tmp_path / ".." / tmp_path.name
    with pytest.raises(BenchError, match="data folder .*none is no folder; check --data and EVODRAFT_BENCH_DATA"):
        data_folder(str(tmp_path / "none"), environment)


# --- files of one's own and the hub -------------------------------------------------------------------------------


def test_fields_of_a_file_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl.xz"
    save(path, {"turns": ["Hello?", "More"], "kind": "law"}, {"turns": ["A longer one?"], "kind": "law"})
    assert texts("jsonl", path=str(path), text="turns", group_field="kind") == ["Hello?", "A longer one?"]
    assert texts("jsonl", path=str(path), text="turns", group="law", max_chars=6) == ["Hello?"]
    [prompt, _] = read_source(
        "jsonl", {"path": str(path), "text": "turns", "group": "law", "is_chat": False}, Wanted(("law",), 1, 7, None)
    )
    assert not prompt.is_chat


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "x"}, "mine.jsonl, line 1 has no field 'group', only prompt; name another one"),
        ({"group": "law"}, "mine.jsonl, line 1 has no field 'prompt', only group; name another one"),
        ({"prompt": 3, "group": "law"}, "line 1: prompt='3' is neither text nor a list of turns; mend it"),
        ({"prompt": " ", "group": "law"}, "line 1: prompt=' ' is neither text nor a list of turns; mend it"),
        ({"prompt": [], "group": "law"}, "line 1: prompt='[]' is neither text nor a list of turns; mend it"),
    ],
)
def test_records_without_a_prompt_are_refused(tmp_path: Path, record: Mapping[str, object], message: str) -> None:
    save(tmp_path / "mine.jsonl", record)
    with pytest.raises(BenchError, match=re.escape(message)):
        texts("jsonl", path=str(tmp_path / "mine.jsonl"))


def test_a_file_has_to_be_named() -> None:
    with pytest.raises(ConfigError, match="source 'jsonl' has no key 'path'; add it"):
        options_of("jsonl", {})


def test_the_hub_is_asked_for_what_the_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub(monkeypatch, [{"question": "Who owns it?"}])
    options = {"dataset": "owner/set", "subset": "en", "split": "train", "revision": "abc", "text": "question"}
    assert texts("hub", **options, group="law") == ["Who owns it?"]
    assert calls == [("owner/set", "en", "train", "abc")]
    with pytest.raises(BenchError, match="owner/set, row 0 has no field 'group', only question"):
        texts("hub", **options)


def test_the_hub_without_network_or_package(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ConnectionError("no route"))
    with pytest.raises(BenchError, match="data set 'a/b', split 'test': ConnectionError: no route; check name, subset"):
        texts("hub", dataset="a/b")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        BenchError, match="the source hub needs the package `datasets` .*; pip install datasets, or save"
    ):
        texts("hub", dataset="a/b")


# --- random -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random_ids", "random_text"])
def test_random_prompts_follow_the_seed(kind: str) -> None:
    first, again, other = ([*read_source(kind, {}, Wanted(("random",), 4, seed, None))] for seed in (7, 7, 8))
    assert len({prompt.token_ids or prompt.text for prompt in first}) == 4
    assert first == again
    assert first[0] != other[0]
    assert not {prompt.token_ids or prompt.text for prompt in first} & {p.token_ids or p.text for p in other}


def test_random_sizes() -> None:
    [ids] = read_source("random_ids", {"num_tokens": 9, "group": "noise"}, Wanted(("noise",), 1, 7, None))
    assert len(ids.token_ids or ()) == 9
    [text] = texts("random_text", None, ("noise", "other"), num_words=9, group="noise")[:1]
    assert len(text.split()) == 9
