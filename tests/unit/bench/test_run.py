"""A whole run on a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from evodraft.bench.contestants import Answer, Ask, Memory, Outcome, Profile
from evodraft.bench.plan import Order, plans_of
from evodraft.bench.result import ALL, CONTROL, Result, Row
from evodraft.bench.run import Step, run
from evodraft.bench.schema import dumped
from evodraft.errors import BenchError, UnknownOptionError
from evodraft.testing.pairs import tiny_pair

MODEL = {"name": "model", "model": tiny_pair().draft}


def row_of(result: Result, contestant: str, condition: str, group: str = ALL) -> Row:
    [row] = [r for r in result.rows if (r.contestant, r.condition, r.group) == (contestant, condition, group)]
    return row


class Echo:
    """A peer that repeats the prompt, slowly."""

    profile = Profile("echo/plain", "peer", label="third-party build", max_batch=1)

    def reset(self) -> None:
        """Nothing is learnt."""

    def generate(self, asks: Sequence[Ask]) -> Outcome:
        return Outcome(tuple(Answer((ask.token_ids * 9)[: ask.max_new_tokens]) for ask in asks), request_s=9.0)

    def memory(self) -> Memory:
        return Memory(resident_bytes=123)

    def close(self) -> None:
        """Nothing is open."""


def test_every_condition_and_contestant_has_its_rows_and_the_law_is_kept(order: Callable[..., Order]) -> None:
    steps: list[Step] = []
    methods = {"ngram": {"drafter": "ngram"}, "model": {"drafter": MODEL, "controller": "fixed:3"}}
    result = run(order(methods=methods), notify=steps.append)
    assert steps[-1].num_done == steps[-1].num_turns == len(steps) == len(result.items) == (4 + 3 + 3) * 2 * 3
    for condition in result.conditions:
        for name in ("plain", "ngram", "model"):
            row = row_of(result, name, condition.name)
            assert (row.error, row.num_prompts, row.num_repeats) == (None, 2, 3)
            assert row.check is not None
            assert row.check.is_passed
            assert row.speed_up is not None
            assert row.request_speed_up is not None
            assert row.replayed_speed_up is not None
    for name in ("T=0", "T=0.7 coupled"):
        check = row_of(result, "model", name).check
        assert check is not None
        assert check.num_identical == check.num_outputs == 6
    model = row_of(result, "model", "T=0.7")
    assert model.mean_acceptance_length is not None
    assert model.mean_acceptance_length > 1.3
    assert row_of(result, "plain", "T=0.7").speed_up == row_of(result, "plain", "T=0.7").request_speed_up


def test_the_control_is_the_baseline_once_more_and_judges_the_noise(order: Callable[..., Order]) -> None:
    result = run(order())
    control = [row for row in result.rows if row.contestant == CONTROL]
    assert {row.condition for row in control} == {"T=0.7"}
    assert result.noise is not None
    assert result.noise.interval == row_of(result, CONTROL, "T=0.7").speed_up
    assert row_of(result, CONTROL, "T=0.7").replayed_speed_up == pytest.approx(1.0)
    inside = result.noise.interval.low <= 1 <= result.noise.interval.high
    narrow = result.noise.interval.high - result.noise.interval.low < 0.06
    assert result.noise.is_quiet == (inside and narrow)


def test_any_method_may_be_the_baseline(order: Callable[..., Order]) -> None:
    result = run(order(baseline="ngram", conditions=["T=0"]))
    assert result.baseline == "ngram"
    assert row_of(result, "ngram", "T=0").speed_up.value == 1.0  # type: ignore[union-attr]  # it is there
    assert row_of(result, "plain", "T=0").speed_up.value != 1.0  # type: ignore[union-attr]  # it is there
    with pytest.raises(UnknownOptionError, match="unknown baseline 'plan'; did you mean 'plain'"):
        order(baseline="plan")


def test_peers_stand_beside_where_they_can_and_a_wrong_one_fails_its_check(order: Callable[..., Order]) -> None:
    result = run(order(), [Echo()])
    assert {row.condition for row in result.rows if row.contestant == "echo/plain"} == {"T=0.7", "T=0"}
    row = row_of(result, "echo/plain", "T=0")
    assert row.error is None
    assert row.speed_up is None
    assert row.request_speed_up is not None
    assert row.check is not None
    assert not row.check.is_passed
    assert not row.is_counted
    [record] = [record for record in result.contestants if record.name == "echo/plain"]
    assert (record.kind, record.label) == ("peer", "third-party build")
    assert record.memory is not None
    assert record.memory.resident_bytes == 123


def test_peers_are_left_out_of_batches_they_cannot_take(order: Callable[..., Order]) -> None:
    conditions = [{"name": "one"}, {"name": "two", "batch_size": 2}]
    plans = plans_of(order(conditions=conditions), [Echo()])
    assert [len(plan.peers) for plan in plans] == [1, 0]
    assert [len(plan.batches) for plan in plans] == [2, 1]


def test_batches_are_measured_together(order: Callable[..., Order]) -> None:
    result = run(order(conditions=[{"name": "two", "batch_size": 2, "verifier": "coupled"}]))
    row = row_of(result, "ngram", "two")
    assert (row.num_prompts, row.num_tokens) == (2, 3 * 2 * 12)
    assert row.check is not None
    assert row.check.num_identical == 6
    assert row.replayed_speed_up is None
    assert len(result.items) == 3 * 3


def test_the_result_says_what_was_asked_and_of_whom(order: Callable[..., Order]) -> None:
    one, other = run(order(conditions=["T=0"])), run(order(conditions=["T=0"], seed=8))
    assert one.suite.prompts_sha256 != other.suite.prompts_sha256
    assert one.suite.sha256 == other.suite.sha256
    assert (one.model.name, one.model.dtype, one.model.num_parameters > 1000) == ("tiny", "float32", True)
    assert one.machine.threads >= 1
    assert [record.name for record in one.contestants] == ["plain", CONTROL, "ngram"]
    [condition] = one.conditions
    assert len(set(condition.seeds)) == 3


class Gone(Echo):
    """A peer whose process ends in the middle of a run."""

    def __init__(self) -> None:
        self._num_answers = 0

    def reset(self) -> None:
        self._check()

    def generate(self, asks: Sequence[Ask]) -> Outcome:
        self._num_answers += 1
        self._check()
        return super().generate(asks)

    def memory(self) -> Memory:
        self._check()
        return super().memory()

    def _check(self) -> None:
        if self._num_answers > 3:
            raise BenchError("peer echo is closed")


def test_a_peer_that_ends_does_not_end_the_run_of_the_others(order: Callable[..., Order]) -> None:
    result = run(order(conditions=["T=0.7"]), [Gone()])
    assert "4 of 6 answers failed; the first: BenchError: peer echo is closed" in str(
        row_of(result, "echo/plain", "T=0.7").error
    )
    assert row_of(result, "ngram", "T=0.7").error is None
    assert [record.memory for record in result.contestants if record.name == "echo/plain"] == [None]


class Overlong(Echo):
    def generate(self, asks: Sequence[Ask]) -> Outcome:
        return Outcome(tuple(Answer((ask.token_ids * 9)[: ask.max_new_tokens + 1]) for ask in asks), request_s=9.0)


def test_answers_that_were_not_asked_for_are_failures(order: Callable[..., Order]) -> None:
    row = row_of(run(order(conditions=["T=0"]), [Overlong()]), "echo/plain", "T=0")
    assert row.error == "6 of 6 answers failed; the first: 13 tokens came out, and 12 were asked for"
    assert row.num_tokens == 0


def test_options_that_are_models_are_written_by_their_class_and_folders_without_their_place(
    order: Callable[..., Order],
) -> None:
    result = run(order(methods={"model": {"drafter": MODEL, "controller": "fixed:3"}}, conditions=["T=0"]))
    [record] = [record for record in result.contestants if record.name == "model"]
    assert record.options == {"drafter": {"name": "model", "model": "LlamaForCausalLM"}, "controller": "fixed:3"}
    dumped(result)
