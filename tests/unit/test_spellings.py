"""vLLM's and transformers' names for drafter and controller."""

from __future__ import annotations

from typing import Any

import pytest

from evodraft.config import parse_part
from evodraft.controllers import CONTROLLERS
from evodraft.drafters import DRAFTERS
from evodraft.errors import ConfigError, UnknownOptionError
from evodraft.spellings import (
    TRANSFORMERS_OPTIONS,
    VLLM_KEYS,
    Parts,
    check_options,
    parts_of_speculative_config,
    parts_of_transformers_options,
    refuse_missing_parts,
    translate,
)

MODEL = object()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, Parts({"name": "ngram"})),
        ({"model": MODEL}, Parts({"name": "model", "model": MODEL})),
        ({"method": "draft_model", "model": "a/b"}, Parts({"name": "model", "model": "a/b"})),
        ({"method": "ngram", "model": "ngram"}, Parts({"name": "ngram"})),
        ({"method": "prompt_lookup", "num_speculative_tokens": 4}, Parts({"name": "ngram"}, "fixed:4")),
        ({"prompt_lookup_max": 5}, Parts({"name": "ngram", "max_ngram": 5, "min_ngram": 5})),
        ({"prompt_lookup_min": 2}, Parts({"name": "ngram", "max_ngram": 2, "min_ngram": 2})),
        ({"prompt_lookup_min": 2, "prompt_lookup_max": 5}, Parts({"name": "ngram", "max_ngram": 5, "min_ngram": 2})),
        ({"method": "eagle", "model": "a/b"}, Parts({"name": "eagle", "head": "a/b"})),
        (
            {"method": "eagle3", "model": "a/b", "num_speculative_tokens": 3},
            Parts({"name": "eagle", "head": "a/b"}, "fixed:3"),
        ),
        ({"method": "eagle3"}, Parts({"name": "eagle"})),
        ({"method": "medusa", "model": "a/b"}, Parts({"name": "medusa", "model": "a/b"})),
        (dict.fromkeys(VLLM_KEYS), Parts({"name": "ngram"})),
    ],
)
def test_speculative_config(options: dict[str, Any], parts: Parts) -> None:
    assert parts_of_speculative_config(options) == parts


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, Parts()),
        ({"assistant_model": MODEL}, Parts({"name": "model", "model": MODEL})),
        ({"assistant_model": MODEL, "num_assistant_tokens": 7}, Parts({"name": "model", "model": MODEL}, "fixed:7")),
        ({"num_assistant_tokens": 7}, Parts(None, "fixed:7")),
        ({"assistant_early_exit": 3}, Parts("early_exit")),
        ({"prompt_lookup_num_tokens": 6}, Parts({"name": "ngram"}, "fixed:6")),
        ({"prompt_lookup_num_tokens": 6, "num_assistant_tokens": 2}, Parts({"name": "ngram"}, "fixed:2")),
        (
            {"prompt_lookup_num_tokens": 6, "max_matching_ngram_size": 3},
            Parts({"name": "ngram", "max_ngram": 3, "min_ngram": 1}, "fixed:6"),
        ),
        ({"assistant_confidence_threshold": 0.2}, Parts(None, {"name": "confidence", "threshold": 0.2})),
        (
            {"assistant_confidence_threshold": 0.0, "num_assistant_tokens": 9},
            Parts(None, {"name": "confidence", "threshold": 0.0, "max_draft_tokens": 9}),
        ),
        (dict.fromkeys(TRANSFORMERS_OPTIONS), Parts()),
    ],
)
def test_transformers_options(options: dict[str, Any], parts: Parts) -> None:
    assert parts_of_transformers_options(options) == parts


@pytest.mark.parametrize(
    "parts",
    [
        parts_of_speculative_config({"prompt_lookup_max": 5, "num_speculative_tokens": 4}),
        parts_of_speculative_config({"model": MODEL, "num_speculative_tokens": 1}),
        parts_of_transformers_options({"prompt_lookup_num_tokens": 6, "max_matching_ngram_size": 3}),
        parts_of_transformers_options({"assistant_confidence_threshold": 0.2, "num_assistant_tokens": 9}),
    ],
)
def test_the_tables_understand_what_is_translated(parts: Parts) -> None:
    assert parse_part("drafter", parts.drafter or "auto", DRAFTERS)[0] is not None
    assert parse_part("controller", parts.controller, CONTROLLERS)[0] is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"assistant_model": MODEL, "assistant_early_exit": 2},
            "assistant_model and assistant_early_exit name 2 drafters",
        ),
        (
            {"assistant_model": MODEL, "prompt_lookup_num_tokens": 2},
            "assistant_model and prompt_lookup_num_tokens name",
        ),
        ({"max_matching_ngram_size": 3}, "max_matching_ngram_size=3 does nothing without prompt_lookup_num_tokens"),
    ],
)
def test_transformers_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parts_of_transformers_options(options)


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(
        UnknownOptionError, match="unknown speculative_config key 'num_spec_tokens'; did you mean 'num_"
    ):
        parts_of_speculative_config({"num_spec_tokens": 3})
    with pytest.raises(UnknownOptionError, match="unknown option 'drater'; did you mean 'drafter'"):
        check_options(["drater"], ["drafter", "options"])
    with pytest.raises(UnknownOptionError, match="unknown option 'assistant_modl'; did you mean 'assistant_model'"):
        check_options(["assistant_model", "assistant_modl"], ["drafter"])
    with pytest.raises(UnknownOptionError, match="unknown option 'options'") as raised:
        check_options(["options"], ["drafter", "options"])
    assert "did you mean 'options'" not in str(raised.value), "the catch-all itself is no option"


@pytest.mark.parametrize("name", TRANSFORMERS_OPTIONS)
def test_known_options_pass(name: str) -> None:
    check_options([name], [])
    translated = translate("auto", "auto", None, {name: None})
    assert translated == Parts("auto", "auto"), "None is not said"


# --- who has the say ----------------------------------------------------------------------------------------------


def test_what_is_not_said_elsewhere_stays() -> None:
    assert translate("ngram", "fixed:3", None, {}) == Parts("ngram", "fixed:3")
    assert translate(None, "auto", None, {}) == Parts(None, "auto")
    assert translate(MODEL, MODEL, None, {}) == Parts(MODEL, MODEL)


def test_other_spellings_replace_the_default() -> None:
    assert translate("auto", "auto", {"num_speculative_tokens": 3}, {}) == Parts({"name": "ngram"}, "fixed:3")
    assert translate("auto", "auto", None, {"num_assistant_tokens": 3}) == Parts("auto", "fixed:3")
    assert translate("ngram", "auto", None, {"num_assistant_tokens": 3}) == Parts("ngram", "fixed:3")
    assert translate("auto", "fixed:2", {"model": "m"}, {}) == Parts({"name": "model", "model": "m"}, "fixed:2")
    assert translate("auto", "auto", {"model": "m"}, {"num_assistant_tokens": 3}).controller == "fixed:3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ngram", "auto", {"model": "m"}, {}), r"2 drafters are named \('ngram' and 'model'\), but one works"),
        ((None, "auto", None, {"assistant_model": 1}), r"2 drafters are named \(None and 'model'\)"),
        ((MODEL, "auto", None, {"assistant_early_exit": 1}), r"2 drafters are named \(object and 'early_exit'\)"),
        (("auto", "auto", {}, {"assistant_model": 1}), r"2 drafters are named \('ngram' and 'model'\)"),
        (
            ("auto", "fixed:2", None, {"num_assistant_tokens": 3}),
            r"2 controllers are named \('fixed:2' and 'fixed:3'\)",
        ),
        (
            ("ngram", "auto", {"model": "m"}, {"assistant_model": 1}),
            r"3 drafters are named \('ngram' and 'model' and 'model'\), but one works; name it in one place only",
        ),
    ],
)
def test_two_places_are_one_too_many(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(*arguments)


# --- parts to come ------------------------------------------------------------------------------------------------


def test_parts_that_this_version_lacks() -> None:
    refuse_missing_parts(None, [])
    refuse_missing_parts(None, [object()])
    for arguments, message in [
        (("all", ()), "unknown preset 'all'. Known: none in this version"),
        ((None, [object(), "ensemble"]), "unknown learner 'ensemble'"),
        ((None, "ensemble"), "unknown learner 'ensemble'"),
    ]:
        with pytest.raises(UnknownOptionError, match=message):
            refuse_missing_parts(*arguments)
