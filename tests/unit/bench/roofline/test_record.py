"""What follows from the figures, by hand; and their JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from evodraft.bench.roofline import SCHEMA, PassCost, Roofline, Speculation, document
from evodraft.bench.roofline.record import check_speculation
from evodraft.errors import BenchError
from evodraft.inspection.speed import expected_speed_up


def test_the_limit_is_bytes_over_the_fastest_kernel(roofline: Roofline) -> None:
    assert roofline.target.best.name == "prepacked"
    assert roofline.target.limit_ms == pytest.approx(10.0)
    assert roofline.over_limit == pytest.approx(2.0)


@pytest.mark.parametrize(("cache_bytes", "fits"), [(100_000_000, True), (99_999_999, False), (None, None)])
def test_whether_the_cache_could_hold_it(roofline: Roofline, cache_bytes: int | None, fits: bool | None) -> None:
    assert replace(roofline, cache_bytes=cache_bytes).fits_in_cache is fits


@pytest.mark.parametrize(
    "faster", [{"plain_ms": 9.9}, {"passes": (PassCost(1, 9.9), PassCost(2, 20.0))}, {"draft_step_ms": 0.9}]
)
def test_what_is_faster_than_its_limit_is_noticed(roofline: Roofline, faster: dict[str, Any]) -> None:
    assert roofline.is_consistent
    assert replace(roofline, draft=None, draft_step_ms=None).is_consistent
    assert not replace(roofline, **faster).is_consistent


def test_speculation_at_the_limit_and_as_measured(roofline: Roofline) -> None:
    found = Speculation.at(3.0, 5, roofline)
    assert found.limit_ms == pytest.approx((10 + 5 * 1) / 3)
    assert found.speed_up_at_limit == pytest.approx(2.0)
    assert found.best_speed_up == pytest.approx(4.0)
    # a round: 1 ms beside the passes, 24 ms for 6 tokens, 5 steps of 2 ms
    assert found.expected_speed_up == pytest.approx(3 * 20 / (1 + 24 + 10))


def test_without_a_draft_drafting_costs_nothing(roofline: Roofline) -> None:
    found = Speculation.at(3.0, 5, replace(roofline, draft=None, draft_step_ms=None))
    assert found.speed_up_at_limit == pytest.approx(3.0)
    assert found.expected_speed_up is None


def test_it_agrees_with_the_formula_of_the_paper(roofline: Roofline) -> None:
    acceptance_length = (1 - 0.8**6) / (1 - 0.8)
    found = Speculation.at(acceptance_length, 5, roofline)
    assert found.speed_up_at_limit == pytest.approx(expected_speed_up(0.8, 0.1, 5))


@pytest.mark.parametrize(("length", "num_tokens"), [(0.9, 5), (6.1, 5), (1.0, 0), (2.0, -1)])
def test_lengths_that_cannot_be_are_refused(length: float, num_tokens: int) -> None:
    with pytest.raises(BenchError, match="cannot be"):
        check_speculation(length, num_tokens)


def test_one_of_two_figures_is_not_enough() -> None:
    check_speculation(None, None)
    check_speculation(6.0, 5)
    for given in ((2.0, None), (None, 5)):
        with pytest.raises(BenchError, match="give both or none"):
            check_speculation(*given)


def test_json_holds_what_was_measured_and_what_follows(roofline: Roofline) -> None:
    whole = document(replace(roofline, speculation=Speculation.at(3.0, 5, roofline)))
    loaded = json.loads(json.dumps(whole, allow_nan=False))
    assert loaded["schema"] == SCHEMA
    assert (loaded["commit"], loaded["date"], loaded["versions"]) == ("abc", "2026-01-02", {"torch": "2"})
    assert loaded["machine"]["processor"] == "A processor"
    assert loaded["target"]["read_bytes"]["total"] == 100_000_000
    assert loaded["target"]["kernels"][1] == {"name": "prepacked", "ms": 9.0, "gb_per_s": 10.0}
    assert (loaded["target"]["best"], loaded["target"]["limit_ms"]) == ("prepacked", pytest.approx(10.0))
    assert loaded["target"]["left_out"] == {"stacked": "no room"}
    assert loaded["passes"][2] == {"num_tokens": 6, "ms": 24.0}
    assert loaded["draft"]["limit_ms"] == pytest.approx(1.0)
    assert loaded["speculation"]["best_speed_up"] == pytest.approx(4.0)
    assert (loaded["over_limit"], loaded["fits_in_cache"]) == (pytest.approx(2.0), False)
    assert loaded["is_consistent"] is True
    assert document(replace(roofline, draft=None))["draft"] is None


def test_every_formula_names_a_figure_of_the_json(roofline: Roofline) -> None:
    whole = document(replace(roofline, speculation=Speculation.at(3.0, 5, roofline)))
    for name in whole["formulas"]:
        part, _, figure = name.rpartition(".")
        assert figure in (whole[part] if part else whole | whole["target"])
