"""Progress reports."""

from __future__ import annotations

import json

import pytest

from evodraft.training.progress import ProgressReport
from evodraft.training.target import StepReport


def test_the_history_has_one_line_a_step_and_is_appended_to(tmp_path):
    path = tmp_path / "deep" / "history.jsonl"
    for step in (1, 2):
        with ProgressReport("run", 2, step - 1, path) as report:
            report(StepReport(step, 3.0, 1.0, 10, 0.5))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_the_shown_loss_is_a_slow_mean():
    with ProgressReport("run", 3) as report:
        report(StepReport(1, 3.0, 1.0, 10, 0.5))
        report(StepReport(2, 2.0, 1.0, 10, 0.5))
    assert report.smooth_loss == pytest.approx(2.98)


def test_what_is_done_may_be_measured_in_other_ways():
    with ProgressReport("run", 1000, 10.0, measure=lambda report: 500 * report.seconds) as report:
        report(StepReport(1, 3.0, 1.0, 10, 0.5))
        assert report._bar.tasks[0].completed == 250
