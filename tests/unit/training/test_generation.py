"""Continuations through the library."""

from __future__ import annotations

import torch

from evodraft.training.generation import greedy_continuations, sampled_continuations

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
