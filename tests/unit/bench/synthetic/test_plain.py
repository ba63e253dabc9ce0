"""Plain decoding by every runtime beside transformers' own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evodraft.assemble import LoadOptions
from evodraft.bench.contestants import Answer, Outcome
from evodraft.bench.own import Method
from evodraft.bench.synthetic import Workload, peak_gb_per_s, plain_costs, random_pair
from evodraft.errors import BenchError

WORKLOAD = Workload(num_prompt_tokens=6, max_new_tokens=10, repeats=3)


def test_every_runtime_says_what_transformers_says() -> None:
    costs = plain_costs(random_pair("tiny", "float32", "cpu"), {"a": LoadOptions(), "b": LoadOptions()}, WORKLOAD)
    assert [cost.contestant for cost in costs] == ["generate", "a", "b"]
    assert costs[0].speed_up == 1.0
    for cost in costs:
        assert (cost.num_identical, cost.num_prompts) == (3, 3)
        assert cost.note == "random weights in the shape of tiny"
        assert cost.ms_per_token > 0


def test_figures_are_medians_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"generate": iter([8.0, 4.0, 4.0, 8.0]), "a": iter([9.0, 1.0, 2.0, 2.0])}  # the warm-up first

    def generate(self: object, asks: object) -> Outcome:
        name = self.profile.name  # type: ignore[attr-defined]  # of both
        return Outcome((Answer((1, 2) if name == "a" else (1, 3)),), 9.0, next(seconds[name]))

    for kind in ("own.Method", "theirs.Generate"):
        monkeypatch.setattr(f"evodraft.bench.{kind}.generate", generate)
    theirs, own = plain_costs(random_pair("tiny", "float32", "cpu"), {"a": LoadOptions()}, WORKLOAD)
    assert (theirs.ms_per_token, own.ms_per_token) == (2000.0, 1000.0)
    assert own.speed_up == 4.0  # of 4, 2 and 4
    assert (theirs.num_identical, own.num_identical) == (3, 0)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Outcome((Answer((), error="out of luck"),), 1.0), "plain decoding by a: out of luck"),
        (Outcome((Answer((1,)),), 1.0), "plain decoding by a: its time is not known"),
    ],
)
def test_what_a_runtime_cannot_do_is_an_error(monkeypatch: pytest.MonkeyPatch, outcome: Outcome, message: str) -> None:
    monkeypatch.setattr(Method, "generate", lambda self, asks: outcome)
    with pytest.raises(BenchError, match=message):
        plain_costs(random_pair("tiny", "float32", "cpu"), {"a": LoadOptions()}, WORKLOAD)


def test_the_peak_of_a_memory_is_its_clock_times_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(memory_clock_rate=2_619_000, memory_bus_width=5120)  # kHz, bits
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: told)
    assert peak_gb_per_s(torch.device("cuda")) == pytest.approx(3352, abs=1)
    assert peak_gb_per_s(torch.device("cpu")) is None
