"""Random weights that can be decoded: finite, cut to size, drafted for, and never without their note."""

from __future__ import annotations

import pytest
import torch

from evodraft import LLM
from evodraft.bench.synthetic import RandomPair, Shape, random_pair, shapes
from evodraft.bench.synthetic.pair import shallower
from evodraft.errors import BenchError

_LAYER_BYTES = 4 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 48 * 32 + 2 * 32)
_REST_BYTES = 4 * (2 * 128 * 32 + 32)
_QWEN = Shape("qwen3", {**shapes.SHAPES["tiny"].sizes, "head_dim": 16, "tie_word_embeddings": True})


@pytest.fixture(params=["tiny", "tied"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RandomPair:
    monkeypatch.setitem(shapes.SHAPES, "tied", _QWEN)
    return random_pair(request.param, "float32", "cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_logits_are_finite_and_not_all_the_same(dtype: str) -> None:
    model = random_pair("tiny", dtype, "cpu").target.model
    assert model.dtype == (torch.float32 if dtype == "float32" else torch.bfloat16)
    logits = model(torch.arange(64)[None]).logits
    assert bool(logits.isfinite().all())
    assert logits.float().std().item() > 0.1


def test_it_decodes_with_its_draft_from_token_ids(pair: RandomPair) -> None:
    drafter = {"name": "model", "model": pair.draft}
    llm = LLM.from_pretrained((pair.target.model, None), drafter=drafter, controller="fixed:3")
    outs = llm.generate(prompt_token_ids=[[1, 2, 3], [4]], max_new_tokens=12, seed=1)
    plain = llm.generate(prompt_token_ids=[[1, 2, 3], [4]], max_new_tokens=12, seed=1, speculative=False)
    assert [out.token_ids for out in outs] == [out.token_ids for out in plain]
    assert all(len(out.token_ids) == 12 and out.stats.num_draft_tokens > 0 for out in outs)


def test_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (random_pair("tiny", "float32", "cpu", seed=seed).target.model for seed in (0, 0, 1))
    weights = [model.model.layers[1].mlp.up_proj.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_making_it_moves_no_random_stream_and_leaves_torch_able_to_initialise() -> None:
    state = torch.get_rng_state()
    random_pair("tiny", "float32", "cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.nn.Linear(4, 4).weight.std().item() > 0


@pytest.mark.parametrize(
    ("num_fitting", "note"),
    [
        (1, "random weights in the shape of tiny, 1 of 4 layers"),
        (3, "random weights in the shape of tiny, 3 of 4 layers"),
        (4, "random weights in the shape of tiny"),
        (9, "random weights in the shape of tiny"),
    ],
)
def test_layers_are_cut_to_what_fits_with_the_draft(num_fitting: int, note: str) -> None:
    limit = _REST_BYTES + (num_fitting + 1) * _LAYER_BYTES
    pair = random_pair("tiny", "float32", "cpu", max_bytes=limit)
    assert pair.note == note
    assert pair.num_layers == pair.target.model.config.num_hidden_layers == min(4, num_fitting)
    assert pair.num_full_layers == 4
    assert pair.draft is not None
    weights = {weight.data_ptr(): weight for model in (pair.target.model, pair.draft) for weight in model.parameters()}
    assert sum(weight.nbytes for weight in weights.values()) <= limit


def test_less_than_one_layer_is_refused() -> None:
    with pytest.raises(BenchError, match="do not hold one layer"):
        random_pair("tiny", "float32", "cpu", max_bytes=_REST_BYTES + 2 * _LAYER_BYTES - 1)


def test_the_draft_shares_the_tables_and_has_a_layer_of_its_own(pair: RandomPair) -> None:
    target, draft = pair.target.model, pair.draft
    assert draft is not None
    assert draft.get_input_embeddings().weight is target.get_input_embeddings().weight
    assert draft.get_output_embeddings().weight is target.get_output_embeddings().weight
    assert len(draft.model.layers) == draft.config.num_hidden_layers == 1
    assert draft.model.layers[0].mlp.up_proj.weight.data_ptr() != target.model.layers[0].mlp.up_proj.weight.data_ptr()


def test_the_cost_ratio_is_of_bytes_that_a_token_reads() -> None:
    head_and_norm = 4 * (128 * 32 + 32)
    found = random_pair("tiny", "float32", "cpu").cost_ratio
    assert found == pytest.approx((head_and_norm + _LAYER_BYTES) / (head_and_norm + 4 * _LAYER_BYTES))


def test_without_a_draft() -> None:
    pair = random_pair("tiny", "float32", "cpu", num_draft_layers=0)
    assert (pair.draft, pair.cost_ratio) == (None, 0.0)


def test_a_shallower_model_is_the_first_layers_and_leaves_the_whole_one_alone(pair: RandomPair) -> None:
    model, ids = pair.target.model, torch.arange(9)[None]
    before = model(ids, output_hidden_states=True)
    cut = shallower(model, 2)
    normed = model.model.norm(before.hidden_states[2])
    torch.testing.assert_close(cut(ids).logits, model.lm_head(normed))
    assert model.config.num_hidden_layers == len(model.model.layers) == 4
    torch.testing.assert_close(model(ids).logits, before.logits, rtol=0, atol=0)
