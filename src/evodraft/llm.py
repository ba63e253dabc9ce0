"""LLM: text in, text out, around one engine. No decoding logic lives here.

    >>> from evodraft import LLM
    >>> llm = LLM.from_pretrained("demo")
    >>> len(llm.generate("The heart pumps", max_new_tokens=8, ignore_eos=True).token_ids)
    8

A single faulty prompt raises its error. In a list, the faulty ones come back as completions with `.error` set and the
others are not affected. Not thread-safe: one thread drives an LLM.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from evodraft.assemble import LoadOptions, PartSpecs, build_engine, load_target
from evodraft.config import EngineConfig
from evodraft.errors import ConfigError, EvodraftError, PromptError, SamplingError
from evodraft.jobs import Job, callables, stop_check
from evodraft.llm_view import CALL_OPTIONS, LLMView, Streamer
from evodraft.params import SamplingParams
from evodraft.runtime.choose import RuntimeReport, report_of
from evodraft.spellings import check_options, refuse_missing_parts, translate
from evodraft.text import TextBuffer, checked_ids, encoded, encoded_chat, kind_of
from evodraft.types import Completion, LogitsProcessor, Piece, Request, StopCheck

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from evodraft.engine import Engine
    from evodraft.metrics import Metrics


class LLM:
    """Generates text with a target model, faster by drafting, without changing what it says.

    Build one with `LLM.from_pretrained`. Also a context manager: leaving it closes the engine.

    Args:
        engine: what decodes.
        tokenizer: encodes prompts and decodes outputs; None = token ids only.
        eos_token_ids: ids that end an output.
        seed: where the seeds of requests without one come from; None = fresh.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase | None,
        eos_token_ids: Iterable[int] = (),
        seed: int | None = None,
    ) -> None:
        self._engine: Engine | None = engine
        self.tokenizer = tokenizer
        self.eos_token_ids = frozenset(eos_token_ids)
        self._seeds = random.Random(seed)
        self._num_requests = 0

    @classmethod
    def from_pretrained(
        cls,
        target: object,
        *,
        drafter: object = "auto",
        controller: object = "auto",
        verifier: object = "auto",
        vocabulary: object = None,
        learners: Sequence[Any] = (),
        preset: str | None = None,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        runtime: str = "auto",
        numerics: str = "auto",
        max_batch: int = 8,
        max_model_len: int | None = None,
        kv_cache_gib: float | None = None,
        gpu_memory_utilization: float = 0.9,
        prefill_budget: int = 512,
        learner_budget_ms: float = 20.0,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device_map: str | Mapping[str, Any] | None = None,
        seed: int | None = None,
        speculative_config: Mapping[str, object] | None = None,
        **options: object,
    ) -> LLM:
        """Loads a target and connects the parts.

        Args:
            target: "demo", a local path, a hub id, or (model, tokenizer).
            drafter: a name of `evodraft.drafters.DRAFTERS` ("model:PATH" carries an argument), a config dataclass, an
                object with the Drafter protocol, or None for plain decoding.
            controller: likewise, of `evodraft.controllers.CONTROLLERS`; "fixed:5" drafts five tokens a round.
            verifier: likewise, of `evodraft.verifiers.VERIFIERS`.
            vocabulary: which token ids are drafted: None = all; "static" or "static:FILE" = those of a token map.
            learners: objects with the Learner protocol.
            preset: a published system in one word.
            device: "auto", "cpu", "cuda", ...
            dtype: "auto" (the checkpoint's), "float32", "bfloat16", "float16" or a torch dtype.
            runtime: of target and draft: "auto", a name of `evodraft.runtime.choose.RUNTIMES` ("native", ...), or
                "transformers" for the model's own modules.
            numerics: "invariant" (the same bits at any width of a pass and in any company, or an error), "fast" (not
                tried), or "auto" (invariant where a test at start finds it so).
            max_batch: sequences decoded at once; more wait in line.
            max_model_len: tokens per sequence; None = what the model and the memory allow.
            kv_cache_gib: memory for the caches of target and draft together.
            gpu_memory_utilization: share of a GPU that may be filled.
            prefill_budget: prompt tokens fed per step, so that running streams do not stall.
            learner_budget_ms: time for learners between two rounds.
            revision: of a hub model.
            trust_remote_code: run code that comes with a hub model.
            device_map: passed to transformers.
            seed: makes the seeds of requests that name none reproducible.
            speculative_config: vLLM's spelling of drafter and controller.
            **options: transformers' spellings: assistant_model, num_assistant_tokens, prompt_lookup_num_tokens, ...

        Raises ConfigError, ModelError or CapacityError with value, limit and remedy.

        >>> LLM.from_pretrained("demo", drafter="ngram", controller="fixed:4").generate("1 2 3 1 2", max_new_tokens=2)
        ... # doctest: +ELLIPSIS
        Completion(...)
        """
        refuse_missing_parts(preset, learners)
        check_options(options, inspect.signature(cls.from_pretrained).parameters)
        drafter, controller = translate(drafter, controller, speculative_config, options)
        parts = PartSpecs(drafter, controller, verifier, learners, vocabulary)
        load = LoadOptions(device, dtype, runtime, numerics, revision, trust_remote_code, device_map)
        config = EngineConfig(
            max_batch, max_model_len, kv_cache_gib, gpu_memory_utilization, prefill_budget, learner_budget_ms
        )
        loaded = load_target(target, load)
        engine = build_engine(loaded, parts, load, config)
        return cls(engine, loaded.tokenizer, loaded.eos_token_ids, seed)

    # --- generating -----------------------------------------------------------------------------------------------

    @overload
    def generate(self, prompt: str, params: SamplingParams | None = None, **options: Any) -> Completion: ...
    @overload
    def generate(
        self, prompt: Sequence[str] | None = None, params: SamplingParams | None = None, **options: Any
    ) -> list[Completion]: ...
    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        params: SamplingParams | None = None,
        *,
        prompt_token_ids: Sequence[Sequence[int]] | None = None,
        speculative: bool = True,
        logits_processor: Sequence[LogitsProcessor] = (),
        stopping_criteria: Sequence[Any] = (),
        **options: Any,
    ) -> Completion | list[Completion]:
        """Completes one prompt, or several in a batch.

        Args:
            prompt: text, or a list of texts (then a list comes back).
            params: sampling and stopping options; `**options` overrides its fields by name.
            prompt_token_ids: lists of token ids instead of text (a list comes back).
            speculative: False decodes plainly in the same runtime.
            logits_processor: called as transformers' (input_ids [1, n], scores [1, vocab]) at every position in order.
            stopping_criteria: called as transformers' (input_ids [1, n], scores=None) after every committed token.
                Like processors they are called for every prompt of a list: those with state serve one prompt only.

        Returns a Completion per prompt; with `n` > 1 its `samples` hold all n. Raises SamplingError for a wrong option
        and PromptError for what is neither text nor token ids; other faults only for a single prompt (see the
        module's docstring).
        """
        jobs = self.submit(
            prompt,
            params,
            prompt_token_ids=prompt_token_ids,
            speculative=speculative,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            **options,
        )
        self._run(jobs)
        completions = self.collect(jobs)
        return completions[0].raise_for_error() if isinstance(prompt, str) else completions

    def stream(
        self,
        prompt: str | None = None,
        params: SamplingParams | None = None,
        *,
        prompt_token_ids: Sequence[int] | None = None,
        **options: Any,
    ) -> Iterator[Piece]:
        """Completes one prompt, yielding what each round adds; the last piece carries the Completion.

        Options are those of `generate`; `prompt_token_ids` is one list of ids. Text that could become a stop string is
        held back until that is settled. Closing the iterator cancels.
        """
        job = self.submit_one(prompt, params, prompt_token_ids=prompt_token_ids, **options)
        pieces = self._pieces(job)
        next(pieces)  # enters its `try`: from here on, closing or dropping it cancels the request
        return pieces

    def chat(
        self, messages: Sequence[Mapping[str, str]], params: SamplingParams | None = None, **options: Any
    ) -> Completion:
        """Answers a conversation `[{"role": "user", "content": ...}, ...]` through the tokenizer's chat template."""
        answers: list[Completion] = self.generate(
            prompt_token_ids=[self.chat_token_ids(messages)], params=params, **options
        )
        return answers[0].raise_for_error()

    def chat_token_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The prompt that the tokenizer's chat template makes of a conversation."""
        tokenizer = self._needed_tokenizer("chat needs a tokenizer with a chat template")
        return encoded_chat(tokenizer, messages)

    def with_options(self, *, streamer: Streamer | None = None, **options: Any) -> LLMView[LLM]:
        """This LLM with options of `generate` filled in, and a streamer for transformers' `model.generate`."""
        return LLMView.of(self, options, streamer)

    # --- the engine -----------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The engine; raises ConfigError after `close`."""
        if self._engine is None:
            raise ConfigError("this LLM is closed; build a new one with LLM.from_pretrained")
        return self._engine

    @property
    def runtime(self) -> RuntimeReport | None:
        """What decodes the target, why, and with which numerics; None for a decoder that was not chosen."""
        return report_of(self.engine.target.decoder)

    @property
    def metrics(self) -> Metrics:
        """Counters since the engine was built."""
        return self.engine.metrics

    def close(self) -> None:
        """Drops models and caches. Closing twice is fine."""
        self._engine = None

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- for those who drive the engine themselves ----------------------------------------------------------------

    def submit(
        self,
        prompt: str | Sequence[str] | None = None,
        params: SamplingParams | None = None,
        *,
        prompt_token_ids: Sequence[Sequence[int]] | None = None,
        speculative: bool = True,
        logits_processor: Sequence[LogitsProcessor] = (),
        stopping_criteria: Sequence[Any] = (),
        **options: Any,
    ) -> list[Job]:
        """Puts every sample of every prompt in line; `engine.step()` moves them on. Arguments as in `generate`.

        Raises for wrong options; a faulty prompt keeps its error in its job.
        """
        params = _merged(params, options)
        jobs: list[Job] = []
        try:
            for ids in self._prompts(prompt, prompt_token_ids):
                for sample in range(params.n):
                    jobs.append(self._job(ids, params, sample, speculative, logits_processor, stopping_criteria))
        except BaseException:
            self.cancel(jobs)
            raise
        return jobs

    def submit_one(
        self,
        prompt: str | None = None,
        params: SamplingParams | None = None,
        *,
        prompt_token_ids: Sequence[int] | None = None,
        **options: Any,
    ) -> Job:
        """Puts one prompt in line for streaming; raises its error at once."""
        params = _merged(params, {name: options.pop(name) for name in list(options) if name not in CALL_OPTIONS})
        if prompt is not None and not isinstance(prompt, str):
            raise PromptError(
                f"{kind_of(prompt)} is not one prompt; a stream completes one string, call it once for each"
            )
        if params.n != 1:
            raise SamplingError(f"n={params.n} samples cannot be streamed as one; call stream once per sample")
        ids = None if prompt_token_ids is None else [prompt_token_ids]
        [job] = self.submit(prompt, params, prompt_token_ids=ids, **options)
        if job.error is not None:
            raise job.error
        return job

    def collect(self, jobs: Sequence[Job]) -> list[Completion]:
        """Completions of finished jobs from `submit`, one per prompt."""
        completions = [job.completion(exact=self.engine.verifier.exact) for job in jobs]
        size = jobs[0].request.params.n if jobs else 1
        return [_with_samples(completions[start : start + size]) for start in range(0, len(completions), size)]

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ends what is not finished; what was committed stays."""
        if self._engine is not None:
            self._engine.cancel(*(job.session for job in jobs if job.session is not None))

    def _prompts(
        self, prompt: str | Sequence[str] | None, prompt_token_ids: Sequence[Sequence[int]] | None
    ) -> list[list[int]]:
        if (prompt is None) == (prompt_token_ids is None):
            raise PromptError("give either a prompt or prompt_token_ids, and not both")
        if prompt_token_ids is not None:
            return [checked_ids(ids) for ids in _listed(prompt_token_ids)]
        tokenizer = self._needed_tokenizer("a text prompt needs a tokenizer")
        return [encoded(tokenizer, text) for text in _listed(prompt)]

    def _needed_tokenizer(self, why: str) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise ConfigError(f"{why}; build the LLM with (model, tokenizer), or pass prompt_token_ids")
        return self.tokenizer

    def _job(
        self,
        token_ids: list[int],
        params: SamplingParams,
        sample: int,
        speculative: bool,
        processors: Sequence[LogitsProcessor],
        criteria: Sequence[Any],
    ) -> Job:
        """Puts one sample in line; a refused one keeps its error."""
        if params.stop:
            self._needed_tokenizer("stop strings need a tokenizer")
        buffer = TextBuffer(self.tokenizer, token_ids, params.stop) if self.tokenizer is not None else None
        checks: list[StopCheck] = [] if buffer is None else [buffer]
        checks += [stop_check(criterion) for criterion in callables("stopping_criteria", criteria)]
        eos = frozenset() if params.ignore_eos else self.eos_token_ids
        self._num_requests += 1
        request = Request(
            request_id=f"request-{self._num_requests}",
            token_ids=tuple(token_ids),
            params=params,
            seed=self._seeds.getrandbits(63) if params.seed is None else params.seed,
            sample_index=sample,
            speculative=speculative,
            is_seed_chosen=params.seed is not None,
            stop_token_ids=eos | frozenset(params.stop_token_ids),
            stop_checks=tuple(checks),
            logits_processors=callables("logits_processor", processors),
        )
        job = Job(request, buffer)
        try:
            job.session = self.engine.submit(request)
        except EvodraftError as error:
            job.error = error
        return job

    def _run(self, jobs: Sequence[Job]) -> None:
        try:
            while not all(job.is_finished for job in jobs):
                self.engine.step()
        finally:
            self.cancel(jobs)

    def _pieces(self, job: Job) -> Iterator[Piece]:
        """An empty piece at once, then what the rounds add."""
        session = job.session
        assert session is not None
        try:
            yield Piece("", ())
            while not session.is_finished:
                self.engine.step()
                piece = None if session.is_finished else job.next_piece()
                if piece is not None:
                    yield piece
        finally:
            self.cancel([job])
        yield job.last_piece(job.completion(exact=self.engine.verifier.exact).raise_for_error())


def _merged(params: SamplingParams | None, options: Mapping[str, Any]) -> SamplingParams:
    if params is not None and not isinstance(params, SamplingParams):
        given = f"{kind_of(params)} of {type(params).__module__}"
        raise SamplingError(f"{given} is not evodraft.SamplingParams; make one of it, or pass its fields by name")
    return SamplingParams.from_options(options, params)


def _listed(given: object) -> list[Any]:
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]


def _with_samples(samples: list[Completion]) -> Completion:
    return samples[0] if len(samples) == 1 else replace(samples[0], samples=tuple(samples))
