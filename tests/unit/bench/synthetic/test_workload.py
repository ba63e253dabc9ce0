"""Prompts of random ids: as many and as long as asked, the same for everybody."""

from __future__ import annotations

from evodraft.bench.synthetic import Workload


def test_prompts_depend_on_the_seed_alone_and_have_seeds_of_their_own() -> None:
    workload = Workload(num_prompt_tokens=5, max_new_tokens=7, seed=3)
    asks = workload.asks(50, 4)
    assert asks == workload.asks(50, 4)
    assert asks != Workload(num_prompt_tokens=5, max_new_tokens=7, seed=4).asks(50, 4)
    assert len({ask.token_ids for ask in asks}) == len({ask.seed for ask in asks}) == 4
    for ask in asks:
        assert (len(ask.token_ids), ask.max_new_tokens, ask.temperature, ask.stop_token_ids) == (5, 7, 0.7, ())
        assert all(0 <= token_id < 50 for token_id in ask.token_ids)


def test_the_temperature_may_be_another_one() -> None:
    assert [ask.temperature for ask in Workload().asks(50, 2, temperature=0.0)] == [0.0, 0.0]
