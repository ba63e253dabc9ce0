"""The suites that ship, and what is refused in one that somebody writes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import pytest

from evodraft.bench.own import parts_of
from evodraft.bench.prompts import overrides_for
from evodraft.bench.suites import MIN_REPEATS, Condition, Source, Suite, load_suite, suite_names
from evodraft.errors import BenchError, ConfigError, UnknownOptionError

DOMAINS: Final = ("general", "code", "law", "medicine", "math")
GOOD: Final = """
about = "two questions"
groups = ["law", "code"]

[[sources]]
kind = "own"

[[conditions]]
name = "sampled"

[[conditions]]
name = "greedy"
temperature = 0

[methods.auto]
drafter = "auto"

[methods.none]
drafter = "ngram"
controller = "fixed:2"

[data]
prompts_per_group = 20
[[data.sources]]
kind = "corpus"

[quick]
conditions = ["greedy"]
methods = ["none"]
prompts_per_group = 1
"""


def written(folder: Path, text: str = GOOD) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def names(suite: Suite) -> list[str]:
    return [condition.name for condition in suite.conditions]


# --- those that ship ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", suite_names())
@pytest.mark.parametrize("has_data", [False, True])
def test_a_suite_loads_in_both_sizes(name: str, has_data: bool) -> None:
    full, quick = (load_suite(name, is_quick=is_quick, has_data=has_data) for is_quick in (False, True))
    assert (full.name, full.is_quick, quick.is_quick) == (name, False, True)
    assert full.about
    assert len(full.sha256) == 64
    assert full.sha256 == quick.sha256
    assert set(names(quick)) <= set(names(full))
    assert set(quick.methods) <= set(full.methods)
    assert names(quick)[0] == names(full)[0]  # the same headline
    assert quick.prompts_per_group * quick.max_new_tokens < full.prompts_per_group * full.max_new_tokens
    assert min(full.repeats, quick.repeats) >= MIN_REPEATS


@pytest.mark.parametrize("name", suite_names())
def test_methods_and_verifiers_are_known(name: str) -> None:
    suite = load_suite(name)
    for condition in suite.conditions:
        for options in suite.methods.values():
            parts_of(options, condition.verifier)


@pytest.mark.parametrize("name", suite_names())
def test_the_headline_is_sampled_where_somebody_drafts(name: str) -> None:
    suite = load_suite(name)
    headline = suite.conditions[0]
    assert (headline.temperature, headline.verifier) == (0.7 if suite.methods else 0.0, "rejection")


def test_runtime_is_plain_decoding_of_one_length() -> None:
    for is_quick in (False, True):
        suite = load_suite("runtime", is_quick=is_quick)
        assert (suite.methods, suite.ignore_eos, suite.max_new_tokens) == ({}, True, 64)
        assert [dict(source.options) for source in suite.sources] == [{"num_tokens": 128}]
        assert [(condition.temperature, condition.batch_size) for condition in suite.conditions] == [(0.0, 1)]


def test_quick_runtime_takes_half_a_minute_where_a_token_takes_40_ms() -> None:
    suite = load_suite("runtime", is_quick=True)
    num_answers = 2 * suite.num_prompts("random") * suite.repeats  # plain decoding and the control
    assert num_answers * suite.max_new_tokens * 0.04 < 35


def test_domains_is_the_protocol() -> None:
    suite = load_suite("domains")
    assert suite.groups == DOMAINS
    assert suite.conditions == (
        Condition("T=0.7"),
        Condition("T=0.7 coupled", verifier="coupled"),
        Condition("T=0", temperature=0),
        Condition("T=0 penalty 1.1", temperature=0, repetition_penalty=1.1),
    )
    assert list(suite.methods) == ["auto", "fixed 5", "ngram"]


def test_quick_domains_is_generated_within_150_seconds() -> None:
    """Where plain decoding makes 60 tokens/s, a method 90, and ngram no more than plain decoding."""
    suite = load_suite("domains", is_quick=True)
    num_tokens = len(suite.groups) * suite.prompts_per_group * suite.max_new_tokens * suite.repeats
    per_token = {"plain": 1 / 60, "control": 1 / 60, "auto": 1 / 90, "ngram": 1 / 60}
    seconds = 0.0
    for number, _ in enumerate(suite.conditions):
        contestants = ["plain", *suite.methods, *(["control"] if number == 0 else [])]
        seconds += sum(per_token[name] for name in contestants) * num_tokens
    assert 75 < seconds <= 150


def test_shift_goes_forward_and_back() -> None:
    phases = load_suite("shift").phases
    assert phases[: len(DOMAINS)] == DOMAINS
    assert phases == phases[::-1]


def test_sizes_that_suites_are_named_for() -> None:
    assert [condition.batch_size for condition in load_suite("batch").conditions] == [1, 2, 4, 8]
    assert {condition.temperature for condition in load_suite("sampling").conditions} == {0, 0.7, 1}
    context = load_suite("context")
    assert [c.prompt_tokens for c in context.conditions] == [None, 1024, 2048 - context.max_new_tokens]
    assert load_suite("spec_bench").groups == (
        *("conversation", "translation", "summarization", "qa", "math_reasoning", "rag"),
    )


# --- reading ------------------------------------------------------------------------------------------------------


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = written(tmp_path)
    suite = load_suite(path)
    assert suite == Suite(
        name="mine",
        about="two questions",
        sources=(Source("own"),),
        groups=("law", "code"),
        conditions=(Condition("sampled"), Condition("greedy", temperature=0)),
        methods={"auto": {"drafter": "auto"}, "none": {"drafter": "ngram", "controller": "fixed:2"}},
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    assert load_suite(str(path)) == suite


def test_data_then_quick_then_overrides(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = load_suite(path, has_data=True)
    assert (data.prompts_per_group, data.sources) == (20, (Source("corpus"),))
    quick = load_suite(path, has_data=True, is_quick=True)
    assert (quick.prompts_per_group, quick.sources, names(quick)) == (1, (Source("corpus"),), ["greedy"])
    assert quick.methods == {"none": {"drafter": "ngram", "controller": "fixed:2"}}
    said = load_suite(path, is_quick=True, prompts_per_group=3, seed=None, conditions=[Condition("hot", 2.0)])
    assert (said.prompts_per_group, said.seed, names(said)) == (3, 7, ["hot"])


def test_without_methods_plain_decoding_stands_alone(tmp_path: Path) -> None:
    assert load_suite(written(tmp_path, GOOD.partition("[methods.auto]")[0])).methods == {}
    path = written(tmp_path, GOOD.replace('methods = ["none"]', "methods = []"))
    assert (load_suite(path, is_quick=True).methods, len(load_suite(path).methods)) == ({}, 2)


def test_overrides_choose_and_replace(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert names(load_suite(path, conditions=["greedy", "sampled"])) == ["greedy", "sampled"]
    assert load_suite(path, methods={"mine": {"drafter": "ngram"}}).methods == {"mine": {"drafter": "ngram"}}
    assert load_suite(path, peers=["transformers/plain"]).peers == ("transformers/plain",)
    sources = [{"kind": "jsonl", "path": "a/b.jsonl"}, Source("random_text")]
    labels = [source.label for source in load_suite(path, sources=sources).sources]
    assert labels == ["jsonl(path=b.jsonl)", "random_text"]
    tables = {"groups": {"law": ["exam/law"], "code": ["exam/code"]}, "skip": ["a", "b"]}
    assert Source("bench_file", tables).label == "bench_file(groups=law/code, skip=a/b)"


def test_prompts_of_a_file_take_the_place_of_a_suites_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "a", "domain": "law"}\n{"text": "b", "domain": "art"}\n', encoding="utf-8")
    suite = load_suite("shift", **overrides_for(path))
    assert (suite.groups, suite.phases) == (("law", "art"), ())
    assert suite.sources == (Source("jsonl", {"path": str(path), "text": "text", "group_field": "domain"}),)


def test_a_stream_needs_prompts_for_all_phases() -> None:
    suite = load_suite("shift")
    assert suite.num_prompts("law") == 2 * suite.prompts_per_group
    assert suite.num_prompts("math") == suite.prompts_per_group
    assert load_suite("domains").num_prompts("law") == 8


# --- what is refused ----------------------------------------------------------------------------------------------


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(UnknownOptionError, match="unknown suite 'domain'; did you mean 'domains'"):
        load_suite("domain")


def test_a_missing_file_lists_the_suites(tmp_path: Path) -> None:
    with pytest.raises(
        BenchError, match="cannot read suite .*none.toml: No such file or directory; shipped suites are adv"
    ):
        load_suite(tmp_path / "none.toml")


@pytest.mark.parametrize("content", [b"groups = [", b'about = "\xff"'])
def test_what_is_no_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(BenchError, match="suite mine.toml is not TOML: .*; mend it"):
        load_suite(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('groups = ["law", "code"]', "", "suite mine.toml has no key 'groups'; add it"),
        ('["law", "code"]', "[]", "suite mine.toml: groups is empty; name at least one"),
        ('["law", "code"]', '"law"', "suite mine.toml: groups='law' is not a list, each entry text"),
        ('["law", "code"]', '["law", "law"]', "suite mine.toml: groups: 'law' is there twice"),
        ('["law", "code"]', '["all"]', "groups: 'all' is taken, empty, or has a '/'"),
        ('["law", "code"]', '["law", "code"]\nphases = ["law"]', "group 'code' is in no phase; add it to phases, or"),
        ('["law", "code"]', '["law", "code"]\nphases = ["law", "art"]', "unknown group in phases 'art'"),
        ('["law", "code"]', '["law"]\nrepeats = 2', "suite mine.toml: repeats=2 is not a whole number from 3 to 1000"),
        ('["law", "code"]', '["law"]\nseed = -1', "suite mine.toml: seed=-1 is not a whole number from 0"),
        ('["law", "code"]', '["law"]\nmax_new_tokens = 0', "max_new_tokens=0 is not a whole number from 1"),
        ('["law", "code"]', '["law"]\npeers = ["a/b", "a/b"]', "peers: 'a/b' is there twice"),
        ('"two questions"', "2", "suite mine.toml: about=2 is not text"),
        ("[methods.auto]", "[methods.control]", "methods: 'control' is taken"),
        ("[methods.auto]", "[methods.plain]", "methods: 'plain' is taken"),
        ("[methods.auto]", '[methods."vllm/auto"]', "methods: 'vllm/auto' is taken, empty, or has a '/'"),
        ("[methods.auto]\ndrafter", "[methods]\nauto", "suite mine.toml: auto='auto' is not a table"),
        ('kind = "own"', 'model = "own"', "suite mine.toml, source 1 has no key 'kind'; add it"),
        ('kind = "own"', "kind = 1", "suite mine.toml, source 1: kind=1 is not text"),
        ('kind = "own"', 'kind = "ovn"', "mine.toml, source 1: unknown kind of source 'ovn'; did you mean 'own'"),
        ('kind = "own"', 'kind = "own"\nsize = 3', "mine.toml, source 1: unknown key of source 'own' 'size'"),
        ('[[sources]]\nkind = "own"', "sources = []", "suite mine.toml: sources is empty; name at least one"),
        ('[[sources]]\nkind = "own"', 'sources = ["own"]', "suite mine.toml, source 1='own' is not a table"),
        ('[[sources]]\nkind = "own"', 'sources = "own"', "suite mine.toml: sources='own' is not a list"),
        ('name = "sampled"', "temperature = 1", "suite mine.toml, condition 1 has no key 'name'; add it"),
        ('name = "sampled"', 'name = ""', "suite mine.toml, condition '': name='' names nothing"),
        ('name = "sampled"', 'name = "greedy"', "conditions: 'greedy' is there twice; rows are found by it"),
        ("temperature = 0", "temperature = -1", "condition 'greedy': temperature=-1 is not a number from 0 to 100"),
        ("temperature = 0", 'temperature = "0"', "condition 'greedy': temperature='0' is not a number"),
        ("temperature = 0", "temperature = nan", "condition 'greedy': temperature=nan is not a number from 0"),
        ("temperature = 0", "repetition_penalty = 0", "repetition_penalty=0 is not a number from 0.01"),
        ("temperature = 0", "prompt_tokens = 0", "prompt_tokens=0 is not a whole number from 1"),
        (
            "temperature = 0",
            "batch_size = 3",
            "prompts_per_group=8 leaves a smaller last batch under condition 'greedy'",
        ),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=message):
        load_suite(written(tmp_path, GOOD.replace(old, new, 1)), is_quick=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prompts_per_group = 20", "prompts_per_group = 0", r"mine.toml, \[data\]: prompts_per_group=0 is not a whole"),
        ("prompts_per_group = 1\n", "repeats = 2\n", r"mine.toml, \[quick\]: repeats=2 is not a whole number from 3"),
        (
            'conditions = ["greedy"]',
            'conditions = "greedy"',
            r"mine.toml, \[quick\]: conditions='greedy' is not a list",
        ),
        ('methods = ["none"]', "methods = 1", r"mine.toml, \[quick\]: methods=1 is not a list"),
    ],
)
def test_the_variants_are_checked_like_the_rest(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=message):
        load_suite(written(tmp_path, GOOD.replace(old, new)), is_quick=True, has_data=True)


def test_a_variant_is_a_table(tmp_path: Path) -> None:
    text = GOOD.partition("[quick]")[0].replace("about", "quick = 1\nabout", 1)
    with pytest.raises(ConfigError, match=r"suite mine.toml, \[quick\]=1 is not a table"):
        load_suite(written(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("groups =", "group =", "unknown key of suite mine.toml 'group'; did you mean 'groups'"),
        (
            "temperature = 0",
            "temprature = 0",
            "unknown key of suite mine.toml, condition 'greedy' 'temprature'; did you",
        ),
        (
            "prompts_per_group = 1\n",
            "prompt_per_group = 1\n",
            r"unknown key of suite mine.toml, \[quick\] 'prompt_per_group'",
        ),
        ('["greedy"]', '["gredy"]', r"unknown condition of suite mine.toml, \[quick\] 'gredy'; did you mean 'greedy'"),
        ('["none"]', '["non"]', r"unknown method of suite mine.toml, \[quick\] 'non'; did you mean 'none'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UnknownOptionError, match=message):
        load_suite(written(tmp_path, GOOD.replace(old, new)), is_quick=True)


def test_unknown_overrides_are_refused() -> None:
    with pytest.raises(
        UnknownOptionError, match="unknown key of suite domains.toml with overrides 'repeat'; did you mean"
    ):
        load_suite("domains", repeat=5)
    with pytest.raises(ConfigError, match="repeats=2 is not a whole number from 3 to 1000"):
        load_suite("domains", repeats=2)
    with pytest.raises(UnknownOptionError, match="'sha256'"):
        load_suite("domains", sha256="0")
