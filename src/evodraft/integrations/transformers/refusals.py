"""What `model.generate` can be asked for and evodraft cannot do: an error that names value, limit and remedy.

transformers would ignore some of it silently; here nothing is ignored that could change a token or a field of the
result. Does not translate anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    GenerationConfig,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation.configuration_utils import GenerationMode

from evodraft.errors import ConfigError
from evodraft.runtime.masks import layer_kinds
from evodraft.runtime.support import innermost

if TYPE_CHECKING:
    from evodraft.integrations.transformers.translation import Translated
    from evodraft.llm import LLM
    from evodraft.llm_view import LLMView

_DRAFTER_OPTIONS = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
_OWN_KWARGS = ("attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep", "cache_position")
_RESULT_FIELDS = ("output_attentions", "output_hidden_states")  # without a result to be in, they change nothing
_ONE_ROW_PROCESSORS = (  # they hold a state, or something of the prompt, for all rows together
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    EncoderNoRepeatNGramLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
)
# Options of ours that model.generate has its own words for.
_SAID_TO_GENERATE: Final[Mapping[str, str]] = {
    **{name: name for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")},
    **{name: name for name in ("min_new_tokens", "logits_processor", "stopping_criteria")},
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "n": "num_return_sequences",
    "stop_token_ids": "eos_token_id",
    "ignore_eos": "eos_token_id",
    "logit_bias": "sequence_bias",
    "logprobs": "return_dict_in_generate=True, output_scores",
}


def refuse_foreign_model(llm: LLM, model: Any) -> None:
    """Raises ConfigError unless `llm` decodes this very model, as `model.generate` would run it."""
    held = getattr(llm.engine.target.decoder, "model", None)
    if held is None or innermost(held) is not innermost(model):
        raise ConfigError(
            f"generate was called on {_shown(model)}, but speculation= decodes {_shown(held)}; "
            "build the LLM on the same object: LLM.from_pretrained((model, tokenizer))"
        )
    owner = getattr(model.prepare_inputs_for_generation, "__self__", model)
    if owner is not model:
        raise ConfigError(
            f"the inputs of {_shown(model)} are prepared by a {type(owner).__name__}, which may feed more than the "
            "prompt, as prompt tuning does; use adapters that live in the model's layers, as LoRA does"
        )


def refuse_view(view: LLMView[LLM], num_rows: int) -> None:
    """Raises ConfigError for options of `with_options` that `model.generate` decides, or that need one row."""
    for name in view.options:
        if name in _SAID_TO_GENERATE:
            raise ConfigError(
                f"{name}={view.options[name]!r} in with_options has no effect on model.generate; "
                f"pass {_SAID_TO_GENERATE[name]}= to model.generate"
            )
    if view.streamer is not None and num_rows > 1:
        raise ConfigError(
            f"a streamer follows 1 sequence, and there are {num_rows}; leave it out, or call once for each"
        )


def refuse_config(config: GenerationConfig) -> None:
    """Raises ConfigError for a way of generating, or a field of the result, that there is not."""
    for name in _DRAFTER_OPTIONS:
        value = getattr(config, name, None)
        if value:
            raise ConfigError(
                f"{name}={value} asks transformers to draft, but speculation= drafts already; leave it out, "
                f"or pass {name}=None where a generation config has it: what drafts is chosen in LLM.from_pretrained"
            )
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ConfigError(
            f"generation mode {mode.value} cannot be drafted for; set num_beams=1 and leave out "
            "penalty_alpha, dola_layers and constraints, or leave out custom_generate"
        )
    if config.cache_implementation == "quantized":
        raise ConfigError(
            "cache_implementation='quantized' changes what the model says, and evodraft keeps its cache in the model's "
            "precision; leave it out, or leave out custom_generate"
        )
    for name in _RESULT_FIELDS if config.return_dict_in_generate else ():
        if getattr(config, name):
            raise ConfigError(
                f"{name}=True: a pass of evodraft holds drafts that were rejected; call the model once on the finished "
                f"sequences: model(output.sequences, {name}=True)"
            )


def refuse_inputs(model_kwargs: Mapping[str, Any], input_ids: torch.Tensor) -> None:
    """Raises ConfigError for inputs of the model beyond token ids and their mask."""
    known = (*_OWN_KWARGS, *_RESULT_FIELDS)
    extra = [name for name, value in model_kwargs.items() if value is not None and name not in known]
    if extra:
        raise ConfigError(
            f"the model would get {', '.join(extra)}, and evodraft feeds token ids only; leave out {', '.join(extra)}, "
            "or leave out custom_generate"
        )
    cache = model_kwargs.get("past_key_values")
    if cache is not None and (getattr(cache, "_is_user_defined", False) or cache.get_seq_length() > 0):
        raise ConfigError(
            f"past_key_values={type(cache).__name__} of {cache.get_seq_length()} tokens cannot be continued or filled; "
            "pass the whole sequence as input_ids and leave it out"
        )
    positions, mask = model_kwargs.get("position_ids"), model_kwargs.get("attention_mask")
    if positions is None:
        return
    kept = torch.ones_like(input_ids) if mask is None else (mask != 0).to(input_ids)
    counted = kept.cumsum(dim=-1) - 1
    if not torch.equal(positions.expand_as(counted)[kept != 0], counted[kept != 0]):
        raise ConfigError(
            f"position_ids={positions.tolist()} do not count the tokens of the prompt from 0, which is how evodraft "
            "counts; leave them out"
        )


def refuse_gaps(model: Any, attention_mask: torch.Tensor | None, length: int) -> None:
    """Raises ConfigError for padding between tokens if layers look back less than `length` tokens, padding included.

    transformers counts such padding as part of the window, and evodraft leaves it out.
    """
    if attention_mask is None or not bool(((attention_mask != 0).int().diff(dim=-1) < 0).any()):
        return
    kinds = layer_kinds(innermost(model).config.get_text_config(decoder=True))
    least = min((reach for kind in kinds for reach in (kind.window, kind.chunk) if reach is not None), default=length)
    if least < length:
        raise ConfigError(
            f"a prompt has padding between its tokens, and some layers look back {least} tokens, of which "
            f"transformers counts the padding and evodraft does not; leave it out, keep max_length <= {least}, or pass "
            "attention_mask=torch.ones_like(input_ids) if it is text (without a mask, every pad_token_id is padding)"
        )


def refuse_batch(call: Translated, view: LLMView[LLM], num_rows: int) -> None:
    """Raises ConfigError for what cannot be done on several rows at once."""
    if num_rows == 1:
        return
    for processor in call.processors:
        if isinstance(processor, _ONE_ROW_PROCESSORS):
            raise ConfigError(
                f"{type(processor).__name__} looks at all rows together, but the {num_rows} rows advance at their own "
                "speeds; call generate once for each prompt"
            )
    ends_apart = call.criteria or call.options["stop_token_ids"] or view.options.get("stop")
    if call.pad_token_id is None and ends_apart:
        raise ConfigError(
            f"{num_rows} rows may end at different lengths, and there is no id to pad the shorter ones with; "
            "pass pad_token_id= to model.generate"
        )


def _shown(model: Any) -> str:
    if model is None:
        return "no transformers model"
    path = getattr(getattr(model, "config", None), "name_or_path", "")
    return f"a {type(model).__name__} {path!r} at {id(model):#x}"
