"""evodraft: faster generation for Hugging Face causal language models, without changing what they say.

>>> from evodraft import LLM
>>> llm = LLM.from_pretrained("demo")
>>> llm.generate("def fib(n):", max_new_tokens=4).finish_reason
'length'
"""

from evodraft.errors import EvodraftError
from evodraft.llm import LLM
from evodraft.params import SamplingParams
from evodraft.types import Completion, GenerationStats, Piece

__all__ = ["LLM", "Completion", "EvodraftError", "GenerationStats", "Piece", "SamplingParams"]
