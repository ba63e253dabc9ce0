"""Names and options to configs; wrong ones name what is right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evodraft.config import EngineConfig, Entry, NoOptions, check_range, from_options, parse_part
from evodraft.controllers import CONTROLLERS, ConfidenceConfig, FixedConfig, FixedController
from evodraft.drafters import DRAFTERS, ModelConfig, NgramConfig
from evodraft.errors import ConfigError, UnknownOptionError
from evodraft.verifiers import VERIFIERS, RejectionVerifier

TABLES = {"drafter": DRAFTERS, "controller": CONTROLLERS, "verifier": VERIFIERS}
NAMES = [(kind, name) for kind, table in TABLES.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_name_stands_for_its_defaults(kind, name) -> None:
    entry, config = parse_part(kind, name, TABLES[kind])
    assert entry is TABLES[kind][name]
    assert config == entry.config()
    assert parse_part(kind, {"name": name}, TABLES[kind]) == (entry, config)


@given(st.integers(0, 64))
def test_an_argument_fills_the_first_field(width) -> None:
    assert parse_part("controller", f"fixed:{width}", CONTROLLERS)[1] == FixedConfig(width)


@given(st.floats(0, 1))
def test_an_argument_is_read_as_the_field_is_typed(threshold) -> None:
    assert parse_part("controller", f"confidence:{threshold!r}", CONTROLLERS)[1].threshold == threshold


@pytest.mark.parametrize("argument", ["some/path", "org/name", "C:\\models\\draft", "a:b"])
def test_an_argument_may_hold_colons(argument) -> None:
    assert parse_part("drafter", f"model:{argument}", DRAFTERS)[1] == ModelConfig(argument)


@given(st.text())
def test_no_text_breaks_the_parser(text) -> None:
    """Whatever a user writes is a known part or an error of ours."""
    try:
        entry, config = parse_part("controller", text, CONTROLLERS)
    except ConfigError:
        return
    assert isinstance(config, entry.config)


def test_a_mapping_gives_options_by_name() -> None:
    spec = {"name": "ngram", "max_ngram": 6}
    assert parse_part("drafter", spec, DRAFTERS)[1] == NgramConfig(max_ngram=6)
    assert spec == {"name": "ngram", "max_ngram": 6}


def test_a_config_finds_its_entry() -> None:
    config = FixedConfig(2)
    assert parse_part("controller", config, CONTROLLERS) == (CONTROLLERS["fixed"], config)


def test_an_object_is_taken_as_it_is() -> None:
    for part in (FixedController(), RejectionVerifier()):
        assert parse_part("part", part, CONTROLLERS) == (None, part)
    assert parse_part("verifier", NoOptions(), VERIFIERS)[0] is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fxed", "unknown controller 'fxed'; did you mean 'fixed'"),
        ("", "unknown controller ''"),
        ({"name": "fixed", "num_draft_token": 3}, "unknown controller 'fixed' option 'num_draft_token'; did you mean"),
    ],
)
def test_an_unknown_name_offers_the_nearest(spec, message) -> None:
    with pytest.raises(UnknownOptionError, match=message):
        parse_part("controller", spec, CONTROLLERS)


@pytest.mark.parametrize("argument", ["three", "2.5", "-"])
def test_an_argument_of_the_wrong_type_is_named(argument) -> None:
    with pytest.raises(
        ConfigError, match=f"controller 'fixed' needs a whole number for num_draft_tokens, not '{argument}'"
    ):
        parse_part("controller", f"fixed:{argument}", CONTROLLERS)


def test_an_argument_outside_its_range_is_named() -> None:
    with pytest.raises(ConfigError, match="num_draft_tokens=65 is not a whole number from 0 to 64; choose one within"):
        parse_part("controller", "fixed:65", CONTROLLERS)


def test_a_part_without_options_takes_no_argument() -> None:
    with pytest.raises(ConfigError, match="verifier 'rejection' takes no argument, but 'x' was given; leave it out"):
        parse_part("verifier", "rejection:x", VERIFIERS)


def test_options_of_a_dataclass() -> None:
    assert from_options(ConfidenceConfig, "controller", {"adapt": False}) == ConfidenceConfig(adapt=False)


@dataclass(frozen=True)
class Ranges:
    count: int = 1
    share: float = 0.5
    limit: int | None = None
    cap: float | None = None


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"count": 0}, "count"),
        ({"count": 11}, "count"),
        ({"count": 1.0}, "count"),
        ({"count": True}, "count"),
        ({"count": None}, "count"),
        ({"count": "2"}, "count"),
        ({"limit": 2.5}, "limit"),
        ({"share": math.nan}, "share"),
        ({"share": math.inf}, "share"),
        ({"share": None}, "share"),
        ({"cap": "x"}, "cap"),
    ],
)
def test_what_is_outside_a_range(values, name) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.* from 0.5 to 10; choose one within"):
        check_range(Ranges(**values), name, 0.5, 10)


@pytest.mark.parametrize("values", [{}, {"count": 3}, {"share": 2}, {"limit": 4, "cap": 0.75}])
def test_what_is_within_a_range(values) -> None:
    for name in ("count", "share", "limit", "cap"):
        check_range(Ranges(**values), name, 0.5, 10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch", 0),
        ("max_model_len", 1),
        ("kv_cache_gib", 0.0),
        ("gpu_memory_utilization", 1.5),
        ("prefill_budget", 0),
        ("learner_budget_ms", -1.0),
    ],
)
def test_engine_limits_are_checked(name, value) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        EngineConfig(**{name: value})


def test_every_table_line_is_an_entry() -> None:
    for table in TABLES.values():
        assert all(isinstance(entry, Entry) for entry in table.values())


def test_a_mapping_needs_a_name() -> None:
    with pytest.raises(ConfigError, match=r"controller=\{'num_draft_tokens': 3\} has no 'name'; write .* fixed"):
        parse_part("controller", {"num_draft_tokens": 3}, CONTROLLERS)
