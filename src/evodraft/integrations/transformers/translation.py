"""What transformers prepared, in our words: a law, a length, stop ids, and the processors and criteria that remain.

Temperature, top-k, top-p and min-p at the end of the processors become our own law, so that drafts are drawn from the
same law that checks them; that changes nothing but which of two equally likely tokens stays at the edge of top-p.
Everything else runs as transformers made it, in its order.

Does not know rows, engines or models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    MaxLengthCriteria,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from evodraft.errors import SamplingError
from evodraft.params import SamplingParams

# In the order in which they act, here and there. Exact types: a subclass may act otherwise.
_WARPERS: Final[Mapping[type, str]] = {
    TemperatureLogitsWarper: "temperature",
    TopKLogitsWarper: "top_k",
    TopPLogitsWarper: "top_p",
    MinPLogitsWarper: "min_p",
}


class SplitProcessors(NamedTuple):
    """Processors to run, and the options that replace the warpers after them."""

    remaining: list[Any]
    law: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Translated:
    """One call of `model.generate`."""

    options: Mapping[str, Any]  # of LLM.submit
    processors: Sequence[Any]
    criteria: Sequence[Any]
    pad_token_id: int | None
    is_sampled: bool = False
    returns_dict: bool = False
    returns_scores: bool = False
    returns_logits: bool = False


def translated(
    config: GenerationConfig,
    processors: Iterable[Any],
    criteria: Iterable[Any],
    *,
    prompt_length: int,
    vocab_size: int,
) -> Translated:
    """`prompt_length` counts padding, as `max_length` does; ids from `vocab_size` on cannot be drawn."""
    is_sampled, returns_dict = bool(config.do_sample), bool(config.return_dict_in_generate)
    returns_scores = returns_dict and bool(config.output_scores)  # after all processors, warpers included
    keeps_warpers = returns_scores or not is_sampled
    split = SplitProcessors(list(processors), {}) if keeps_warpers else split_warpers(processors)
    listed = list(criteria)
    lengths = [item.max_length for item in listed if type(item) is MaxLengthCriteria]
    eos_ids = [_ids(item.eos_token_id) for item in listed if type(item) is EosTokenCriteria]
    options = {
        "temperature": 1.0 if is_sampled else 0.0,
        **split.law,
        "max_new_tokens": max(1, min([*lengths, config.max_length]) - prompt_length),
        "ignore_eos": True,  # of the LLM: the criteria name the end tokens
        "stop_token_ids": sorted({i for ids in eos_ids for i in ids if 0 <= i < vocab_size}),
    }
    remaining = [item for item in listed if type(item) not in (MaxLengthCriteria, EosTokenCriteria)]
    return Translated(
        options,
        split.remaining,
        remaining,
        _pad_token_id(config),
        is_sampled=is_sampled,
        returns_dict=returns_dict,
        returns_scores=returns_scores,
        returns_logits=returns_dict and bool(config.output_logits),
    )


def split_warpers(processors: Iterable[Any]) -> SplitProcessors:
    """Takes the warpers from the end as far as our law applies the same ones in the same order.

    >>> split_warpers([TopKLogitsWarper(5), TemperatureLogitsWarper(0.7), TopPLogitsWarper(0.9)]).law
    {'top_p': 0.9, 'temperature': 0.7}
    """
    remaining, law = list(processors), {}
    later = list(_WARPERS)
    while remaining and type(remaining[-1]) in later and _is_plain(remaining[-1]):
        warper = remaining.pop()
        later = later[: later.index(type(warper))]
        name = _WARPERS[type(warper)]
        law[name] = getattr(warper, name)
    return SplitProcessors(remaining, law)


def _is_plain(warper: Any) -> bool:
    """Whether our law can say it: cuts are cuts, one token is enough, and the value is in our range."""
    name = _WARPERS[type(warper)]
    if getattr(warper, "filter_value", -math.inf) != -math.inf or getattr(warper, "min_tokens_to_keep", 1) != 1:
        return False
    try:
        SamplingParams.from_options({name: getattr(warper, name)})
    except SamplingError:
        return False
    return True


def _ids(named: Any) -> list[int]:
    """One id, a list or a tensor of them as a list; None is none."""
    return [] if named is None else [int(token_id) for token_id in torch.as_tensor(named).flatten()]


def _pad_token_id(config: GenerationConfig) -> int | None:
    """As transformers settles it: the padding id, else the first end id."""
    return next(iter([*_ids(config.pad_token_id), *_ids(config.eos_token_id)]), None)
