"""Everything that wants an accelerator, in one script: tests, decoding, rooflines, costs at the size of 8 B parameters.

    python benchmarks/gpu/campaign.py --out results-gpu [--only tests] [--device cuda]

Runs from a checkout without installation and needs no network. Every step is meant to end within ten minutes, so that
it can be a call of its own, and writes `<step>.json` at once; a step that fails is reported and the next one runs. What
is measured at the size of 8 B parameters has random weights and is marked synthetic.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evodraft.assemble import LoadOptions

PROJECT = Path(__file__).parents[2]
SOURCES = [str(PROJECT / "src"), str(PROJECT / "demo" / "src")]


@dataclass(frozen=True)
class Settings:
    """What all steps share."""

    device: str
    max_new_tokens: int
    prompts_per_domain: int
    shape: str  # of the random weights


def run_tests(settings: Settings) -> dict[str, object]:
    """The tests marked `gpu`; on a CPU, the runtime's own tests in their place."""
    chosen = ["-m", "gpu", "tests/gpu"] if settings.device == "cuda" else ["tests/unit/runtime/test_hf.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(SOURCES)}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    return {"command": command[1:], "exit_code": done.returncode, "output_tail": done.stdout[-4000:]}


def run_decoding(settings: Settings) -> dict[str, object]:
    """Plain and speculative decoding of the demo models in the same runtime, by precision and controller."""
    from evodraft import LLM
    from evodraft.demo import compare, read_prompts, report, summarise

    documents: dict[str, object] = {}
    for dtype in ("float32", "bfloat16"):
        for controller in ("fixed:3", "confidence"):
            with LLM.from_pretrained("demo", device=settings.device, dtype=dtype, controller=controller) as llm:
                prompts = read_prompts(settings.prompts_per_domain)
                done = list(compare(llm, prompts, [0.0, 0.7], settings.max_new_tokens, seed=7))
                rows = [summarise(done, "all", temperature) for temperature in (0.0, 0.7)]
                options = {"dtype": dtype, "controller": controller, "device": settings.device}
                documents[f"{dtype} {controller}"] = report(rows, done, options)
    return documents


def run_roofline(settings: Settings) -> dict[str, object]:
    """How far decoding of the demo models is from the speed at which their weights can be read."""
    from evodraft.assemble import LoadOptions, load_target
    from evodraft.bench.roofline import document, measure_roofline
    from evodraft.runtime.load import load_model

    documents: dict[str, object] = {}
    for dtype in ("float32", "bfloat16"):
        target = load_target("demo", LoadOptions(device=settings.device, dtype=dtype))
        assert target.bundled_draft is not None
        draft = load_model(target.bundled_draft, device=settings.device, dtype=dtype).model
        documents[dtype] = document(measure_roofline(target, draft, name="demo"))
    return documents


def run_plain(settings: Settings) -> dict[str, object]:
    """Random weights of a real shape, decoded plainly: by runtimes and `generate` in turn, beside both limits.

    A token cannot take less than reading its bytes does: at the speed of the fastest kernel that was measured, and at
    what clock and width of the memory allow.
    """
    from evodraft.bench.roofline import document, measure_roofline
    from evodraft.bench.synthetic import Workload, peak_gb_per_s, plain_costs, random_pair

    pair = random_pair(settings.shape, "bfloat16", settings.device, num_draft_layers=0)
    roofline = measure_roofline(pair.target, name=settings.shape, synthetic=pair.note)
    workload = Workload(num_prompt_tokens=128, max_new_tokens=settings.max_new_tokens, repeats=5)
    costs = plain_costs(pair, runtimes(), workload)
    peak = peak_gb_per_s(pair.target.model.device)
    limits = {"measured": roofline.target.limit_ms}
    if peak is not None:
        limits["peak"] = roofline.target.read_bytes.total / peak / 1e6
    return {
        "synthetic": pair.note,
        "workload": asdict(workload),
        "limits_ms": limits,
        "plain": [
            asdict(cost) | {"over_limit": {name: cost.ms_per_token / ms for name, ms in limits.items()}}
            for cost in costs
        ],
        "roofline": document(roofline),
    }


def run_forced(settings: Settings) -> dict[str, object]:
    """Random weights of a real shape: plain decoding against forced acceptance, by every runtime."""
    from evodraft.bench.synthetic import Workload, forced_costs, full_depth, random_pair

    pair = random_pair(settings.shape, "bfloat16", settings.device)
    workload = Workload(num_draft_tokens=5, max_new_tokens=settings.max_new_tokens)
    rates, batch_sizes = (0.6, 0.8), (1, 8)
    costs = {name: forced_costs(pair, rates, batch_sizes, workload, load) for name, load in runtimes().items()}
    depth = full_depth(pair)
    return {
        "synthetic": pair.note,
        "workload": asdict(workload),
        "draft_cost_ratio": pair.cost_ratio,
        "forced": {name: [asdict(cost) for cost in found] for name, found in costs.items()},
        "full_depth": asdict(depth) | {"extrapolated_ms": depth.extrapolated_ms},
    }


def run_heads(settings: Settings) -> dict[str, object]:
    """Logits over the vocabularies of Llama 3 and Qwen 3, for one position and for a draft of five and its root."""
    import torch

    from evodraft.bench.synthetic import SHAPES, head_costs

    hidden_size = SHAPES[settings.shape].sizes["hidden_size"]
    heads = head_costs(hidden_size, (128_256, 151_936), torch.bfloat16, settings.device, widths=(1, 6))
    return {"heads": [asdict(head) for head in heads]}


def runtimes() -> dict[str, LoadOptions]:
    """What can decode on an accelerator: the model's own modules, and what replaces them."""
    from evodraft.assemble import LoadOptions

    return {name: LoadOptions(runtime=name) for name in ("transformers", "eager")}


STEPS: Mapping[str, Callable[[Settings], dict[str, object]]] = {
    "tests": run_tests,
    "decoding": run_decoding,
    "roofline": run_roofline,
    "plain_8b": run_plain,
    "forced_8b": run_forced,
    "heads": run_heads,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the steps and returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(STEPS), action="append")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--prompts-per-domain", type=int, default=4)
    parser.add_argument("--shape", default="llama-3.1-8b", help="of the last three; another one for a trial")
    given = parser.parse_args(arguments)
    sys.path[:0] = SOURCES
    given.out.mkdir(parents=True, exist_ok=True)
    settings = Settings(given.device, given.max_new_tokens, given.prompts_per_domain, given.shape)
    num_failed = 0
    for name in given.only or STEPS:
        started = time.perf_counter()
        try:
            result = STEPS[name](settings)
        except Exception:  # the other steps still run, and the reason is in the file
            result = {"error": traceback.format_exc()}
        is_failed = "error" in result or result.get("exit_code", 0) != 0
        num_failed += is_failed
        result["seconds"] = time.perf_counter() - started
        (given.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {'failed' if is_failed else 'done'} in {result['seconds']:.0f} s", flush=True)
    return num_failed


if __name__ == "__main__":
    sys.exit(main())
