"""evodraft: faster generation for Hugging Face causal language models, without changing what they say.

>>> from evodraft import LLM
>>> llm = LLM.from_pretrained("demo")
>>> len(llm.generate("def fib(n):", max_new_tokens=4, ignore_eos=True).token_ids)
4
"""

from typing import TYPE_CHECKING

from evodraft.errors import (
    CapacityError,
    ConfigError,
    EvodraftError,
    ModelError,
    ModelMismatchError,
    NumericsError,
    PromptError,
    RequestError,
    SamplingError,
    UnknownOptionError,
    UnsupportedModelError,
    UserCodeError,
    WeightsError,
)
from evodraft.params import SamplingParams
from evodraft.types import Completion, GenerationStats, Piece, TokenLogprob

if TYPE_CHECKING:
    from evodraft.async_llm import AsyncLLM
    from evodraft.llm import LLM
else:

    def __getattr__(name: str) -> object:
        """LLM and AsyncLLM are imported when they are first asked for: torch takes seconds, `evodraft --help` none."""
        if name not in ("LLM", "AsyncLLM"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from evodraft.async_llm import AsyncLLM
        from evodraft.llm import LLM

        globals().update(LLM=LLM, AsyncLLM=AsyncLLM)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "LLM",
    "AsyncLLM",
    "CapacityError",
    "Completion",
    "ConfigError",
    "EvodraftError",
    "GenerationStats",
    "ModelError",
    "ModelMismatchError",
    "NumericsError",
    "Piece",
    "PromptError",
    "RequestError",
    "SamplingError",
    "SamplingParams",
    "TokenLogprob",
    "UnknownOptionError",
    "UnsupportedModelError",
    "UserCodeError",
    "WeightsError",
]
