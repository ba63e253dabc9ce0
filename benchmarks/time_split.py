"""Where the time of one token goes: the target's passes, the draft's, laws, verification, and everything else.

    python benchmarks/time_split.py --json benchmarks/results/time_split.json [--threads 2] [--tokens 256]

Every runtime decodes the same prompts of the demo, plainly and with the default parts. Times are wall-clock seconds
around calls, so whatever Python does inside a part counts as that part's. What is left of an engine step is `rest`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evodraft import LLM

PARTS = ("target pass", "draft pass", "laws", "verify", "rest")
PROMPTS = ("The parties agree that", "def fib(n):", "The patient was given", "The history of the world is")


@dataclass
class Split:
    """Seconds by part; a part that runs inside another one is taken out of it."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    inner: list[float] = field(default_factory=list)  # seconds of parts inside those that are running

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, whose time counts for `part`."""

        def run(*arguments: Any, **options: Any) -> Any:
            self.inner.append(0.0)
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                elapsed = time.perf_counter() - started
                self.seconds[part] += elapsed - self.inner.pop()
                if self.inner:
                    self.inner[-1] += elapsed

        return run


@contextmanager
def watched(llm: LLM, split: Split) -> Any:
    """The parts of an engine report to `split` inside."""
    engine: Any = llm.engine
    places = [
        (engine, "step", "rest"),
        (engine.target, "score", "laws"),
        (engine.target.decoder, "forward", "target pass"),
        (engine.verifier, "verify", "verify"),
    ]
    if engine.drafter is not None:
        places.append((engine.drafter, "step", "draft pass"))
    for owner, name, part in places:
        setattr(owner, name, split.timed(part, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, _ in places:
            delattr(owner, name)


def measure(options: Mapping[str, Any], temperature: float, num_tokens: int) -> dict[str, Any]:
    """Milliseconds per token by part."""
    from evodraft import LLM

    said = {"max_new_tokens": num_tokens, "temperature": temperature, "seed": 7, "ignore_eos": True}
    split = Split()
    with LLM.from_pretrained("demo", **options) as llm:
        llm.generate(PROMPTS[0], **{**said, "max_new_tokens": 16})
        with watched(llm, split):
            done = [llm.generate(prompt, **said) for prompt in PROMPTS]
    tokens = sum(one.stats.num_tokens for one in done)
    passes = sum(one.stats.num_target_passes for one in done)
    parts = {part: 1e3 * seconds / tokens for part, seconds in split.seconds.items()}
    return {
        "options": dict(options),
        "temperature": temperature,
        "num_tokens": tokens,
        "tokens_per_pass": tokens / passes,
        "ms_per_token": parts | {"all": sum(parts.values())},
    }


def main() -> None:
    """Measures what was asked for and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--runtime", action="append", help="of the table of runtimes; default: all of them")
    given = parser.parse_args()
    import torch

    from evodraft.bench.environment import describe_machine
    from evodraft.machine import software_versions, source_commit
    from evodraft.runtime.choose import RUNTIMES

    torch.set_num_threads(given.threads)
    rows = []
    for runtime in given.runtime or RUNTIMES:
        for drafter in (None, "auto"):
            for temperature in (0.0, 0.7):
                row = measure({"runtime": runtime, "drafter": drafter}, temperature, given.tokens)
                rows.append(row)
                shown = {part: round(ms, 2) for part, ms in row["ms_per_token"].items()}
                print(f"{runtime:13} {drafter or 'plain':6} T={temperature}: {shown} ms per token", flush=True)
    about = {
        "machine": asdict(describe_machine(torch.device("cpu"))),
        "versions": software_versions(),
        "commit": source_commit(),
        "model": "demo, as stored",
    }
    given.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
