"""What the target says about rows, family by family."""

from __future__ import annotations

import pytest
import torch

from evodraft.errors import TrainingError
from evodraft.testing.tiny import tiny_model
from evodraft.training.observe import check_target, embedding_matrix, observe

ROWS = torch.tensor([[3, 5, 7, 9], [4, 4, 8, 1]])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "phi3", "gpt_neox", "gpt2"])
def test_taps_and_laws_are_those_of_the_model(family) -> None:
    target = tiny_model(family)
    check_target(target)
    check_target(tiny_model(family).bfloat16())
    observed = observe(target, ROWS, (0, 1, 2))
    with torch.no_grad():
        output = target(ROWS, output_hidden_states=True)
    torch.testing.assert_close(observed.taps, torch.cat(output.hidden_states, dim=-1))
    logits = observed.targets.states @ observed.targets.output.t()
    torch.testing.assert_close(logits, output.logits.flatten(0, 1), atol=1e-4, rtol=1e-4)
    assert torch.equal(observed.embedded, embedding_matrix(target)[ROWS])
    assert not observed.taps.requires_grad
    assert not observed.targets.output.requires_grad


def test_the_working_precision_of_laws_is_chosen() -> None:
    observed = observe(tiny_model("llama"), ROWS, (1,), is_bfloat16=True)
    assert {observed.targets.states.dtype, observed.targets.output.dtype} == {torch.bfloat16}
    assert observed.taps.dtype == torch.float32


@pytest.mark.parametrize("cap", [0.5, 10.0])
def test_a_target_that_caps_its_logits_is_refused(cap) -> None:
    target = tiny_model("gemma2", final_logit_softcapping=cap)
    with pytest.raises(TrainingError, match="scales or caps"):
        check_target(target)


def test_a_model_without_an_output_matrix_is_refused() -> None:
    with pytest.raises(TrainingError, match="causal language model"):
        observe(tiny_model("llama").base_model, ROWS, (1,))
