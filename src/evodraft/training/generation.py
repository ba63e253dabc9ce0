"""Continuations for distillation, written by transformers' own `generate`: slow, simple, without our engine.

Does not know: what the continuations are for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import GenerationConfig

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel

    from evodraft.training.answers import Answer
    from evodraft.training.draft import Generate


def sampled_continuations(model: LlamaForCausalLM, seed: int) -> Generate:
    """A `Generate` that samples from `model` at temperature 1 over the whole vocabulary.

    Stop tokens do not stop it: a row goes on with the next document, like a training row. The process's random state
    is left alone.
    """

    never = int(model.config.vocab_size)  # None would fall back to the stop ids of the model

    def generate(prompts: torch.Tensor, length: int) -> torch.Tensor:
        config = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_length=length, eos_token_id=never, pad_token_id=0
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed + int(prompts.sum()))
            return _generate(model, prompts, torch.ones_like(prompts), config)

    return generate


def greedy_continuations(
    model: LlamaForCausalLM, prompts: list[list[int]], max_new_tokens: int, stop_ids: list[int], pad_id: int
) -> list[list[int]]:
    """Greedy continuations of single prompts, prompt and stop id excluded."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stop_ids, pad_token_id=pad_id
    )
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            row = _generate(model, ids, torch.ones_like(ids), config)[0, len(prompt) :].tolist()
        outputs.append(row[:-1] if row and row[-1] in stop_ids else row)
    return outputs


def batch_answers(model: PreTrainedModel, max_new_tokens: int, seed: int) -> Answer:
    """An `Answer` over the whole vocabulary that ends at the model's own stop ids.

    Draws depend on the seed and the prompts; the process's random state is left alone.
    """
    stop_ids = _stop_ids(model)

    def answer(prompts: list[list[int]], temperature: float) -> list[list[int]]:
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
        blanks = torch.tensor([[width - len(prompt)] for prompt in prompts], device=model.device)
        mask = (torch.arange(width, device=model.device) >= blanks).long()
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(
            max_new_tokens=max_new_tokens, eos_token_id=stop_ids, pad_token_id=0, **(drawn if temperature else {})
        )
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed + int(ids.sum()))
            rows = _generate(model, ids, mask, config)[:, width:].tolist()
        return [_until_stop(row, stop_ids) for row in rows]

    return answer


def _stop_ids(model: PreTrainedModel) -> list[int]:
    settings: Any = model.generation_config
    found = settings.eos_token_id
    if found is None:
        return [int(model.config.get_text_config(decoder=True).vocab_size)]  # None would fall back to the model's
    return [found] if isinstance(found, int) else list(found)


def _until_stop(row: list[int], stop_ids: list[int]) -> list[int]:
    return next((row[: place + 1] for place, token in enumerate(row) if token in stop_ids), row)


def _generate(
    model: PreTrainedModel, prompts: torch.Tensor, mask: torch.Tensor, config: GenerationConfig
) -> torch.Tensor:
    untyped: Any = model  # the mixin's self type excludes every concrete model
    return cast("torch.Tensor", untyped.generate(prompts, attention_mask=mask, generation_config=config))
