"""Which prompts go together, in which order, with which seeds."""

from __future__ import annotations

import pytest

from evodraft.bench.schedule import Encoded, batches_of
from evodraft.bench.suites import Condition, load_suite
from evodraft.errors import BenchError


def prompts(*groups: str, each: int) -> list[Encoded]:
    return [Encoded(group, (number, ord(group[0]))) for group in groups for number in range(each)]


def test_groups_take_turns() -> None:
    suite = load_suite("domains", groups=["law", "code"], prompts_per_group=2)
    batches = batches_of(suite, suite.conditions[0], prompts("law", "code", each=2), [9, 3])
    assert [batch.group for batch in batches] == ["law", "code", "law", "code"]
    assert [batch.number for batch in batches] == [0, 1, 2, 3]
    assert {ask.stop_token_ids for batch in batches for ask in batch.asks} == {(3, 9)}


def test_a_stream_keeps_its_order() -> None:
    suite = load_suite("shift", groups=["law", "code"], phases=["law", "code", "law"], prompts_per_group=2)
    ordered = [Encoded(group, (number,)) for number, group in enumerate(["law", "law", "code", "code", "law", "law"])]
    batches = batches_of(suite, suite.conditions[0], ordered, [])
    assert [batch.asks[0].token_ids for batch in batches] == [(number,) for number in range(6)]


def test_batches_hold_prompts_of_one_group_and_leave_out_what_does_not_fill_one() -> None:
    suite = load_suite("domains", groups=["law", "code"], prompts_per_group=5)
    batches = batches_of(suite, Condition("two", batch_size=2), prompts("law", "code", each=5), [])
    assert [(batch.group, len(batch.asks)) for batch in batches] == [("law", 2), ("code", 2), ("law", 2), ("code", 2)]


def test_a_group_that_cannot_fill_a_batch_is_an_error() -> None:
    suite = load_suite("domains", groups=["law"])
    with pytest.raises(BenchError, match="group 'law' has 3 prompts and a batch takes 8"):
        batches_of(suite, Condition("eight", batch_size=8), prompts("law", each=3), [])


def test_no_two_asks_share_a_seed_and_repeats_have_their_own() -> None:
    suite = load_suite("domains", groups=["law", "code"])
    batches = batches_of(suite, suite.conditions[0], prompts("law", "code", each=8), [])
    seeds = [ask.seed for repeat in range(5) for batch in batches for ask in batch.again(repeat)]
    assert len(set(seeds)) == len(seeds) == 5 * 16
