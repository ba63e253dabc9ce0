"""`generate`: the callable for transformers' `custom_generate=`.

Gets what transformers prepared, lets an LLM decode it row by row in one batch, and returns what transformers would.
Does not decode and does not write into the model or its configs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from evodraft.errors import ConfigError
from evodraft.integrations.transformers.output import ScoreTape, SpeculativeOutput, padded_sequences, taped_steps
from evodraft.integrations.transformers.refusals import (
    refuse_batch,
    refuse_config,
    refuse_foreign_model,
    refuse_gaps,
    refuse_inputs,
    refuse_view,
)
from evodraft.integrations.transformers.rows import PromptRow, RowCriterion, processor_of_row, prompt_rows
from evodraft.integrations.transformers.translation import Translated, translated
from evodraft.llm import LLM
from evodraft.llm_view import LLMView

if TYPE_CHECKING:
    from evodraft.jobs import Job
    from evodraft.llm_view import Streamer


@dataclass(frozen=True, slots=True)
class _Row:
    """A row on its way: its prompt, its job, and what it was seen to score."""

    prompt: PromptRow
    job: Job
    raw: ScoreTape
    processed: ScoreTape

    @property
    def output_ids(self) -> list[int]:
        """All committed tokens; unlike a completion's, an end token is one of them."""
        session = self.job.session
        return [] if session is None else session.token_ids[len(self.prompt.token_ids) :]


def generate(
    model: Any,
    input_ids: torch.Tensor,  # [batch * num_return_sequences, padded prompt]
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    speculation: LLM | LLMView[LLM] | None = None,
    **model_kwargs: Any,
) -> torch.Tensor | SpeculativeOutput:
    """Decodes speculatively what `model.generate(..., custom_generate=generate, speculation=llm)` asks for.

    Args:
        model: the model that `generate` was called on; `speculation` must have been built on it.
        input_ids: prompts as transformers prepared them, as are the following three.
        logits_processor: run at every position in order.
        stopping_criteria: asked after every token, each row on its own.
        generation_config: greedy decoding or sampling.
        speculation: an LLM, or `llm.with_options(streamer=..., stop=..., seed=..., speculative=...)`.
        **model_kwargs: attention mask and what else transformers prepared.

    Returns sequences [batch, prompt and longest output], or with `return_dict_in_generate=True` a SpeculativeOutput.
    Raises ConfigError for what cannot be done, and the errors of `LLM.generate`.

    >>> from evodraft import LLM
    >>> from evodraft.testing.tiny import tiny_model
    >>> model = tiny_model("llama", vocab_size=32)
    >>> llm = LLM.from_pretrained((model, None), drafter="ngram")
    >>> prompt = torch.tensor([[1, 2, 3, 1, 2]])
    >>> plain = model.generate(prompt, max_new_tokens=8)
    >>> torch.equal(model.generate(prompt, max_new_tokens=8, custom_generate=generate, speculation=llm), plain)
    True
    """
    view = _view(speculation)
    with _ending(view.streamer):
        refuse_foreign_model(view.llm, model)
        refuse_config(generation_config)
        refuse_view(view, len(input_ids))
        refuse_inputs(model_kwargs, input_ids)
        call = translated(
            generation_config,
            logits_processor,
            stopping_criteria,
            prompt_length=input_ids.shape[1],
            vocab_size=view.llm.engine.target.vocab_size,
        )
        refuse_batch(call, view, len(input_ids))
        prompts = prompt_rows(input_ids, model_kwargs.get("attention_mask"))
        refuse_gaps(model, model_kwargs.get("attention_mask"), input_ids.shape[1] + call.options["max_new_tokens"])
        rows = _submitted(view, call, prompts)
        _run(view, rows, input_ids)
        return _result(view.llm, call, rows, input_ids)


def _view(speculation: object) -> LLMView[LLM]:
    if isinstance(speculation, LLMView):
        return speculation
    if isinstance(speculation, LLM):
        return speculation.with_options()
    shown = "missing" if speculation is None else f"of type {type(speculation).__name__}"
    raise ConfigError(
        f"speculation= is {shown} and must be an LLM; build one with LLM.from_pretrained((model, tokenizer)) and call "
        "model.generate(..., custom_generate=generate, speculation=llm)"
    )


@contextmanager
def _ending(streamer: Streamer | None) -> Iterator[None]:
    """Ends the stream whatever happens: somebody may be waiting for it in another thread."""
    try:
        yield
    finally:
        if streamer is not None:
            streamer.end()


def _submitted(view: LLMView[LLM], call: Translated, prompts: Sequence[PromptRow]) -> list[_Row]:
    """Puts every row in line. Tapes make each law wait for the one before, so they run only where they are wanted."""
    rows: list[_Row] = []
    try:
        for prompt, seed in zip(prompts, _seeds(view, call, len(prompts)), strict=True):
            raw, processed = ScoreTape(), ScoreTape()
            options = {
                **call.options,
                **view.options,
                "seed": seed,
                "logits_processor": [
                    *([raw] if call.returns_logits else []),
                    *(processor_of_row(processor, prompt) for processor in call.processors),
                    *([processed] if call.returns_scores else []),
                ],
                "stopping_criteria": [RowCriterion(prompt, criterion) for criterion in call.criteria],
            }
            [job] = view.llm.submit(prompt_token_ids=[prompt.token_ids], **options)
            rows.append(_Row(prompt, job, raw, processed))
    except BaseException:
        view.llm.cancel([row.job for row in rows])
        raise
    return rows


def _seeds(view: LLMView[LLM], call: Translated, num_rows: int) -> Sequence[int | None]:
    """One per row: of the caller's seed, else of torch's global generator, which `torch.manual_seed` governs."""
    seed = view.options.get("seed")
    if seed is not None:  # the first row has the seed itself, so that LLM.generate with it says the same
        generator = torch.Generator().manual_seed(seed)
        return [seed, *torch.randint(2**63 - 1, (num_rows - 1,), generator=generator).tolist()]
    if not call.is_sampled:
        return [None] * num_rows
    drawn: list[int] = torch.randint(2**63 - 1, (num_rows,)).tolist()
    return drawn


def _run(view: LLMView[LLM], rows: Sequence[_Row], prompts: torch.Tensor) -> None:
    """Steps the engine until all rows are done; the streamer gets the prompt, then token by token, as transformers'."""
    num_put = 0
    try:
        _raise_first_error(rows)
        if view.streamer is not None:
            view.streamer.put(prompts.cpu())
        while not all(row.job.is_finished for row in rows):
            view.llm.engine.step()
            if view.streamer is not None:
                for token_id in rows[0].output_ids[num_put:]:
                    view.streamer.put(torch.tensor([token_id]))
                    num_put += 1
            _raise_first_error(rows)
    finally:
        view.llm.cancel([row.job for row in rows])


def _raise_first_error(rows: Sequence[_Row]) -> None:
    for row in rows:
        error = row.job.error or (row.job.session and row.job.session.error)
        if error:
            raise error


def _result(
    llm: LLM, call: Translated, rows: Sequence[_Row], prompts: torch.Tensor
) -> torch.Tensor | SpeculativeOutput:
    outputs = [row.output_ids for row in rows]
    sequences = padded_sequences(prompts, outputs, call.pad_token_id)
    if not call.returns_dict:
        return sequences
    starts, lengths = [len(row.prompt.token_ids) for row in rows], [len(output) for output in outputs]

    def steps(tapes: Sequence[ScoreTape]) -> tuple[torch.Tensor, ...]:
        return taped_steps(tapes, starts, lengths, call.pad_token_id, prompts.device)

    completions = llm.collect([row.job for row in rows])
    fields: dict[str, Any] = {
        "sequences": sequences,
        "scores": steps([row.processed for row in rows]) if call.returns_scores else None,
        "logits": steps([row.raw for row in rows]) if call.returns_logits else None,
        "speculation": tuple(completion.stats for completion in completions),
        "exact": all(completion.exact for completion in completions),
    }
    return SpeculativeOutput(**fields)
