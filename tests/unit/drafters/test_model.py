"""The small-model drafter: its cache, its columns, and how it is planned."""

from __future__ import annotations

import pytest
import torch

from evodraft.drafters import ModelConfig, ModelDrafter, plan_model_drafter
from evodraft.drafters.base import CommittedRow, DrafterContext, DraftRow
from evodraft.errors import ConfigError, ModelMismatchError, WeightsError
from evodraft.target import Chunk
from evodraft.testing import TableDecoder, TableLM
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer
from evodraft.types import Update, Versions

TABLE = TableLM.random(3, order=2, seed=1)


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
