"""What every peer's worker shares: one JSON object a line in, one out. Standard library only.

A worker runs under the Python of the peer's own environment, where evodraft is not installed, as
`python NAME_worker.py`. It knows no benchmark: it loads models and answers batches of token ids.

    <- {"op": "load", "target": FOLDER, "draft": FOLDER or null, "mode": "...", "dtype": "bfloat16", "threads": 2,
        "eos_token_ids": [0], "max_model_len": 2048, "max_batch": 1, "options": {}}
    -> {"versions": {"transformers": "5.23.0"}, "label": ""}
    <- {"op": "generate", "asks": [{"token_ids": [1, 2], "max_new_tokens": 8, "temperature": 0.7,
        "repetition_penalty": 1.0, "seed": 7, "stop_token_ids": [0]}]}
    -> {"request_s": 0.5, "decode_s": 0.4 or null, "answers": [{"token_ids": [3, 0], "error": null,
        "num_draft_tokens": 5 or null, "num_accepted_tokens": 3 or null, "num_target_passes": 2 or null,
        "num_rounds": 2 or null, "accepted_per_position": [2, 1]}]}
    <- {"op": "reset"}      -> {}
    <- {"op": "memory"}     -> {"resident_bytes": 123}
    <- {"op": "close"}      -> {} and the process ends

An answer's ids include the stop token that ended it. Counts that a peer does not tell are null or left out; passes are
those that decided tokens, the one that also read the prompt included, so that plain decoding has as many as tokens;
rounds are passes that carried a draft. Any reply may be {"error": "one line"} instead.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO


class Runner(Protocol):
    """A loaded peer."""

    versions: Mapping[str, str]
    label: str  # what a reader must know, e.g. "third-party build"

    def generate(self, asks: list[dict[str, Any]]) -> dict[str, Any]:
        """Answers one batch; the reply as in the module's docstring. Takes its own time, with `time.perf_counter`."""
        ...

    def reset(self) -> None:
        """Forgets what was learnt or cached from earlier prompts."""
        ...

    def resident_bytes(self) -> int:
        """Peak memory of the peer's processes."""
        ...

    def close(self) -> None:
        """Ends what it started."""
        ...


def serve(load: Callable[[dict[str, Any]], Runner]) -> None:
    """Answers requests on standard input until "close" or its end. What libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        runner: Runner | None = None
        for line in sys.stdin:
            request = json.loads(line)
            operation = request["op"]
            try:
                if operation == "load":
                    runner = load(request)
                    _reply(replies, {"versions": dict(runner.versions), "label": runner.label})
                elif operation == "close":
                    break
                else:
                    assert runner is not None, "the first request must be 'load'"
                    _reply(replies, _OPERATIONS[operation](runner, request))
            except Exception as error:  # the benchmark reports it; the worker lives on
                traceback.print_exc()
                _reply(replies, {"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"})
        if runner is not None:
            runner.close()
        _reply(replies, {})


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cut(token_ids: list[int], stop_token_ids: list[int]) -> list[int]:
    """`token_ids` up to the first stop id, that included.

    >>> cut([5, 0, 7], [0])
    [5, 0]
    """
    stops = set(stop_token_ids)
    for position, token_id in enumerate(token_ids):
        if token_id in stops:
            return token_ids[: position + 1]
    return token_ids


def decode_seconds(request_s: float, first_s: float, num_first: int, num_tokens: int) -> float | None:
    """Seconds of decoding all tokens of a batch, the reading of the prompts excluded; None if they all came at once.

    `first_s` is when the first pass had decided its `num_first` tokens. That pass read the prompts too, so only the
    time after it can be seen. It is scaled to all tokens, and never above the whole request.

    >>> decode_seconds(request_s=1.0, first_s=0.5, num_first=1, num_tokens=6)
    0.6
    """
    num_later = num_tokens - num_first
    return min(request_s, (request_s - first_s) * num_tokens / num_later) if num_later > 0 else None


def _generate(runner: Runner, request: dict[str, Any]) -> dict[str, Any]:
    return runner.generate(request["asks"])


def _reset(runner: Runner, request: dict[str, Any]) -> dict[str, Any]:
    runner.reset()
    return {}


def _memory(runner: Runner, request: dict[str, Any]) -> dict[str, Any]:
    return {"resident_bytes": runner.resident_bytes()}


def _reply(replies: TextIO, message: Mapping[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


_OPERATIONS: Mapping[str, Callable[[Runner, dict[str, Any]], dict[str, Any]]] = {
    "generate": _generate,
    "reset": _reset,
    "memory": _memory,
}
