"""A named head becomes a drafter that shares what it may share, or the reason why it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import torch

from evodraft.drafters.base import DrafterContext
from evodraft.drafters.eagle.config import EagleConfig, source_of
from evodraft.drafters.eagle.drafter import EagleDrafter
from evodraft.drafters.eagle.files import save_head
from evodraft.drafters.eagle.head import EagleHead
from evodraft.drafters.eagle.plan import cache_bytes, plan_eagle_drafter
from evodraft.drafters.sliced_head import SlicedHead
from evodraft.drafters.vocabulary import Vocabulary
from evodraft.errors import ConfigError, ModelMismatchError, UnsupportedModelError, WeightsError
from evodraft.runtime.choose import RuntimeOptions
from evodraft.testing.heads import tiny_head
from evodraft.testing.tiny import tiny_model

TARGET: Final = tiny_model("llama", num_hidden_layers=8)


def context(**changes: Any) -> DrafterContext:
    values = {
        "tokenizer": None,
        "vocab_size": 64,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "target": TARGET,
        "runtime": RuntimeOptions("eager"),
        **changes,
    }
    return DrafterContext(**values)


class Made(NamedTuple):
    """What a drafter was made of."""

    head: EagleHead
    embedding: torch.Tensor
    output: SlicedHead


def planned(config: EagleConfig, **changes: Any) -> Made:
    made: list[Made] = []

    class Noting(EagleDrafter):
        def __init__(self, head: Any, embedding: Any, output: Any, *rest: Any, **options: Any) -> None:
            made.append(Made(head, embedding, output))
            super().__init__(head, embedding, output, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evodraft.drafters.eagle.plan.EagleDrafter", Noting)
        plan_eagle_drafter(config, context(**changes)).make(2, 32, None)
    return made[0]


def test_a_tied_head_uses_the_targets_matrices(tmp_path: Path) -> None:
    save_head(tiny_head(TARGET, taps=(2, 4, 5)), tmp_path, target=TARGET)
    drafter = planned(EagleConfig(tmp_path))
    assert drafter.head.shape.taps == (2, 4, 5)
    assert drafter.output.ids is None
    assert drafter.output.weight.data_ptr() == TARGET.get_output_embeddings().weight.data_ptr()


def test_a_tied_head_over_a_vocabulary() -> None:
    drafter = planned(EagleConfig(tiny_head(TARGET)), vocabulary=Vocabulary((1, 5, 9), "three"))
    assert drafter.output.ids is not None
    assert drafter.output.ids.tolist() == [1, 5, 9]
    assert torch.equal(drafter.output.weight, TARGET.get_output_embeddings().weight[[1, 5, 9]])


def test_a_head_with_ids_of_its_own() -> None:
    head = tiny_head(TARGET, token_ids=[2, 5, 9, 60])
    assert head.lm_head is not None
    drafter = planned(EagleConfig(head))
    assert drafter.output.ids is not None
    assert drafter.output.ids.tolist() == [2, 5, 9, 60]
    assert drafter.output.weight.data_ptr() == head.lm_head.weight.data_ptr(), "no copy"


def test_a_head_with_ids_of_its_own_over_a_vocabulary() -> None:
    head = tiny_head(TARGET, token_ids=[2, 5, 9, 60])
    assert head.lm_head is not None
    drafter = planned(EagleConfig(head), vocabulary=Vocabulary((1, 5, 60, 63), "four"))
    assert drafter.output.ids is not None
    assert drafter.output.ids.tolist() == [5, 60]
    assert torch.equal(drafter.output.weight, head.lm_head.weight[[1, 3]])
    with pytest.raises(ModelMismatchError, match="none of the 1 ids of the vocabulary is among the 4"):
        planned(EagleConfig(head), vocabulary=Vocabulary((1,), "one"))


def test_what_is_written_into_a_matrix_is_taken_over() -> None:
    """Rows, not the target's ids, are what is copied."""
    head = tiny_head(TARGET, token_ids=[2, 5, 60])
    assert head.lm_head is not None
    whole, part = (planned(EagleConfig(head), vocabulary=ids).output for ids in (None, Vocabulary((5, 60), "two")))
    assert not whole.refresh()
    assert not part.refresh()
    head.lm_head.weight.mul_(2)
    assert whole.refresh()
    assert part.refresh()
    assert torch.equal(whole.weight, head.lm_head.weight)
    assert torch.equal(part.weight, head.lm_head.weight[[1, 2]])
    assert part.ids is not None
    assert part.ids.tolist() == [5, 60]


def test_a_head_narrower_than_its_target() -> None:
    own = {"hidden_size": 16, "has_own_embedding": True}
    drafter = planned(EagleConfig(tiny_head(TARGET, token_ids=range(64), **own)))
    assert drafter.output.weight.shape == (64, 16)
    with pytest.raises(ModelMismatchError, match="has no output matrix of its own and hidden states of 16 numbers"):
        planned(EagleConfig(tiny_head(TARGET, **own)))
    with pytest.raises(ModelMismatchError, match="has no embedding of its own"):
        planned(EagleConfig(tiny_head(TARGET, hidden_size=16, token_ids=range(64))))


def test_the_dtype_is_the_targets(tmp_path: Path) -> None:
    save_head(tiny_head(TARGET, token_ids=range(64)), tmp_path)
    made = planned(EagleConfig(tmp_path), dtype=torch.bfloat16)
    assert {made.output.weight.dtype, made.head.fc.weight.dtype} == {torch.bfloat16}


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_the_memory_of_a_token(dtype: torch.dtype, size: int) -> None:
    head = tiny_head(TARGET).to(dtype)
    assert (
        plan_eagle_drafter(EagleConfig(head), context(dtype=dtype)).bytes_per_token
        == cache_bytes(head)
        == 2 * 2 * 8 * size
    )


def test_a_head_in_memory_has_the_type_of_its_target() -> None:
    with pytest.raises(ConfigError, match=r"has torch.bfloat16 on cpu and .* torch.float32 on cpu; .*head.to\('cpu'"):
        planned(EagleConfig(tiny_head(TARGET).bfloat16()))


def test_an_output_matrix_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TARGET, "get_output_embeddings", lambda: None)
    with pytest.raises(UnsupportedModelError, match="take a head with its own"):
        planned(EagleConfig(tiny_head(TARGET)))


def test_a_head_of_another_target(tmp_path: Path) -> None:
    other = tiny_model("llama", num_hidden_layers=8, seed=1)
    save_head(tiny_head(other, taps=(2, 4, 5)), tmp_path, target=other, target_name="another one")
    with pytest.raises(ModelMismatchError, match="was trained for another one"):
        planned(EagleConfig(tmp_path))
    assert planned(EagleConfig(tmp_path, check_target=False)).head.shape.taps == (2, 4, 5)
    with pytest.raises(ModelMismatchError, match="hidden states of 48 numbers and the target has 32"):
        planned(EagleConfig(tiny_head(tiny_model("llama", hidden_size=48))))


def test_a_head_that_proves_nothing_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_head(tiny_head(TARGET, taps=(2, 4, 5)), tmp_path)
    planned(EagleConfig(tmp_path, check_target=False))
    assert not caplog.records
    planned(EagleConfig(tmp_path))
    assert f"nothing in the head {tmp_path} proves for which target it was trained" in caplog.text


def test_no_target() -> None:
    with pytest.raises(ConfigError, match="no target is known here"):
        planned(EagleConfig(tiny_head(TARGET)), target=None)


# --- which head ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "folder"), [(None, "eagle"), ("general", "eagle_general")])
def test_bundled_heads(head: str | None, folder: str, tmp_path: Path) -> None:
    save_head(tiny_head(TARGET, taps=(2, 4, 5)), tmp_path / folder, target=TARGET)
    assert planned(EagleConfig(head), bundled_heads={folder: tmp_path / folder}).head.shape.taps == (2, 4, 5)
    with pytest.raises(ConfigError, match="has none bundled; write drafter='eagle:PATH-OR-HUB-ID'"):
        planned(EagleConfig(head))


def test_heads_by_name(tmp_path: Path) -> None:
    assert source_of(EagleConfig("owner/head"), {}) == "owner/head"
    assert source_of(EagleConfig(tmp_path), {}) == tmp_path
    with pytest.raises(ConfigError, match="is no head; pass a path, a hub id, or an EagleHead"):
        source_of(EagleConfig(5), {})
    with pytest.raises(WeightsError, match="does not exist"):
        planned(EagleConfig("./nowhere"))
