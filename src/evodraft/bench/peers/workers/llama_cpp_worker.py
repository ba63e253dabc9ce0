"""llama-server behind the worker's protocol: token ids over HTTP on this machine. Knows no benchmark.

Run as a script by the Python of the peer's environment. Times and counts are the server's own, so what HTTP and JSON
cost is not held against it. Every prompt is read anew: nothing is kept between requests.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from evodraft.bench.peers.workers.llama_cpp_server import Counters, Server

_BATCH_TOKENS: Final = 2048  # of a prompt, read in one pass
# llama.cpp's default is f16; its attention has fast ways over f32 and f16 only
_CACHE_TYPES: Final = {"float32": "f32", "bfloat16": "f16", "float16": "f16"}
_FIXED_FLAGS: Final[Mapping[str, object]] = {
    "--batch-size": _BATCH_TOKENS,
    "--cache-ram": 0,  # no prompt is kept for later ...
    "--ctx-checkpoints": 0,
    "--slot-prompt-similarity": 0,  # ... nor looked for
    "--fit": "off",  # options are taken as given
    "--log-verbosity": 2,  # warnings
}
_SWITCHES: Final = ("--metrics", "--no-ui")
_NUM_SEEDS: Final = 2**32 - 1  # the last one means "choose one"


class LlamaCppRunner:
    """A loaded server."""

    def __init__(self, server: Server, request: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        self.versions = versions
        dtype = request["dtype"]
        self.label = (
            f"built for this processor; key-value cache in {_CACHE_TYPES[dtype]}; "
            f"flash attention {_flash_attention(dtype)}; times of the server, without HTTP"
        )
        self._server = server
        self._is_speculative = "--spec-type" in request["options"]
        self._max_model_len = request["max_model_len"]
        self._eos_token_ids = frozenset(request["eos_token_ids"])

    def reset(self) -> None:
        """Nothing outlives a request."""

    def generate(self, asks: list[dict[str, Any]]) -> dict[str, Any]:
        """Answers one batch, its prompts at the same time; speculative modes know batches of one."""
        before = self._server.counters() if self._is_speculative else None
        with ThreadPoolExecutor(len(asks)) as threads:
            replies = list(threads.map(self._reply, asks))
        answers = [answer(ask, reply) for ask, reply in zip(asks, replies, strict=True)]
        if self._is_speculative and answers[0]["error"] is None:
            answers[0] |= speculative_counts(before, self._server.counters(), replies[0]["timings"])
        timings = [reply["timings"] for reply in replies if "timings" in reply]
        decode_s = [decode_seconds(timing) for timing in timings]
        return {
            "request_s": max((timing["prompt_ms"] + timing["predicted_ms"] for timing in timings), default=0.0) / 1000,
            "decode_s": max((seconds for seconds in decode_s if seconds is not None), default=None),
            "answers": answers,
        }

    def resident_bytes(self) -> int:
        """Peak memory of the server."""
        return self._server.resident_bytes()

    def close(self) -> None:
        """Ends the server."""
        self._server.close()

    def _reply(self, ask: Mapping[str, Any]) -> dict[str, Any]:
        refusal = self._refusal(ask)
        if refusal is not None:
            return {"error": {"message": refusal}}
        _, body = self._server.request("/completion", completion_request(ask, self._max_model_len))
        reply: dict[str, Any] = json.loads(body)
        return reply

    def _refusal(self, ask: Mapping[str, Any]) -> str | None:
        num_prompt, num_new = len(ask["token_ids"]), ask["max_new_tokens"]
        if not num_prompt or num_prompt + num_new > self._max_model_len:
            return (
                f"a prompt of {num_prompt} tokens and {num_new} new ones: 1 to {self._max_model_len} together fit; "
                "raise max_model_len"
            )
        if set(ask["stop_token_ids"]) != self._eos_token_ids:
            return (
                f"llama-server stops at the ids it was loaded with, {sorted(self._eos_token_ids)}, "
                f"not at {sorted(ask['stop_token_ids'])}"
            )
        return None


def load(request: Mapping[str, Any]) -> LlamaCppRunner:
    """Converts what the request names, if that was not done before, and starts the server.

    Raises ValueError for models that the conversion does not cover and drafts that the server does not use,
    RuntimeError if the server ends while it loads.
    """
    conversion, processes = map(importlib.import_module, ("gguf_conversion", "llama_cpp_server"))
    if request["dtype"] not in _CACHE_TYPES:
        raise ValueError(f"dtype {request['dtype']!r} is not one of {', '.join(_CACHE_TYPES)}")
    environment = Path(sys.prefix)
    program = environment / "bin" / "llama-server"
    if not program.is_file():
        raise FileNotFoundError(f"no {program}; install the peer again")
    files = [
        conversion.converted(Path(folder), request["dtype"], request["eos_token_ids"], environment / "gguf")
        for folder in (request["target"], request["draft"])
        if folder is not None
    ]
    versions = {"llama.cpp": processes.version_of(program), "gguf": importlib.metadata.version("gguf")}
    server = processes.Server(program, server_arguments(request, files))
    if "--spec-type" in request["options"] and not server.speculates():
        server.close()
        raise ValueError("llama-server does not speculate with this draft; the target and it need the same vocabulary")
    return LlamaCppRunner(server, request, versions)


def server_arguments(request: Mapping[str, Any], files: Sequence[Path]) -> list[str]:
    """Options of llama-server; `files` are the target and, if there is one, the draft."""
    cache_type = _CACHE_TYPES[request["dtype"]]
    flags: dict[str, object] = {
        "--model": files[0],
        "--threads": request["threads"],
        "--threads-batch": request["threads"],
        "--parallel": request["max_batch"],
        "--ctx-size": request["max_model_len"] * request["max_batch"],  # shared out evenly
        "--cache-type-k": cache_type,
        "--cache-type-v": cache_type,
        "--flash-attn": _flash_attention(request["dtype"]),
        **_FIXED_FLAGS,
        **request["options"],
    }
    if len(files) > 1:
        flags |= {
            "--spec-draft-model": files[1],
            "--spec-draft-type-k": cache_type,
            "--spec-draft-type-v": cache_type,
        }
    return [*(str(part) for flag in flags.items() for part in flag), *_SWITCHES]


def completion_request(ask: Mapping[str, Any], max_model_len: int) -> dict[str, Any]:
    """What /completion is asked. Only the penalty and the temperature act on the logits, in transformers' order."""
    return {
        "prompt": ask["token_ids"],
        "n_predict": ask["max_new_tokens"],
        "samplers": ["penalties", "temperature"],
        "temperature": ask["temperature"],
        "repeat_penalty": ask["repetition_penalty"],
        "repeat_last_n": max_model_len,  # prompt and output, as in transformers; this version knows no -1 for "all"
        "seed": ask["seed"] % _NUM_SEEDS,
        "cache_prompt": False,
        "return_tokens": True,
    }


def answer(ask: Mapping[str, Any], reply: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as the protocol wants it, with the counts of plain decoding; `tokens` hold the end token as well."""
    if "error" in reply:
        return {"token_ids": [], "error": reply["error"]["message"]}
    token_ids = reply["tokens"]
    if reply["stop_type"] != "eos" and len(token_ids) < ask["max_new_tokens"]:
        return {"token_ids": [], "error": f"llama-server stopped after {len(token_ids)} tokens: {reply['stop_type']}"}
    return {
        "token_ids": token_ids,
        "error": None,
        "num_draft_tokens": 0,
        "num_accepted_tokens": 0,
        "num_target_passes": len(token_ids),
        "num_rounds": 0,
        "accepted_per_position": [],
    }


def speculative_counts(
    before: Counters | None, after: Counters | None, timings: Mapping[str, Any]
) -> dict[str, int | list[int] | None]:
    """The counts of the one answer that was made between `before` and `after`, as far as they are known."""
    counts: dict[str, int | list[int] | None] = {
        "num_draft_tokens": timings.get("draft_n", 0),
        "num_accepted_tokens": timings.get("draft_n_accepted", 0),
        "num_target_passes": None,
        "num_rounds": None,
    }
    if before is not None and after is not None:
        told = after.since(before)
        num_passes_without_token = math.ceil(timings["prompt_n"] / _BATCH_TOKENS) - 1  # of a long prompt
        counts |= {
            "num_target_passes": told.num_decodes - num_passes_without_token,
            "num_rounds": told.num_drafts,
            "accepted_per_position": [number for number in told.accepted_per_position if number],
        }
    return counts


def decode_seconds(timings: Mapping[str, Any]) -> float | None:
    """Seconds of decoding all tokens, the reading of the prompt excluded; None if there is only one.

    The pass that reads the prompt decides the first token, so the server's time covers the others. It is scaled to all.

    >>> decode_seconds({"predicted_n": 5, "predicted_ms": 400.0})
    0.5
    """
    num_tokens: int = timings["predicted_n"]
    if num_tokens < 2:
        return None
    return float(timings["predicted_ms"]) / 1000 * num_tokens / (num_tokens - 1)


def _flash_attention(dtype: str) -> str:
    """Its float32 products are off by thousandths, enough to change greedy outputs; without it they are equal."""
    return "off" if dtype == "float32" else "auto"


if __name__ == "__main__":
    importlib.import_module("worker").serve(load)
