"""Verification of a pair, on tiny models."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evodraft.bench import verify as module
from evodraft.bench.result import ALL, Interval, Noise, Result, Row
from evodraft.bench.start import Wishes
from evodraft.bench.verify import PAIR, SCHEMA, Reference, Verification, as_document, verify

SIZES = {"prompts_per_group": 2, "max_new_tokens": 12, "groups": ("law",)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Verification:
    from evodraft.testing.pairs import tiny_pair

    folder, pair = tmp_path_factory.mktemp("pair"), tiny_pair()
    for name, model in (("target", pair.target), ("draft", pair.draft)):
        model.save_pretrained(folder / name)
        pair.tokenizer.save_pretrained(folder / name)
    wishes = Wishes("verify", model=str(folder / "target"), overrides=SIZES, load={"dtype": "bfloat16"})
    return verify(wishes, f"model:{folder / 'draft'}")


def test_exactness_is_judged_in_float32_and_speed_as_asked(found: Verification) -> None:
    assert (found.exactness.model.dtype, found.speed.model.dtype) == ("float32", "bfloat16")
    for row in found.exactness.rows:
        if row.contestant == PAIR and row.check is not None and row.check.kind == "equality":
            assert row.check.is_passed
            assert row.check.num_identical == row.check.num_outputs
    assert not [reason for reason in found.reasons if "check failed" in reason or "transformers" in reason]


def test_plain_tokens_are_those_of_transformers(found: Verification) -> None:
    assert found.reference.num_outputs == 2
    assert found.reference.num_identical == 2
    assert found.reference.is_passed


def test_the_draft_is_known_by_its_weights_and_not_by_its_place(found: Verification) -> None:
    assert found.draft.name == "draft"
    assert found.draft.sha256 is not None
    assert set(found.draft.sha256) == {"model.safetensors"}
    assert found.draft.num_parameters is not None
    assert found.draft.num_parameters > 1000


def test_the_document_is_json_and_has_no_place_of_a_file(found: Verification) -> None:
    text = json.dumps(as_document(found), allow_nan=False)
    document = json.loads(text)
    assert document["schema"] == SCHEMA
    assert document["is_verified"] == found.is_verified == (not found.reasons)
    assert document["exactness"]["schema"] == document["speed"]["schema"]
    assert document["drafter"] == "model:draft"


def with_rows(result: Result, **changes: object) -> Result:
    """The pair's rows over all prompts changed."""

    def changed(row: Row) -> Row:
        return replace(row, **changes) if row.contestant == PAIR and row.group == ALL else row  # type: ignore[arg-type]  # of Row

    return replace(result, rows=tuple(map(changed, result.rows)))


def quiet(result: Result, speed_up: Interval) -> Result:
    noise = Noise("T=0.7", Interval(1.0, 0.99, 1.01), is_quiet=True)
    return replace(with_rows(result, speed_up=speed_up), noise=noise)


def test_a_fast_exact_pair_on_a_quiet_machine_is_verified(found: Verification) -> None:
    speed = quiet(found.speed, Interval(1.4, 1.3, 1.5))
    assert module._doubts_of_speed(speed) == []
    assert module._doubts_of_exactness(found.exactness, found.reference) == []


@pytest.mark.parametrize(
    ("speed_up", "is_quiet", "doubt"),
    [
        (Interval(1.02, 0.97, 1.08), True, r"no speed-up on this machine: 1.02 \(0.97 to 1.08\) times plain"),
        (Interval(1.4, 1.3, 1.5), False, "too noisy"),
    ],
)
def test_speed_is_doubted_where_it_should_be(
    found: Verification, speed_up: Interval, is_quiet: bool, doubt: str
) -> None:
    result = quiet(found.speed, speed_up)
    assert result.noise is not None
    [said] = module._doubts_of_speed(replace(result, noise=replace(result.noise, is_quiet=is_quiet)))
    assert re.search(doubt, said)


def test_exactness_is_doubted_where_it_should_be(found: Verification) -> None:
    row = next(row for row in found.exactness.rows if row.contestant == PAIR and row.group == ALL)
    assert row.check is not None
    failed = with_rows(found.exactness, check=replace(row.check, is_passed=False))
    assert len(module._doubts_of_exactness(failed, found.reference)) == 3
    lossy = with_rows(found.exactness, check=replace(row.check, kind="none"))
    assert "does not claim" in module._doubts_of_exactness(lossy, found.reference)[0]
    broken = with_rows(found.exactness, error="1 of 6 answers failed; the first: oh")
    assert "T=0.7: 1 of 6 answers failed" in module._doubts_of_exactness(broken, found.reference)[0]
    off = Reference(2, 1, worst_deficit_nats=0.3, tolerance_nats=0.002)
    assert "differ from transformers' by up to 0.3 nats" in module._doubts_of_exactness(found.exactness, off)[0]
    assert "speed, T=0.7: no" in module._doubts_of_speed(with_rows(found.speed, error="no"))[0]


def test_a_wrong_runtime_would_be_found(found: Verification, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    """If transformers said something else, the comparison must say so."""
    order = module._named(
        module.prepare(Wishes("verify", overrides=SIZES, load={"dtype": "float32"}, methods=("auto",)))
    )
    right = module.generated

    def wrong(model: object, ask: object) -> tuple[int, ...]:
        first, *rest = right(model, ask)  # type: ignore[arg-type]  # as they come
        return ((first + 1) % 257, *rest)

    monkeypatch.setattr(module, "generated", wrong)
    reference = module.compare_with_transformers(order)
    assert reference.num_identical == 0
    assert not reference.is_passed
    assert torch.tensor(reference.worst_deficit_nats).isfinite()
