"""Turns to rows: what makes a row fail, count, or stay without a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from evodraft.bench import result
from evodraft.bench.checks import Finding
from evodraft.bench.contestants import Answer, Ask, Outcome, Profile, RoundRecord
from evodraft.bench.judging import Judged, Key
from evodraft.bench.measure import Batch, Turn
from evodraft.bench.result import ALL, Row
from evodraft.bench.rows import Table, item_of
from evodraft.bench.suites import Condition
from evodraft.types import GenerationStats

VARIED = tuple(range(20))
LOOPING = (1, 2) * 10


def stats(num_tokens: int, rounds: Sequence[tuple[int, int]]) -> GenerationStats:
    """Counters of (drafted, accepted) rounds."""
    with_draft = [(drafted, accepted) for drafted, accepted in rounds if drafted]
    depth = max((accepted for _, accepted in with_draft), default=0)
    return GenerationStats(
        num_prompt_tokens=1,
        num_tokens=num_tokens,
        num_target_passes=len(rounds),
        num_rounds=len(with_draft),
        num_draft_tokens=sum(drafted for drafted, _ in with_draft),
        num_accepted_tokens=sum(accepted for _, accepted in with_draft),
        num_round_tokens=sum(accepted + 1 for _, accepted in with_draft),
        accepted_per_position=tuple(sum(accepted > i for _, accepted in with_draft) for i in range(depth)),
    )


def turn(
    name: str,
    number: int,
    seconds: float,
    *,
    rounds: Sequence[tuple[int, int]] = ((0, 0),) * 20,
    token_ids: tuple[int, ...] = VARIED,
    group: str = "law",
    repeat: int = 0,
    error: str | None = None,
    tells: bool = True,
) -> Turn:
    asks = (Ask((1,), 20),)
    answer = Answer(() if error else token_ids, stats(len(token_ids), rounds) if tells else None, error)
    records = [RoundRecord(drafted, accepted, 0.001 * drafted, 0.02, 1) for drafted, accepted in rounds]
    outcome = Outcome((answer,), seconds + 0.1, seconds if tells else None, 0.0, tuple(records) if tells else ())
    return Turn(name, Batch(number, group, asks), repeat, asks, outcome)


def table(
    turns: Sequence[Turn],
    *,
    temperature: float = 0.7,
    deficit: float = 0.0,
    synthetic: str | None = None,
    rule: str = "greedy",
    batch_size: int = 1,
) -> Table:
    names = dict.fromkeys(item.contestant for item in turns)
    judged = {
        name: {
            Key(item.batch.number, item.repeat): Judged(item, (Finding((deficit,), (0.5,)),), 1)
            for item in turns
            if item.contestant == name
        }
        for name in names
    }
    return Table(
        Condition("c", temperature=temperature, batch_size=batch_size),
        judged,
        dict.fromkeys(names, rule),  # type: ignore[arg-type]  # one of the rules
        dict.fromkeys(names, 0.5),
        {name: Profile(name, "method", {"drafter": name}, synthetic=synthetic) for name in names},
    )


def rows(found: Table, groups: Sequence[str] = ("law",)) -> dict[tuple[str, str], Row]:
    return {(row.contestant, row.group): row for row in found.rows(groups)}


def pair_of_turns(**options: object) -> list[Turn]:
    fast: dict[str, object] = {"rounds": ((4, 3),) * 5, **options}
    return [
        item
        for number in range(4)
        for repeat in range(3)
        for item in (
            turn("plain", number, 1.0, repeat=repeat),
            turn("fast", number, 0.5, repeat=repeat, **fast),  # type: ignore[arg-type]  # of turn
        )
    ]


def test_speeds_ratios_and_counts() -> None:
    row = rows(table(pair_of_turns()))["fast", "law"]
    assert (row.num_prompts, row.num_repeats, row.num_tokens, row.error) == (4, 3, 240, None)
    assert row.speed_up is not None
    assert row.speed_up.value == pytest.approx(2.0)
    assert row.request_speed_up is not None
    assert row.request_speed_up.value == pytest.approx(1.1 / 0.6)
    assert row.tokens_per_s == pytest.approx(40)
    assert row.request_tokens_per_s == pytest.approx(20 / 0.6)
    assert row.mean_acceptance_length == pytest.approx(4.0)
    assert row.acceptance_rate == pytest.approx(0.75)
    assert row.tokens_per_target_pass == pytest.approx(4.0)
    assert row.per_position_rates == (1.0, 1.0, 1.0)
    assert row.distinct_4 == 1.0
    assert row.is_counted


def test_replayed_time_is_counts_times_mean_costs() -> None:
    """Plain: 20 passes that take 1 s in all. Fast: 5 passes, whose share of 0.5 s is overhead like the rest."""
    row = rows(table(pair_of_turns()))["fast", "law"]
    assert row.replayed_speed_up == pytest.approx(2.0)
    assert rows(table(pair_of_turns(), batch_size=2))["fast", "law"].replayed_speed_up is None


def test_time_is_split_by_round() -> None:
    split = rows(table(pair_of_turns()))["fast", "law"].time_split
    assert split is not None
    assert (split.draft_ms, split.verify_ms, split.learn_ms) == pytest.approx((4.0, 20.0, 0.0))
    assert split.draft_ms + split.verify_ms + split.overhead_ms + split.learn_ms == pytest.approx(100.0)


def test_one_failed_answer_fails_its_rows_and_no_others() -> None:
    turns = [
        *pair_of_turns(),
        *(turn("plain", 9, 1.0, group="code", repeat=repeat) for repeat in range(3)),
        *(
            turn("fast", 9, 0.5, group="code", repeat=repeat, error="out of luck" if repeat else None)
            for repeat in range(3)
        ),
    ]
    found = rows(table(turns), ("law", "code"))
    for group in ("code", ALL):
        row = found["fast", group]
        assert row.error is not None
        assert "out of luck" in row.error
        assert (row.speed_up, row.tokens_per_s, row.check, row.is_counted) == (None, None, None, False)
    assert found["fast", "law"].error is None
    assert found["plain", ALL].error is None


def test_a_failed_baseline_fails_what_is_compared_with_it() -> None:
    turns = [turn("plain", 0, 1.0, error="no"), turn("fast", 0, 0.5)]
    assert rows(table(turns))["fast", "law"].error == "1 of 1 answers failed; the first: the baseline: no"


def test_an_empty_answer_is_a_failed_one() -> None:
    turns = [turn("plain", 0, 1.0), turn("fast", 0, 0.5, token_ids=())]
    assert "no tokens came out" in str(rows(table(turns))["fast", "law"].error)


def test_greedy_rows_of_repeated_text_do_not_count_and_sampled_ones_do() -> None:
    looping = pair_of_turns(token_ids=LOOPING)
    assert not rows(table(looping, temperature=0))["fast", "law"].is_counted
    assert rows(table(looping, temperature=0.7))["fast", "law"].is_counted
    assert rows(table(pair_of_turns(), temperature=0))["fast", "law"].is_counted


def test_repetition_does_not_matter_where_nobody_drafts() -> None:
    def counted(own: Sequence[tuple[int, int]], baseline: Sequence[tuple[int, int]], *, tells: bool = True) -> bool:
        turns = [
            turn("plain", 0, 1.0, token_ids=LOOPING, rounds=baseline),
            turn("other", 0, 1.0, token_ids=LOOPING, rounds=own, tells=tells),
        ]
        return rows(table(turns, temperature=0))["other", "law"].is_counted

    nothing, drafts = ((0, 0),) * 20, ((4, 3),) * 5
    assert counted(nothing, nothing)
    assert not counted(drafts, nothing)
    assert not counted(nothing, drafts)
    assert not counted(nothing, nothing, tells=False)


def test_a_row_is_plain_where_it_is_known_that_nothing_was_drafted() -> None:
    found = rows(table(pair_of_turns()))
    assert (found["plain", "law"].is_plain, found["fast", "law"].is_plain) == (True, False)
    assert not rows(table(pair_of_turns(tells=False)))["fast", "law"].is_plain


def test_rows_that_fail_their_check_or_are_synthetic_do_not_count() -> None:
    assert not rows(table(pair_of_turns(), deficit=0.6))["fast", "law"].is_counted
    assert not rows(table(pair_of_turns(), synthetic="random weights"))["fast", "law"].is_counted


def test_a_contestant_that_tells_nothing_has_whole_requests_only() -> None:
    turns = pair_of_turns(tells=False)
    row = rows(table(turns))["fast", "law"]
    assert row.speed_up is row.replayed_speed_up is row.tokens_per_s is row.time_split is None
    assert row.mean_acceptance_length is None
    assert row.request_speed_up is not None
    assert row.request_speed_up.value == pytest.approx(1.1 / 0.6)
    assert item_of(turns[1], "c").num_rounds is None


def test_samples_get_a_distribution_check() -> None:
    check = rows(table(pair_of_turns(), rule="sampled"))["fast", "law"].check
    assert check is not None
    assert check.kind == "distribution"


def test_items_keep_what_was_counted() -> None:
    item = item_of(turn("fast", 3, 0.5, rounds=((4, 3),) * 5, repeat=2), "T=0")
    assert item[:6] == (3, "law", "T=0", "fast", 2, 20)
    assert (item.num_rounds, item.num_draft_tokens, item.num_accepted_tokens, item.error) == (5, 20, 15, None)


def test_nothing_counts_that_claims_no_law_or_is_divided_by_a_wrong_baseline() -> None:
    found = table(pair_of_turns())
    inexact = replace(found, profiles={**found.profiles, "fast": replace(found.profiles["fast"], is_exact=False)})
    assert not rows(inexact)["fast", "law"].is_counted
    plain = {key: replace(judged, findings=(Finding((9.0,)),)) for key, judged in found.turns["plain"].items()}
    wrong = replace(found, turns={**found.turns, "plain": plain})
    row = rows(wrong)["fast", "law"]
    assert row.check is not None
    assert row.check.is_passed
    assert not row.is_counted


def test_greedy_prompts_that_do_not_loop_have_rows_of_their_own() -> None:
    turns = [
        turn(name, number, seconds, token_ids=LOOPING if number < 2 else VARIED, rounds=((4, 3),) * 5)
        for number in range(4)
        for name, seconds in (("plain", 1.0), ("fast", 0.25 if number < 2 else 0.5))
    ]
    found = rows(table(turns, temperature=0.0))
    row = found["fast", result.VARIED]
    assert (row.num_prompts, row.distinct_4, row.is_counted) == (2, 1.0, True)
    assert row.speed_up is not None
    assert row.speed_up.value == pytest.approx(2.0)
    assert found["fast", ALL].num_prompts == 4
    assert not found["fast", ALL].is_counted


@pytest.mark.parametrize(("temperature", "token_ids"), [(0.7, LOOPING), (0.0, VARIED), (0.0, LOOPING)])
def test_no_rows_of_their_own_for_all_prompts_or_none_or_drawn_ones(temperature, token_ids) -> None:
    turns = [turn(name, number, 1.0, token_ids=token_ids) for number in range(2) for name in ("plain", "fast")]
    assert {row.group for row in table(turns, temperature=temperature).rows(("law",))} == {"law", ALL}
