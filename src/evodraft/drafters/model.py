"""A small causal language model as drafter.

Its cache holds a prefix of what was committed; every step feeds what is missing, so that rounds without drafts, partly
accepted drafts and long pauses need no special care. With a vocabulary it computes the logits of these ids alone. Does
not know where the model came from or what the target is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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
from evodraft.drafters.sliced_head import SlicedHead, linear_of
from evodraft.errors import ConfigError, UnsupportedModelError
from evodraft.runtime.choose import choose_runtime
from evodraft.runtime.load import load_model
from evodraft.types import Update, Versions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evodraft.drafters.vocabulary import Vocabulary
    from evodraft.runtime.base import Decoder, DecoderOutput
    from evodraft.runtime.choose import Runtime
    from evodraft.target import Chunk

_MARGIN: Final = 0.05  # of the spread of the logits, which coarse arithmetic may deviate by


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Options of the small-model drafter."""

    model: object = None  # a path, a hub id, a model, or (model, tokenizer); None = the draft bundled with the target
    revision: str | None = None  # of a hub id


def plan_model_drafter(config: ModelConfig, context: DrafterContext) -> DrafterPlan:
    """Loads the draft model and checks that it speaks the target's tokens.

    Raises ModelMismatchError, WeightsError, ConfigError if no model is named and none is bundled, and
    UnsupportedModelError if a vocabulary is wanted and its logits cannot be computed in part.
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
    head = None if context.vocabulary is None else _sliced_head(runtime, context.vocabulary)

    def make(num_slots: int, max_length: int, cache_tokens: int | None) -> ModelDrafter:
        length = min(max_length, facts.context_length or max_length)
        decoder = runtime.decoder(num_slots, length, cache_tokens=cache_tokens)
        return ModelDrafter(decoder, context.vocab_size, head=head)

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


def _sliced_head(runtime: Runtime, vocabulary: Vocabulary) -> SlicedHead:
    """The rows of the model's output matrix for the ids of a vocabulary; ids that the model lacks are left out."""
    untyped: Any = runtime.model
    output = untyped.get_output_embeddings()
    if not isinstance(output, torch.nn.Linear) or not output.weight.is_floating_point() or output.weight.is_meta:
        raise UnsupportedModelError(
            "the draft's output matrix is quantised, wrapped or not in memory, so that no part of it can be taken; "
            "leave vocabulary out"
        )
    num_rows = output.weight.shape[0]
    ids = [token_id for token_id in vocabulary.ids if token_id < num_rows]
    head = SlicedHead(output.weight, output.bias, ids, linear_of(runtime.step))
    _check_head(head, runtime.decoder(1, 2))
    return head


def _check_head(head: SlicedHead, decoder: Decoder) -> None:
    """Raises UnsupportedModelError if the model does more than multiply its last hidden states by its output matrix."""
    tap, token_ids = decoder.num_layers, torch.tensor([[decoder.vocab_size // 8, decoder.vocab_size // 4]])
    output = decoder.forward(token_ids, [2], [0], taps=(tap,))
    assert output.logits is not None
    logits = output.logits.float()
    deviation = float((head(output.taps[tap]).float() - logits[..., head.ids]).square().mean().sqrt())
    limit = _MARGIN * float(logits.std())
    if not deviation <= limit:  # written so that NaN is refused too
        raise UnsupportedModelError(
            "the draft's logits are not its output matrix times its last hidden states: they differ by "
            f"{deviation:.3g} (root mean square), the limit is {limit:.3g}; leave vocabulary out"
        )


class ModelDrafter:
    """Drafts with `decoder`.

    Args:
        decoder: the draft model.
        vocab_size: columns of the target's laws; missing ids are offered with probability zero, surplus ones never.
        load: what `apply` calls with an update's payload to change the weights; None = the weights are fixed.
        head: computes the logits of some ids from the last hidden states; None = the decoder's, of all.
    """

    needs = DrafterNeeds()

    def __init__(
        self,
        decoder: Decoder,
        vocab_size: int,
        load: Callable[[object], None] | None = None,
        head: SlicedHead | None = None,
    ) -> None:
        self.decoder = decoder
        self.head = head
        self.vocab_size = vocab_size
        self.max_length: int | None = decoder.max_length
        self.versions = Versions()
        self._load = load

    @property
    def copied_bytes(self) -> int:
        """Weights that it holds beside the model's."""
        return 0 if self.head is None else self.head.copied_bytes

    def admit(self, chunks: Sequence[Chunk]) -> None:
        fitting = [(chunk.slot, list(chunk.token_ids)) for chunk in chunks if self._continues(chunk)]
        if fitting:
            self._feed(fitting, want_logits=False)

    def step(self, rows: Sequence[DraftRow]) -> DraftStep:
        missing = [(row.slot, row.tokens_from(min(self.decoder.length(row.slot), row.length - 1))) for row in rows]
        for row in rows:
            self.decoder.crop(row.slot, row.length - 1)  # the last token is fed in any case: it gives the logits
        widths = [len(tokens) for _, tokens in missing]
        if self.head is None:
            logits = self._feed(missing, want_logits=True).logits
            assert logits is not None
            return DraftStep(logits=_fit(_last_of(widths, logits), self.vocab_size))
        tap = self.decoder.num_layers
        hidden = self._feed(missing, want_logits=False, taps=(tap,)).taps[tap]
        self.head.refresh()
        return DraftStep(logits=self.head(_last_of(widths, hidden)), ids=self.head.ids)

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

    def _feed(
        self, pieces: Sequence[tuple[int, list[int]]], *, want_logits: bool, taps: Sequence[int] = ()
    ) -> DecoderOutput:
        widths = [len(tokens) for _, tokens in pieces]
        padded = torch.tensor([[*tokens, *[0] * (max(widths) - len(tokens))] for _, tokens in pieces])
        if self.decoder.vocab_size < self.vocab_size:
            # the target may say padding ids that the draft has no row for; any token will do, only the guess suffers
            padded.masked_fill_(padded >= self.decoder.vocab_size, 0)
        slots = [slot for slot, _ in pieces]
        return self.decoder.forward(padded, widths, slots, want_logits=want_logits, taps=taps)


def _last_of(widths: Sequence[int], columns: torch.Tensor) -> torch.Tensor:  # [rows, width, any] -> [rows, any]
    """Each row's last column that is not padding."""
    if len(set(widths)) == 1:
        return columns[:, widths[0] - 1]
    last = torch.tensor(widths, device=columns.device) - 1
    return columns[torch.arange(len(widths), device=columns.device), last]


def _fit(logits: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Cuts or pads the columns [rows, draft vocab] to [rows, vocab_size] (models of one family pad differently)."""
    surplus = vocab_size - logits.shape[-1]
    if surplus == 0:
        return logits
    return torch.nn.functional.pad(logits, (0, surplus), value=-torch.inf)  # a negative pad cuts
