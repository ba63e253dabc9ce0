"""A small causal language model as drafter.

Its cache holds a prefix of what was committed; every step feeds what is missing, so that rounds without drafts, partly
accepted drafts and long pauses need no special care. Does not know where the model came from or what the target is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evodraft.drafters.base import (
    CommittedRow,
    DrafterContext,
    DrafterNeeds,
    DrafterPlan,
    DraftRow,
    DraftStep,
)
from evodraft.drafters.pairing import check_same_tokens
from evodraft.errors import ConfigError
from evodraft.runtime.choose import choose_runtime
from evodraft.runtime.load import load_model
from evodraft.types import Update, Versions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evodraft.runtime.base import Decoder
    from evodraft.target import Chunk


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Options of the small-model drafter."""

    model: object = None  # a path, a hub id, a model, or (model, tokenizer); None = the draft bundled with the target
    revision: str | None = None  # of a hub id


def plan_model_drafter(config: ModelConfig, context: DrafterContext) -> DrafterPlan:
    """Loads the draft model and checks that it speaks the target's tokens.

    Raises ModelMismatchError, WeightsError, or ConfigError if no model is named and none is bundled.
    """
    source = config.model if config.model is not None else context.bundled_draft
    if source is None:
        raise ConfigError(
            "drafter 'model' needs a draft model and this target has none bundled; write drafter='model:PATH-OR-HUB-ID'"
        )
    model, tokenizer = _load(source, config.revision, context)
    if tokenizer is not None and context.tokenizer is not None:
        check_same_tokens(context.tokenizer, tokenizer, model.get_input_embeddings().weight.shape[0])
    runtime = choose_runtime(model, context.runtime)
    facts = runtime.facts

    def make(num_slots: int, max_length: int, cache_tokens: int | None) -> ModelDrafter:
        length = min(max_length, facts.context_length or max_length)
        return ModelDrafter(runtime.decoder(num_slots, length, cache_tokens=cache_tokens), context.vocab_size)

    return DrafterPlan(facts.bytes_per_token, make)


def _load(source: object, revision: str | None, context: DrafterContext) -> tuple[Any, PreTrainedTokenizerBase | None]:
    """(model, tokenizer) from whatever names a draft model."""
    if isinstance(source, (str, Path)):
        loaded = load_model(
            str(source),
            dtype=context.dtype,
            device=context.device,
            revision=revision,
            trust_remote_code=context.trust_remote_code,
        )
        return loaded.model, loaded.tokenizer
    if isinstance(source, tuple):
        model, tokenizer = source
        return model, tokenizer
    return source, None


class ModelDrafter:
    """Drafts with `decoder`.

    Args:
        decoder: the draft model.
        vocab_size: columns of the target's laws; missing ids are offered with probability zero, surplus ones never.
        load: what `apply` calls with an update's payload to change the weights; None = the weights are fixed.
    """

    needs = DrafterNeeds()

    def __init__(self, decoder: Decoder, vocab_size: int, load: Callable[[object], None] | None = None) -> None:
        self.decoder = decoder
        self.vocab_size = vocab_size
        self.max_length: int | None = decoder.max_length
        self.versions = Versions()
        self._load = load

    def admit(self, chunks: Sequence[Chunk]) -> None:
        fitting = [(chunk.slot, list(chunk.token_ids)) for chunk in chunks if self._continues(chunk)]
        if fitting:
            self._feed(fitting, want_logits=False)

    def step(self, rows: Sequence[DraftRow]) -> DraftStep:
        missing = [(row.slot, row.tokens_from(min(self.decoder.length(row.slot), row.length - 1))) for row in rows]
        for row in rows:
            self.decoder.crop(row.slot, row.length - 1)  # the last token is fed in any case: it gives the logits
        logits = self._feed(missing, want_logits=True)
        return DraftStep(logits=_fit(_last_of([len(tokens) for _, tokens in missing], logits), self.vocab_size))

    def commit(self, rows: Sequence[CommittedRow]) -> None:
        for row in rows:
            self.decoder.crop(row.slot, min(self.decoder.length(row.slot), row.num_confirmed))

    def release(self, slot: int) -> None:
        self.decoder.release(slot)

    def apply(self, update: Update) -> None:
        if self._load is None:
            raise ConfigError("an update arrived for a draft model with fixed weights; build it with `load=`")
        self._load(update.payload)
        self.versions = update.versions

    def _continues(self, chunk: Chunk) -> bool:
        """Whether a chunk follows what the slot holds; the first step catches up with whatever was left out."""
        is_next = self.decoder.length(chunk.slot) == chunk.start
        return is_next and chunk.start + len(chunk.token_ids) <= self.decoder.max_length

    def _feed(self, pieces: Sequence[tuple[int, list[int]]], *, want_logits: bool) -> torch.Tensor:
        widths = [len(tokens) for _, tokens in pieces]
        padded = torch.tensor([[*tokens, *[0] * (max(widths) - len(tokens))] for _, tokens in pieces])
        if self.decoder.vocab_size < self.vocab_size:
            # the target may say padding ids that the draft has no row for; any token will do, only the guess suffers
            padded.masked_fill_(padded >= self.decoder.vocab_size, 0)
        output = self.decoder.forward(padded, widths, [slot for slot, _ in pieces], want_logits=want_logits)
        return output.logits if output.logits is not None else torch.empty(0)


def _last_of(widths: Sequence[int], logits: torch.Tensor) -> torch.Tensor:  # [rows, width, vocab] -> [rows, vocab]
    """Each row's last column that is not padding."""
    if len(set(widths)) == 1:
        return logits[:, widths[0] - 1]
    last = torch.tensor(widths, device=logits.device) - 1
    return logits[torch.arange(len(widths), device=logits.device), last]


def _fit(logits: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Cuts or pads the columns [rows, draft vocab] to [rows, vocab_size] (models of one family pad differently)."""
    surplus = vocab_size - logits.shape[-1]
    if surplus == 0:
        return logits
    return torch.nn.functional.pad(logits, (0, surplus), value=-torch.inf)  # a negative pad cuts
