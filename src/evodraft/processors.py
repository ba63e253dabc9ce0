"""Logits processors, and target laws that apply them lazily at every position (X10).

A processor is anything that transformers would accept: (input_ids [1, n], scores [1, vocab]) -> scores. Does not
know drafts or verifiers: it is asked for one law after the other, along the accepted path only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import RepetitionPenaltyLogitsProcessor

from evodraft.errors import EvodraftError, UserCodeError
from evodraft.params import LawParams
from evodraft.sampling import to_law

if TYPE_CHECKING:
    from evodraft.types import LogitsProcessor, Request


@dataclass(frozen=True, slots=True)
class LogitBias:
    """Adds a constant to the logits of some ids; -inf bans an id."""

    bias: Mapping[int, float]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ids = torch.tensor(list(self.bias), device=scores.device)
        values = torch.tensor(list(self.bias.values()), device=scores.device, dtype=scores.dtype)
        return scores.index_add(-1, ids, values[None])


@dataclass(frozen=True, slots=True)
class OccurrencePenalty:
    """Presence and frequency penalties as in the OpenAI API: over the output so far, the prompt not counted."""

    prompt_length: int
    presence: float
    frequency: float

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.bincount(input_ids[0, self.prompt_length :], minlength=scores.shape[-1]).to(scores.dtype)
        return scores - self.frequency * counts - self.presence * (counts > 0).to(scores.dtype)


@dataclass(frozen=True, slots=True)
class MinimumLength:
    """Bans stop ids until the sequence, prompt included, has `length` tokens."""

    length: int
    stop_ids: tuple[int, ...]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] >= self.length:
            return scores
        known = [token_id for token_id in self.stop_ids if token_id < scores.shape[-1]]
        return scores.index_fill(-1, torch.tensor(known, dtype=torch.long, device=scores.device), -torch.inf)


def make_processors(request: Request) -> tuple[LogitsProcessor, ...]:
    """Processors of a request in transformers' order: bias, penalties, minimum length, then the caller's own."""
    params, prompt_length = request.params, len(request.token_ids)
    made: list[LogitsProcessor] = []
    if params.logit_bias:
        made.append(LogitBias(params.logit_bias))
    if params.repetition_penalty != 1.0:
        made.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.presence_penalty or params.frequency_penalty:
        made.append(OccurrencePenalty(prompt_length, params.presence_penalty, params.frequency_penalty))
    if params.min_new_tokens and request.stop_token_ids:
        stop_ids = sorted(request.stop_token_ids)
        made.append(MinimumLength(prompt_length + params.min_new_tokens, tuple(stop_ids)))
    return (*made, *request.logits_processors)


@dataclass(frozen=True, slots=True)
class EagerLaws:
    """Laws of all rows, computed in one go: nothing depends on the path."""

    laws: torch.Tensor  # [nodes + 1, vocab]

    def at(self, node: int, path: Sequence[int]) -> torch.Tensor:
        return self.laws[node + 1]

    def sure(self, node: int, path: Sequence[int]) -> int | None:
        return None


@dataclass(frozen=True, slots=True)
class GreedyLaws:
    """One-hot laws of temperature 0, of which mostly nobody needs more than the token."""

    logits: torch.Tensor  # [nodes + 1, vocab]
    best: Sequence[int]  # [nodes + 1], ties to the lowest id

    def at(self, node: int, path: Sequence[int]) -> torch.Tensor:
        return to_law(self.logits[node + 1], LawParams(temperature=0.0))

    def sure(self, node: int, path: Sequence[int]) -> int | None:
        return self.best[node + 1]


@dataclass(frozen=True, slots=True)
class LazyLaws:
    """Laws that need the tokens before them; processors run exactly as often as in plain decoding."""

    logits: torch.Tensor  # [nodes + 1, vocab]
    params: LawParams
    processors: tuple[LogitsProcessor, ...]
    prefix: Sequence[int]  # token ids up to and including the root

    def at(self, node: int, path: Sequence[int]) -> torch.Tensor:
        input_ids = torch.tensor([[*self.prefix, *path]], device=self.logits.device)
        scores = self.logits[node + 1 : node + 2]
        precision = torch.float64 if scores.dtype == torch.float64 else torch.float32
        scores = scores.to(precision, copy=True)  # many processors write in place; the raw logits stay as they are
        for processor in self.processors:
            scores = _run(processor, input_ids, scores)
        if not bool(scores.amax().isfinite()):
            raise UserCodeError(
                f"the logits processors left no usable token at position {input_ids.shape[1]} "
                f"(largest score {scores.amax().item()}); allow at least one id and avoid NaN and +inf"
            )
        return to_law(scores[0], self.params)

    def sure(self, node: int, path: Sequence[int]) -> int | None:
        return None


def _run(processor: LogitsProcessor, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    name = getattr(processor, "__name__", processor.__class__.__name__)
    try:
        result = processor(input_ids, scores)
    except EvodraftError:
        raise
    except Exception as error:  # foreign code: whatever it raises belongs to this request alone
        raise UserCodeError(f"logits processor {name} raised {error!r}; fix it or leave it out") from error
    if not isinstance(result, torch.Tensor) or result.shape != scores.shape:
        shape = tuple(getattr(result, "shape", ())) or result.__class__.__name__
        raise UserCodeError(f"logits processor {name} returned {shape}; it must return scores {tuple(scores.shape)}")
    return result
