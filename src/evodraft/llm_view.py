"""LLMView: an LLM together with options that hold for every call through it.

Owns nothing: engine, caches and everything learned are the LLM's. Does not know what the options do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from evodraft.errors import ConfigError
from evodraft.params import SamplingParams

CALL_OPTIONS = ("speculative", "logits_processor", "stopping_criteria")  # of generate, beside the sampling options


class Streamer(Protocol):
    """A streamer as in transformers: TextStreamer, TextIteratorStreamer or one of the caller's own."""

    def put(self, value: Any) -> None: ...

    def end(self) -> None: ...


class GeneratesText(Protocol):
    """What a view needs of an LLM."""

    def generate(self, *args: Any, **options: Any) -> Any: ...

    def stream(self, *args: Any, **options: Any) -> Any: ...

    def chat(self, *args: Any, **options: Any) -> Any: ...


AnyLLM = TypeVar("AnyLLM", bound=GeneratesText)


@dataclass(frozen=True, slots=True)
class LLMView(Generic[AnyLLM]):
    """What `LLM.with_options` returns.

    `generate`, `stream` and `chat` are those of the LLM with `options` filled in; an option that a call names itself
    holds over the view's, and the view's over a SamplingParams object. A view with a streamer is for transformers'
    `model.generate(custom_generate=evodraft.integrations.transformers.generate, speculation=view)` alone.

    >>> from evodraft import LLM
    >>> careful = LLM.from_pretrained("demo").with_options(max_new_tokens=4, ignore_eos=True)
    >>> len(careful.generate("The heart pumps").token_ids)
    4
    """

    llm: AnyLLM
    options: Mapping[str, Any]
    streamer: Streamer | None = None

    @classmethod
    def of(cls, llm: AnyLLM, options: Mapping[str, Any], streamer: Streamer | None) -> LLMView[AnyLLM]:
        """Checks names and ranges now, not at the first call. Raises SamplingError or ConfigError."""
        SamplingParams.from_options({name: options[name] for name in options if name not in CALL_OPTIONS})
        lacking = [name for name in ("put", "end") if not callable(getattr(streamer, name, None))]
        if streamer is not None and lacking:
            raise ConfigError(
                f"streamer={streamer!r} has no method {' and no '.join(lacking)}; pass a TextStreamer of transformers "
                "or an object like it"
            )
        return cls(llm, dict(options), streamer)

    def generate(self, *args: Any, **options: Any) -> Any:
        """`LLM.generate` with the options of this view."""
        return self._unstreamed().generate(*args, **{**self.options, **options})

    def stream(self, *args: Any, **options: Any) -> Any:
        """`LLM.stream` with the options of this view."""
        return self._unstreamed().stream(*args, **{**self.options, **options})

    def chat(self, *args: Any, **options: Any) -> Any:
        """`LLM.chat` with the options of this view."""
        return self._unstreamed().chat(*args, **{**self.options, **options})

    def _unstreamed(self) -> AnyLLM:
        if self.streamer is not None:
            raise ConfigError(
                f"the streamer {type(self.streamer).__name__} is fed by transformers' model.generate only; "
                "iterate over stream(...) of an LLM without one"
            )
        return self.llm
