"""What a decoder tells of the runtime that was chosen for it."""

from __future__ import annotations

import pytest
import torch

from evodraft import LLM
from evodraft.runtime.choose import RUNTIMES, RuntimeOptions, choose_runtime, report_of, runtime_of
from evodraft.runtime.family import read_family
from evodraft.runtime.hf import HfDecoder
from evodraft.runtime.support import ModelFacts
from evodraft.testing.pairs import tiny_pair
from evodraft.testing.tiny import tiny_model


@pytest.mark.parametrize("name", RUNTIMES)
def test_decoders_know_what_made_them(name: str) -> None:
    model = tiny_model("llama")
    runtime = choose_runtime(model, RuntimeOptions(name))
    decoder = runtime.decoder(num_slots=1)
    assert runtime_of(decoder) is runtime
    assert report_of(decoder) is runtime.report
    assert decoder.model is model
    assert runtime.report.name == name


def test_a_decoder_that_nobody_chose() -> None:
    decoder = HfDecoder(tiny_model("llama"), num_slots=1)
    assert (runtime_of(decoder), report_of(decoder), report_of(None)) == (None, None, None)


def test_an_llm_says_what_decodes_its_target() -> None:
    pair = tiny_pair()
    llm = LLM.from_pretrained((pair.target, pair.tokenizer), drafter=None, runtime="eager", numerics="fast")
    report = llm.runtime
    assert report is not None
    assert (report.name, report.passed_over, report.numerics) == ("eager", (), ("fast", "you asked for it"))


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_copies_of_weights(family: str, dtype: torch.dtype) -> None:
    """The native step reads the model's own; phi3 keeps what the eager step would join as one already."""
    model = tiny_model(family).to(dtype)
    weights = read_family(model, ModelFacts.of(model))
    copied = {name: choose_runtime(model, RuntimeOptions(name, "fast")).copied_bytes for name in RUNTIMES}
    joined = 0 if family == "phi3" else weights.joinable_bytes
    assert copied == {"native": 0, "packed": weights.matrix_bytes, "eager": joined, "transformers": 0}
    assert weights.joinable_bytes > 0
