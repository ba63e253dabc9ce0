"""Continuations through the library."""

from __future__ import annotations

import torch

from evodraft.training.generation import batch_answers, greedy_continuations, sampled_continuations

PROMPTS = torch.tensor([[5, 6, 7], [8, 9, 10]])


def test_rows_keep_their_prompts_have_full_length_and_depend_on_the_seed(model):
    before = torch.random.get_rng_state()
    rows, again, other = (sampled_continuations(model, seed)(PROMPTS, 40) for seed in (1, 1, 2))
    assert rows.shape == (2, 40)
    assert torch.equal(rows[:, :3], PROMPTS)
    assert torch.equal(rows, again)
    assert not torch.equal(rows, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_stop_ids_of_the_model_do_not_end_a_row(model):
    model.generation_config.eos_token_id = list(range(300))
    rows = sampled_continuations(model, 1)(PROMPTS, 40)
    assert rows.shape == (2, 40)


def test_greedy_answers_end_before_the_stop_id(model):
    (free,) = greedy_continuations(model, [[5, 6, 7]], 6, stop_ids=[299], pad_id=1)
    assert len(free) == 6
    (stopped,) = greedy_continuations(model, [[5, 6, 7]], 6, stop_ids=[free[3]], pad_id=1)
    assert stopped == free[: free.index(free[3])]


def test_answers_end_with_the_models_own_stop_id(model):
    prompts = [[5, 6, 7], [8]]
    model.generation_config.eos_token_id = None
    free = batch_answers(model, 6, seed=0)(prompts, 0.0)
    assert [len(row) for row in free] == [6, 6]
    stop = free[0][3]
    model.generation_config.eos_token_id = stop
    stopped = batch_answers(model, 6, seed=0)(prompts, 0.0)
    assert stopped == [row[: row.index(stop) + 1] if stop in row else row for row in free]


def test_the_answer_to_a_prompt_does_not_depend_on_its_padding(model):
    model.generation_config.eos_token_id = [299]
    answer = batch_answers(model, 5, seed=0)
    assert answer([[8]], 0.0)[0] == answer([[8], [5, 6, 7, 8]], 0.0)[0]


def test_warm_answers_depend_on_the_seed_and_leave_the_random_state_alone(model):
    before = torch.random.get_rng_state()
    one, again, other = (batch_answers(model, 12, seed)([[5, 6]], 1.0) for seed in (1, 1, 2))
    assert one == again != other
    assert torch.equal(before, torch.random.get_rng_state())
