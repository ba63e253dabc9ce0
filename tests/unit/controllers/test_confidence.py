"""The confidence rule and its threshold."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evodraft.controllers import ConfidenceConfig, ConfidenceController, Progress, confidence
from evodraft.controllers.confidence import Observations, best_threshold
from evodraft.errors import ConfigError
from evodraft.types import ROOT, Commit, Draft, Feedback, Plan, Signals, Timings, Verdict


def signals(probability: float) -> Signals:
    return Signals(1.0, 0.9, 0.5, probability)


def feedback(probabilities, num_accepted: int, request_id: str = "a") -> Feedback:
    noted = [None if value is None else signals(value) for value in probabilities]
    draft = Draft.chain([0] * len(noted), None, noted)
    verdict = Verdict(tuple(range(num_accepted)), (0,) * (num_accepted + 1))
    return Feedback(request_id, "off", draft, verdict, Commit(verdict.token_ids, num_accepted), False, Timings())


def goes_on(controller: ConfidenceController, *probabilities, width: int = 20) -> bool:
    noted = [None if value is None else signals(value) for value in probabilities]
    (is_allowed,) = controller.more([Progress("a", Plan(width), noted)])
    return is_allowed


def started(**options) -> ConfidenceController:
    controller = ConfidenceController(ConfidenceConfig(**options))
    controller.start("a")
    return controller


def test_stops_after_an_improbable_token() -> None:
    controller = started()
    assert goes_on(controller)
    assert goes_on(controller, 0.1, 0.4)
    assert not goes_on(controller, 0.9, 0.39)


def test_the_plan_is_the_cap() -> None:
    controller = started(max_draft_tokens=3)
    assert controller.plan("a") == Plan(3)
    assert not goes_on(controller, 0.9, 0.9, width=2)


def test_tokens_without_a_law_are_trusted() -> None:
    assert goes_on(started(), None, None)


def test_the_threshold_moves_with_what_verification_says() -> None:
    controller = started()
    controller.observe(feedback([0.9, 0.8, 0.7], 3))
    controller.observe(feedback([0.6, 0.5], 0))  # what comes after a rejection says nothing
    controller.observe(feedback([0.6], 0))
    assert goes_on(controller, 0.5)  # five observations are too few
    controller.observe(feedback([0.65], 0))
    assert goes_on(controller, 0.7)
    assert not goes_on(controller, 0.69)


def test_one_kind_of_outcome_teaches_nothing() -> None:
    controller = started()
    for _ in range(5):
        controller.observe(feedback([0.9, 0.8], 2))
    assert goes_on(controller, 0.4)
    assert not goes_on(controller, 0.39)


def test_positions_after_the_first_rejection_are_not_judged() -> None:
    controller = started()
    controller.observe(feedback([0.9, 0.8, 0.7, 0.3, 0.99, 0.98], 3))
    controller.observe(feedback([0.35, None], 0))
    controller.observe(feedback([0.8], 1))
    assert not goes_on(controller, 0.5)
    assert goes_on(controller, 0.7)


def test_the_threshold_stays_if_told_so() -> None:
    controller = started(adapt=False)
    for _ in range(5):
        controller.observe(feedback([0.9, 0.2], 1))
    assert goes_on(controller, 0.4)


def test_requests_have_their_own_threshold() -> None:
    controller = started()
    controller.start("b")
    for _ in range(4):
        controller.observe(feedback([0.95, 0.9], 1, "b"))
    rows = [Progress(name, Plan(9), [signals(0.93)]) for name in "ab"]
    assert controller.more(rows) == [True, False]
    controller.finish("b")
    controller.observe(feedback([0.9], 0, "b"))
    controller.start("b")
    assert controller.more(rows) == [True, True]


OBSERVATIONS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=30)


@given(OBSERVATIONS)
def test_no_observed_threshold_is_better(observations) -> None:
    probabilities, matches = zip(*observations, strict=True)
    assume(len(set(matches)) == 2)

    def cost(threshold: float) -> float:
        wrong = [value >= threshold for value, is_match in observations if not is_match]
        missed = [value < threshold for value, is_match in observations if is_match]
        return sum(wrong) / len(wrong) + 3 * sum(missed) / len(missed)

    best = best_threshold(probabilities, matches)
    assert best in probabilities
    assert cost(best) <= min(cost(value) for value in probabilities) + 1e-12


@pytest.mark.parametrize("values", [{"threshold": 1.5}, {"max_draft_tokens": 0}, {"max_draft_tokens": 65}])
def test_wrong_options(values) -> None:
    with pytest.raises(ConfigError, match="choose one within"):
        ConfidenceConfig(**values)


def test_adapt_is_a_yes_or_no() -> None:
    with pytest.raises(ConfigError, match="adapt='no' is neither True nor False"):
        ConfidenceConfig(adapt="no")


def test_old_observations_are_forgotten() -> None:
    controller = ConfidenceController(ConfidenceConfig(threshold=0.0))
    controller.start("a")
    for _ in range(600):
        controller.observe(feedback([0.9, 0.2], 1, "a"))
    assert len(controller._states["a"].seen) == 1024


FEW_VALUES = st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.75, 1.0])  # equal probabilities are common: a draft may be sure


@given(st.lists(st.tuples(st.floats(0, 1) | FEW_VALUES, st.booleans()), max_size=60), st.integers(6, 40))
def test_the_threshold_that_is_kept_up_is_the_one_of_the_latest_observations(observations, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confidence, "_MAX_OBSERVATIONS", most)
        seen = Observations()
        for number, (probability, is_match) in enumerate(observations, 1):
            seen.add(probability, is_match)
            probabilities, matches = zip(*observations[:number][-most:], strict=True)
            is_known = len(matches) >= 6 and len(set(matches)) == 2
            assert seen.threshold() == (best_threshold(probabilities, matches) if is_known else None)
            assert len(seen) == len(matches)


def test_a_threshold_stays_when_what_it_came_from_is_forgotten() -> None:
    controller = started()
    for _ in range(5):
        controller.observe(feedback([0.9, 0.7], 1))
    for _ in range(1024):  # at the end all of them match, and teach nothing any more
        controller.observe(feedback([0.5], 1))
    assert goes_on(controller, 0.5)
    assert not goes_on(controller, 0.49)


@pytest.mark.parametrize(
    ("path", "matched", "failed"),
    [((), [], [0.9]), ((1,), [0.8], [0.4]), ((1, 3), [0.8, 0.4], []), ((0,), [0.9], [0.5])],
)
def test_of_a_tree_the_path_and_the_first_sibling_below_it_are_seen(monkeypatch, path, matched, failed) -> None:
    seen = []
    monkeypatch.setattr(Observations, "add", lambda self, probability, is_match: seen.append((probability, is_match)))
    noted = tuple(signals(value) for value in (0.9, 0.8, 0.5, 0.4, 0.3))
    draft = Draft((1, 2, 3, 4, 5), (ROOT, ROOT, 0, 1, 1), None, noted)
    verdict = Verdict(path, (0,) * (len(path) + 1))
    controller = started()
    controller.observe(Feedback("a", "off", draft, verdict, Commit(verdict.token_ids, len(path)), False, Timings()))
    assert seen == [*((value, True) for value in matched), *((value, False) for value in failed)]
