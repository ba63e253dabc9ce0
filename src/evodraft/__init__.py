"""evodraft: faster generation for Hugging Face causal language models, without changing what they say.

>>> from evodraft import LLM
>>> llm = LLM.from_pretrained("demo")
>>> len(llm.generate("def fib(n):", max_new_tokens=4, ignore_eos=True).token_ids)
4
"""

from evodraft.async_llm import AsyncLLM
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
from evodraft.llm import LLM
from evodraft.params import SamplingParams
from evodraft.types import Completion, GenerationStats, Piece, TokenLogprob

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
