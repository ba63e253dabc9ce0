"""The small-model drafter: its cache, its columns, and how it is planned."""

from __future__ import annotations

import pytest
import torch

from evodraft.drafters import ModelConfig, ModelDrafter, plan_model_drafter
from evodraft.drafters.base import CommittedRow, DrafterContext, DraftRow
from evodraft.drafters.vocabulary import Vocabulary
from evodraft.errors import ConfigError, ModelMismatchError, UnsupportedModelError, WeightsError
from evodraft.runtime.choose import RuntimeOptions
from evodraft.target import Chunk
from evodraft.testing import TableDecoder, TableLM
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer
from evodraft.types import Update, Versions

TABLE = TableLM.random(3, order=2, seed=1)
SLICE = Vocabulary((1, 4, 5, 17, 30, 31), "test")


def context(**changes) -> DrafterContext:
    values = {"tokenizer": None, "vocab_size": 32, "device": torch.device("cpu"), "dtype": torch.float32}
    return DrafterContext(**{**values, **changes})


def test_only_missing_tokens_are_fed() -> None:
    decoder = TableDecoder(TABLE)
    drafter = ModelDrafter(decoder, 3)
    drafter.admit([Chunk(0, 0, (1, 2, 0), {}), Chunk(1, 0, (2,), {})])
    assert [decoder.length(0), decoder.length(1)] == [3, 1]
    rows = [DraftRow(0, [1, 2, 0, 1]), DraftRow(1, [2, 2])]
    logits = drafter.step(rows).logits
    assert torch.equal(logits, torch.stack([TABLE.law([0, 1]), TABLE.law([2, 2])]).log())
    rows[0].drafted.append(2)
    drafter.step(rows[:1])
    drafter.commit([CommittedRow(0, 4, {}), CommittedRow(1, 2, {})])
    assert [decoder.length(0), decoder.length(1)] == [4, 2]
    drafter.release(0)
    assert decoder.length(0) == 0


def test_a_prompt_that_does_not_fit_is_left_out() -> None:
    decoder = TableDecoder(TABLE, max_length=4)
    drafter = ModelDrafter(decoder, 3)
    assert drafter.max_length == 4
    drafter.admit([Chunk(0, 0, (1, 2, 0), {}), Chunk(1, 0, (1,) * 5, {})])
    drafter.admit([Chunk(0, 3, (1, 1), {})])
    assert [decoder.length(0), decoder.length(1)] == [3, 0]


@pytest.mark.parametrize(("vocab_size", "wanted"), [(2, 2), (3, 3), (5, 5)])
def test_columns_are_cut_or_filled_with_the_impossible(vocab_size, wanted) -> None:
    drafter = ModelDrafter(TableDecoder(TABLE), vocab_size)
    logits = drafter.step([DraftRow(0, [1])]).logits
    assert logits.shape == (1, wanted)
    assert torch.equal(logits[0, :3], TABLE.law([1]).log()[:vocab_size])
    assert torch.isneginf(logits[0, 3:]).all()


def test_updates_load_new_weights_and_carry_the_version() -> None:
    decoder = TableDecoder(TABLE)
    other = TableLM.random(3, order=2, seed=2)
    drafter = ModelDrafter(decoder, 3, load=lambda table: setattr(decoder, "table", table))
    drafter.apply(Update(Versions(4, 0), other))
    assert drafter.versions == (4, 0)
    assert torch.equal(drafter.step([DraftRow(0, [1])]).logits[0], other.law([1]).log())


def test_fixed_weights_refuse_updates() -> None:
    with pytest.raises(ConfigError, match="fixed weights; build it with `load=`"):
        ModelDrafter(TableDecoder(TABLE), 3).apply(Update(Versions(1, 0), None))


def test_a_plan_from_a_model() -> None:
    model = tiny_model("llama", vocab_size=24, max_position_embeddings=50)
    plan = plan_model_drafter(ModelConfig(model), context())
    assert plan.bytes_per_token == 2 * 2 * 2 * 8 * 4  # keys and values, 2 layers, 2 heads of 8, float32
    assert plan.make(3, 40, None).decoder.max_length == 40
    drafter = plan.make(3, 400, 1200)
    assert (drafter.max_length, drafter.decoder.num_slots, drafter.vocab_size) == (50, 3, 32)


def test_a_plan_from_model_and_tokenizer_compares_tokens() -> None:
    tokenizer = byte_tokenizer()
    fitting = (tiny_model("llama", vocab_size=260), tokenizer)
    plan_model_drafter(ModelConfig(fitting), context(tokenizer=tokenizer, vocab_size=264))
    small = (tiny_model("llama", vocab_size=100), tokenizer)
    with pytest.raises(ModelMismatchError, match="has no row in the draft model's embedding of 100 rows"):
        plan_model_drafter(ModelConfig(small), context(tokenizer=tokenizer))


def test_a_plan_from_a_path(tmp_path) -> None:
    tiny_model("llama", vocab_size=24).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    for chosen in (
        plan_model_drafter(ModelConfig(str(tmp_path)), context()),
        plan_model_drafter(ModelConfig(), context(bundled_draft=tmp_path)),
    ):
        assert chosen.make(1, 10, None).decoder.vocab_size == 24
    with pytest.raises(WeightsError):
        plan_model_drafter(ModelConfig(str(tmp_path / "nowhere")), context())


def test_nothing_named_and_nothing_bundled() -> None:
    with pytest.raises(ConfigError, match="write drafter='model:PATH-OR-HUB-ID'"):
        plan_model_drafter(ModelConfig(), context())


# --- a part of the vocabulary -------------------------------------------------------------------------------------


def planned(model: torch.nn.Module, vocabulary: Vocabulary | None = SLICE, runtime: str = "auto") -> ModelDrafter:
    plan = plan_model_drafter(ModelConfig(model), context(vocabulary=vocabulary, runtime=RuntimeOptions(runtime)))
    return plan.make(2, 40, None)


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2", "phi3"])
def test_a_slice_offers_what_the_whole_head_says_of_its_ids(family: str) -> None:
    model = tiny_model(family, vocab_size=32)
    whole, sliced = planned(model, None), planned(model)
    chunks = [Chunk(0, 0, (1, 2, 3, 4), {}), Chunk(1, 0, (9,), {})]
    rows = [DraftRow(0, [1, 2, 3, 4, 5]), DraftRow(1, [9, 8, 7])]  # ragged: one token is missing, and two
    for drafter in (whole, sliced):
        drafter.admit(chunks)
    for drawn in ((17, 4), (5, 30)):
        expected, offered = whole.step(rows), sliced.step(rows)
        assert expected.ids is None
        assert offered.ids.tolist() == list(SLICE.ids)
        torch.testing.assert_close(offered.logits, expected.logits[:, list(SLICE.ids)])
        for row, token_id in zip(rows, drawn, strict=True):
            row.drafted.append(token_id)
    assert (whole.copied_bytes, sliced.copied_bytes) == (0, 6 * model.config.hidden_size * 4)


def test_ids_that_the_draft_lacks_are_left_out() -> None:
    drafter = planned(tiny_model("llama", vocab_size=20))
    assert drafter.step([DraftRow(0, [31, 2])]).ids.tolist() == [1, 4, 5, 17]


def test_weights_written_in_place_reach_the_slice() -> None:
    model = tiny_model("llama", vocab_size=32)
    drafter, rows = planned(model), [DraftRow(0, [1, 2, 3])]
    before = drafter.step(rows).logits
    with torch.no_grad():
        model.lm_head.weight.mul_(-1.0)
    torch.testing.assert_close(drafter.step(rows).logits, -before)


class Wrapped(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.inner(hidden)


def test_heads_that_cannot_be_cut() -> None:
    model = tiny_model("llama", vocab_size=32)
    model.lm_head = Wrapped(model.lm_head)
    with pytest.raises(UnsupportedModelError, match="output matrix is quantised, wrapped or not in memory.*leave"):
        planned(model, runtime="transformers")
    planned(model, None, "transformers")


def test_logits_that_are_more_than_a_product() -> None:
    model = tiny_model("gemma2", vocab_size=32, final_logit_softcapping=0.5)
    with pytest.raises(
        UnsupportedModelError, match=r"differ by .* \(root mean square\), the limit is .*; leave vocabulary"
    ):
        planned(model)
    planned(model, None)
