"""OpenVINO GenAI behind the worker's protocol: token ids through its continuous batching pipeline. Knows no benchmark.

Run as a script by the Python of the peer's environment. Folders of models are converted once, by a child process (so
that torch does not count into this one's memory), and kept in the environment under the hash of their files.
Precision of weights, of computing and of caches is one and the same; the caches' default would be float16.

With a draft, temperatures above 0 are refused: a rejected draft corrupts the text there, or ends in an error
(https://github.com/openvinotoolkit/openvino.genai/issues/4190).
"""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

_DISTRIBUTIONS: Final = ("openvino", "openvino-genai", "optimum-intel", "transformers", "torch")
_CONVERTED: Final = "models"  # folder in the environment


class Precision(NamedTuple):
    """One dtype, as optimum-intel and as OpenVINO's properties call it, and what a processor must offer for it."""

    weights: str
    hint: str
    capability: str


_PRECISIONS: Final[Mapping[str, Precision]] = {
    "float32": Precision("fp32", "f32", "FP32"),
    "bfloat16": Precision("bf16", "bf16", "BF16"),
}


class OpenVINORunner:
    """A loaded pipeline. `genai` is the package openvino_genai, `openvino` the package of that name."""

    def __init__(self, pipeline: Any, openvino: Any, genai: Any, request: Mapping[str, Any]) -> None:
        self.versions = {name: metadata.version(name) for name in _DISTRIBUTIONS}
        self.label = f"continuous batching; weights, computing and caches in {request['dtype']}"
        self._pipeline, self._openvino, self._genai = pipeline, openvino, genai
        self._has_draft = request["draft"] is not None
        self._knobs: Mapping[str, Any] = request["options"].get("generation", {})

    def generate(self, asks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Answers one batch; every ask has its own settings."""
        if self._has_draft and any(ask["temperature"] > 0 for ask in asks):
            raise ValueError(
                "OpenVINO GenAI drafts at temperature 0 alone here: above it a rejected draft corrupts the text "
                "or ends in an error (openvinotoolkit/openvino.genai issue 4190)"
            )
        configs = [self._genai.GenerationConfig(**generation_options(ask), **self._knobs) for ask in asks]
        started = time.perf_counter()
        prompts = [_prompt(self._openvino, ask["token_ids"]) for ask in asks]
        results = self._pipeline.generate(prompts, configs)
        token_ids = [list(result.m_generation_ids[0]) for result in results]
        request_s = time.perf_counter() - started
        first_s = results[0].perf_metrics.get_ttft().mean / 1000  # all prompts are read in the first pass
        counts = self._counts(asks[0], results[0]) if len(asks) == 1 else {}  # of a batch only sums are told
        return {
            "request_s": request_s,
            "decode_s": _shared("decode_seconds")(request_s, first_s, len(asks), sum(map(len, token_ids))),
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

    def _counts(self, ask: Mapping[str, Any], result: Any) -> dict[str, Any]:
        sizes = list(result.perf_metrics.raw_metrics.m_batch_sizes)
        if not self._knobs:
            return {"num_draft_tokens": 0, "num_accepted_tokens": 0, "num_target_passes": len(sizes), "num_rounds": 0}
        if not self._has_draft:  # prompt lookup does not tell how many tokens it guessed
            return {"num_accepted_tokens": sum(sizes) - len(sizes), "num_target_passes": len(sizes)}
        num_counted = result.extended_perf_metrics.get_num_draft_tokens()
        return drafted_counts(sizes, num_counted, ask["max_new_tokens"], self._knobs["num_assistant_tokens"])


def load(request: Mapping[str, Any]) -> OpenVINORunner:
    """Converts what has not been converted yet, and loads it."""
    openvino, genai = importlib.import_module("openvino"), importlib.import_module("openvino_genai")
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision = checked_precision(request["dtype"], capabilities)
    properties = device_properties(precision, request["threads"])
    target = converted(Path(request["target"]), precision)
    extras = dict(request["options"].get("pipeline", {}))
    if request["draft"] is not None:
        draft = converted(Path(request["draft"]), precision)
        extras["draft_model"] = genai.draft_model(str(draft), "CPU", **properties)
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    scheduler.max_num_batched_tokens = request["max_model_len"] * request["max_batch"]  # all prompts in the first pass
    pipeline = genai.ContinuousBatchingPipeline(str(target), scheduler, "CPU", {**properties, **extras})
    return OpenVINORunner(pipeline, openvino, genai, request)


def checked_precision(dtype: str, capabilities: Sequence[str]) -> Precision:
    """What `dtype` is called; ValueError where this processor would compute in another one without saying so.

    >>> checked_precision("float32", ["FP32"]).hint
    'f32'
    """
    precision = _PRECISIONS.get(dtype)
    if precision is None:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(_PRECISIONS)}")
    if precision.capability not in capabilities:
        raise ValueError(f"OpenVINO does not compute in {dtype} on this processor; use float32")
    return precision


def device_properties(precision: Precision, threads: int) -> dict[str, Any]:
    """Properties of a model on the CPU."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision.hint,
        "KV_CACHE_PRECISION": precision.hint,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }


def generation_options(ask: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of GenerationConfig for one ask. Nothing is cut off the law: top_k and top_p are off by default.

    An eos_token_id that is not set would be read from the model's folder, so the first stop token takes its place.
    """
    options: dict[str, Any] = {
        "max_new_tokens": ask["max_new_tokens"],
        "repetition_penalty": ask["repetition_penalty"],
        "do_sample": ask["temperature"] > 0,
    }
    if ask["temperature"] > 0:
        options |= {"temperature": ask["temperature"], "rng_seed": ask["seed"]}
    stops = ask["stop_token_ids"]
    if not stops:
        return options | {"ignore_eos": True}
    return options | {"eos_token_id": stops[0], "stop_token_ids": set(stops)}


def drafted_counts(sizes: Sequence[int], num_counted: int, max_new_tokens: int, width: int) -> dict[str, Any]:
    """Counts of one answer with a draft model, from the tokens that every pass decided.

    The first pass reads the prompt and carries no draft; nor does a pass for the last token. The pipeline's own count
    of proposed tokens leaves out the last round, so that one's are added, as if its draft had not been cut short.

    >>> drafted_counts([1, 3, 6, 3], num_counted=10, max_new_tokens=13, width=5)["num_draft_tokens"]
    12
    """
    committed, drafted = 0, []
    for size in sizes:
        drafted.append(min(width, max_new_tokens - committed - 1) if committed else 0)
        committed += size
    accepted = [size - 1 for size in sizes]
    return {
        "num_draft_tokens": num_counted + drafted[-1],
        "num_accepted_tokens": sum(accepted),
        "num_target_passes": len(sizes),
        "num_rounds": sum(number > 0 for number in drafted),
        "accepted_per_position": [sum(number > i for number in accepted) for i in range(max(accepted))],
    }


def converted(folder: Path, precision: Precision) -> Path:
    """The folder's model in OpenVINO's format, converted now if no earlier run has done it."""
    place = Path(sys.prefix) / _CONVERTED / f"{_digest(folder)}-{precision.weights}"
    if not place.is_dir():
        place.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as unfinished:
            output = Path(unfinished) / "model"
            command = [sys.executable, __file__, str(folder), str(output), precision.weights]
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode
            if code != 0:
                raise RuntimeError(
                    f"optimum-intel could not convert {folder} (exit code {code}); its own words are above"
                )
            output.rename(place)
    return place


def convert(folder: str, output: str, weights: str) -> None:
    """Writes the model and its tokenizer, which the pipeline wants beside a draft, in OpenVINO's format."""
    export = importlib.import_module("optimum.exporters.openvino").main_export
    config = importlib.import_module("optimum.intel").OVConfig(dtype=weights)
    export(
        folder,
        output,
        task="text-generation-with-past",
        library_name="transformers",
        convert_tokenizer=True,
        ov_config=config,
    )


def _prompt(openvino: Any, token_ids: Sequence[int]) -> Any:
    """int64 [1, prompt]."""
    return openvino.Tensor(importlib.import_module("numpy").array([token_ids], dtype="int64"))


def _digest(folder: Path) -> str:
    """Of all files of a model: names and contents."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _shared(name: str) -> Any:
    return getattr(importlib.import_module("worker"), name)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        convert(*sys.argv[1:])
    else:
        _shared("serve")(load)
