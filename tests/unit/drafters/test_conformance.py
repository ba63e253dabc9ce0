"""Every drafter of the table, over a table and over real models; and that the list is complete."""

from __future__ import annotations

import pytest

from evodraft.drafters import DRAFTERS, ModelDrafter, NgramConfig, NgramDrafter
from evodraft.runtime.hf import HfDecoder
from evodraft.testing import ScriptedDrafter, TableDecoder, TableLM, check_drafter
from evodraft.testing.table_drafters import TABLE_DRAFTERS
from evodraft.testing.tiny import tiny_model

TABLE = TableLM.random(4, order=3, seed=1)


def test_every_name_has_a_maker_here() -> None:
    """But for heads, which feed on hidden states that no table has: their tests are in eagle/."""
    assert set(DRAFTERS) - {"auto", "eagle"} <= set(TABLE_DRAFTERS)


@pytest.mark.parametrize("name", list(TABLE_DRAFTERS))
def test_over_a_table(name) -> None:
    check_drafter(lambda: TABLE_DRAFTERS[name](TABLE), vocab_size=4)


@pytest.mark.parametrize("config", [NgramConfig(), NgramConfig(1, 1), NgramConfig(8, 3)])
def test_ngrams(config) -> None:
    check_drafter(lambda: NgramDrafter(config), vocab_size=4)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma"])
def test_model(family) -> None:
    model = tiny_model(family, vocab_size=24)
    check_drafter(lambda: ModelDrafter(HfDecoder(model, 3, 40, self_check=False), 24), vocab_size=24)


@pytest.mark.parametrize("draft_vocab_size", [3, 6])
def test_model_of_another_padded_size(draft_vocab_size) -> None:
    table = TableLM.random(draft_vocab_size, order=2, seed=2)
    check_drafter(lambda: ModelDrafter(TableDecoder(table), vocab_size=4), vocab_size=4)


def test_scripts_that_draw_and_choose() -> None:
    def script(context):
        return TABLE.law(context).tolist() if sum(context) % 2 else context[-1]

    check_drafter(lambda: ScriptedDrafter(script, 4), vocab_size=4)
