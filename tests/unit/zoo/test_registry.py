"""The registry that ships, and what is refused in one that somebody edits."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from evodraft.drafters import RegisteredDraft
from evodraft.drafters.auto import RUNNABLE_METHODS, not_taken
from evodraft.errors import ConfigError, UnknownOptionError
from evodraft.zoo import parse_registry, read_registry, registered_drafts
from evodraft.zoo.registry import METHODS

COMMIT: Final = "0123456789abcdef" * 2 + "01234567"
GOOD: Final[dict[str, Any]] = {
    "name": "owner/small",
    "method": "model",
    "revision": COMMIT,
    "license": "MIT",
    "evidence": "https://example.org/owner/small",
    "targets": ["owner/large", "owner/larger"],
    "verified": ["owner/larger"],
}


def toml(*drafts: dict[str, Any]) -> str:
    lines = [["[[draft]]", *(f"{key} = {value!r}" for key, value in draft.items())] for draft in drafts]
    return "\n".join(line for draft in lines for line in draft)


# --- the file -----------------------------------------------------------------------------------------------------


def test_at_least_fifteen_pairs_and_heads_among_them() -> None:
    pairs = read_registry()
    methods = [pair.draft.method for pair in pairs]
    assert len(pairs) >= 15
    assert methods.count("model") >= 15
    assert methods.count("eagle3") >= 5


def test_auto_takes_what_is_pinned_and_licensed() -> None:
    """All draft models are; of the heads, those that are not yet can be taken by name only."""
    targets = {pair.target for pair in read_registry()}
    for draft in (draft for target in targets for draft in registered_drafts(target)):
        is_settled = re.fullmatch("[0-9a-f]{40}", draft.revision) is not None and draft.license != "unknown"
        assert (not_taken(draft) is None) == is_settled, draft
        assert is_settled or draft.method == "eagle3", draft


def test_every_method_can_run() -> None:
    assert set(METHODS) == set(RUNNABLE_METHODS)


def test_heads_come_before_models() -> None:
    for target in {pair.target for pair in read_registry()}:
        methods = [draft.method for draft in registered_drafts(target)]
        assert methods == sorted(methods, key=METHODS.index), target


def test_a_draft_is_no_target_of_another_method_without_a_reason() -> None:
    """A chain of drafts would load a small model for a model that is small already."""
    pairs = read_registry()
    small = {pair.draft.name for pair in pairs if pair.draft.method == "model"}
    assert [pair for pair in pairs if pair.target in small] == []


def test_evidence_names_the_draft() -> None:
    for pair in read_registry():
        assert pair.draft.name in pair.draft.evidence, pair


# --- looking up ---------------------------------------------------------------------------------------------------


def test_names_are_compared_exactly() -> None:
    [draft] = registered_drafts("Qwen/Qwen2.5-7B-Instruct")
    assert draft == RegisteredDraft(
        name="Qwen/Qwen2.5-0.5B-Instruct",
        method="model",
        revision="7ae557604adf67be50417f59c2c2f167def9a775",
        license="Apache-2.0",
        is_verified=False,
        note=draft.note,
    )
    assert "152064" in draft.note
    for name in ("qwen/qwen2.5-7b-instruct", "Qwen2.5-7B-Instruct", "./Qwen/Qwen2.5-7B-Instruct", ""):
        assert registered_drafts(name) == ()


def test_a_pair_per_target() -> None:
    large, larger = parse_registry(toml(GOOD))
    assert (large.target, large.is_verified) == ("owner/large", False)
    assert (larger.target, larger.is_verified) == ("owner/larger", True)
    assert large.draft.note == ""


def test_an_empty_registry() -> None:
    assert parse_registry("") == ()


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "small"}, "name='small' of draft 'small' is not made of hub ids 'owner/model'; mend it"),
        ({"name": "../small"}, "is not made of hub ids"),
        ({"name": "owner/.."}, "is not made of hub ids"),
        ({"targets": ["/etc/passwd"]}, "targets=.* is not made of hub ids"),
        ({"targets": [3]}, "targets=.* is not made of hub ids"),
        ({"targets": "owner/large"}, "targets='owner/large' .* is not a list of hub ids"),
        ({"license": 3}, "license=3 .* is not a string"),
        ({"license": ""}, "is not a licence; write 'unknown'"),
        ({"targets": [], "verified": []}, "is not a list of one or more other models"),
        ({"targets": ["owner/small"], "verified": []}, "is not a list of one or more other models"),
        ({"revision": "v1.0"}, "is not 'main' or a commit of 40 hexadecimal digits"),
        ({"revision": COMMIT[:7]}, "is not 'main' or a commit of 40 hexadecimal digits"),
        ({"revision": "main"}, "is not a commit, because what 'main' names can change after it was verified"),
        ({"verified": ["owner/other"]}, "is not a part of targets"),
        ({"evidence": "http://example.org"}, "is not an address that starts with https://"),
    ],
)
def test_values_that_are_none(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_registry(toml(GOOD | change))


def test_main_is_a_revision_while_nobody_verified() -> None:
    assert len(parse_registry(toml(GOOD | {"revision": "main", "verified": []}))) == 2


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownOptionError, match="unknown registry draft 'owner/small' option 'licence'; did you mean"):
        parse_registry(toml(GOOD | {"licence": "MIT"}))
    with pytest.raises(UnknownOptionError, match="unknown method of owner/small 'eagle'; did you mean 'eagle3'"):
        parse_registry(toml(GOOD | {"method": "eagle"}))
    with pytest.raises(UnknownOptionError, match="unknown registry table 'drafts'; did you mean 'draft'"):
        parse_registry("[[drafts]]")


def test_what_is_left_out() -> None:
    with pytest.raises(ConfigError, match="draft 'owner/small' has no revision, targets; every draft needs them"):
        parse_registry(toml({key: value for key, value in GOOD.items() if key not in ("revision", "targets")}))


def test_one_draft_of_a_method_per_target() -> None:
    with pytest.raises(ConfigError, match="target 'owner/large' has two drafts of method 'model', 'owner/small' and"):
        parse_registry(toml(GOOD, GOOD | {"name": "owner/tiny"}))
    assert len(parse_registry(toml(GOOD, GOOD | {"method": "eagle3"}))) == 4


@pytest.mark.parametrize("text", ["[[draft]", "[draft]\nname = 'a/b'"])
def test_what_is_no_list_of_drafts(text: str) -> None:
    with pytest.raises(ConfigError, match=r"mend the TOML|write \[\[draft\]\]"):
        parse_registry(text)
