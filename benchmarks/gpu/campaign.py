"""Everything that wants an accelerator, in one script: tests, decoding, rooflines, costs at 8 B parameters, a head.

    python benchmarks/gpu/campaign.py --out results-gpu [--only tests] [--device cuda]

Runs from a checkout without installation and needs no network. Every step is meant to end within ten minutes, so that
it can be a call of its own, and writes `<step>.json` at once; a step that fails is reported and the next one runs. What
is measured at the size of 8 B parameters has random weights and is marked synthetic. The step `train_head` reads
answers of the demo target (`evodraft train generate`) from the folder `--generated` and leaves the head in `--out`.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evodraft.assemble import LoadOptions
    from evodraft.bench.contestants import Ask
    from evodraft.bench.own import Method
    from evodraft.bench.synthetic import RandomPair, Workload
    from evodraft.drafters.eagle.head import EagleHead

PROJECT = Path(__file__).parents[2]
SOURCES = [str(PROJECT / "src"), str(PROJECT / "demo" / "src")]


@dataclass(frozen=True)
class Settings:
    """What all steps share."""

    device: str
    max_new_tokens: int
    prompts_per_domain: int
    shape: str  # of the random weights
    out: Path
    generated: Path  # folder of answers of the demo target
    minutes: float  # of training
    batch: int  # rows of a training step


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


def run_eagle(settings: Settings) -> dict[str, object]:
    """A head of the target's width with random weights: what a draft costs, by slice of the output matrix and by form.

    Acceptance of chains is forced; of trees it is what random weights give, next to none.
    """
    from evodraft.bench.synthetic import Workload, random_pair

    pair = random_pair(settings.shape, "bfloat16", settings.device, num_draft_layers=0)
    head = random_head(pair)
    workload = Workload(max_new_tokens=settings.max_new_tokens)
    return {
        "synthetic": pair.note,
        "workload": asdict(workload),
        "head_parameters": sum(parameter.numel() for parameter in head.parameters()),
        "drafts": {f"batch {size}": draft_costs(pair, head, workload, size) for size in (1, 8)},
    }


def random_head(pair: RandomPair) -> EagleHead:
    """One layer of the target's sizes, without matrices of its own; taps as in published heads where these fit."""
    from evodraft.drafters.eagle.head import published_taps
    from evodraft.training.head_start import new_head

    depth = pair.num_layers
    taps = published_taps(depth) if depth >= 7 else (0, depth // 2, depth)
    return new_head(pair.target.model, taps).to(pair.target.model.dtype).eval().requires_grad_(False)


def draft_costs(
    pair: RandomPair, head: EagleHead, workload: Workload, batch_size: int
) -> dict[str, dict[str, float | str]]:
    """Every way to draft, its engine freed before the next one is built."""
    from evodraft.assemble import LoadOptions
    from evodraft.bench.own import Method, Stage
    from evodraft.bench.synthetic import ForcedAcceptance
    from evodraft.config import EngineConfig

    limit = workload.num_prompt_tokens + workload.max_new_tokens
    config = EngineConfig(max_batch=batch_size, max_model_len=limit)
    stage = Stage(pair.target, LoadOptions(runtime="eager"), config, synthetic=pair.note)
    vocab_size = pair.target.model.config.vocab_size
    costs = {}
    for name, (options, temperature, is_forced) in ways_to_draft(head, vocab_size, workload.num_draft_tokens).items():
        forced = replace(stage, verifier=ForcedAcceptance(0.8, workload.schedule, workload.seed))
        method = Method(name, options, forced if is_forced else stage)
        costs[name] = rounds_of(method, workload.asks(vocab_size, batch_size, temperature), workload.repeats)
        method.close()
    return costs


def ways_to_draft(
    head: EagleHead, vocab_size: int, num_draft_tokens: int
) -> dict[str, tuple[dict[str, object], float, bool]]:
    """Name -> options, temperature, and whether acceptance is forced: chains that are drawn or grown, and trees."""
    from evodraft.drafters.vocabulary import Vocabulary

    quarter = Vocabulary(tuple(range(vocab_size // 4)), "a quarter of the ids")
    tree = {"name": "fixed", "num_draft_tokens": num_draft_tokens, "num_nodes": 6 * num_draft_tokens}
    forms: dict[str, tuple[object, float, bool]] = {
        "drawn chain": (f"fixed:{num_draft_tokens}", 0.7, True),
        "grown chain": (f"fixed:{num_draft_tokens}", 0.0, True),
        "tree": (tree, 0.0, False),
    }
    ways: dict[str, tuple[dict[str, object], float, bool]] = {"plain": ({"drafter": None}, 0.0, False)}
    for form, (controller, temperature, is_forced) in forms.items():
        for ids, vocabulary in {"all ids": None, "a quarter": quarter}.items():
            drafter = {"name": "eagle", "head": head}
            options = {"drafter": drafter, "controller": controller, "vocabulary": vocabulary}
            ways[f"{form}, {ids}"] = (options, temperature, is_forced)
    return ways


def rounds_of(method: Method, asks: list[Ask], repeats: int) -> dict[str, float | str]:
    """Means over rounds, the first run left out: seconds are of the whole batch."""
    outcomes = [method.generate(asks) for _ in range(repeats + 1)][1:]
    errors = [answer.error for outcome in outcomes for answer in outcome.answers if answer.error is not None]
    if errors:
        raise RuntimeError(f"{method.profile.name}: {errors[0]}")
    rounds = [record for outcome in outcomes for record in outcome.rounds]
    num_tokens = sum(len(answer.token_ids) for outcome in outcomes for answer in outcome.answers)
    return {
        "note": method.profile.synthetic or "",
        "draft_ms": 1e3 * fmean(record.draft_s for record in rounds),
        "score_ms": 1e3 * fmean(record.score_s for record in rounds),
        "num_drafted": fmean(record.num_drafted for record in rounds),
        "num_accepted": fmean(record.num_accepted for record in rounds),
        "tokens_per_s": num_tokens / sum(outcome.decode_s or 0.0 for outcome in outcomes),
    }


def run_training(settings: Settings) -> dict[str, object]:
    """A head for the demo target, longer and in wider steps than a processor would: scores on held-out answers."""
    from evodraft.training.__main__ import build_app

    answers = sorted(settings.generated.glob("*.jsonl"))
    words = ["head", "--target", str(PROJECT / "demo" / "src" / "evodraft_demo" / "target")]
    words += [word for path in answers for word in ("--generated", str(path))]
    words += ["--run", str(settings.out / "run"), "--out", str(settings.out / "eagle"), "--device", settings.device]
    build_app()([*words, "--minutes", str(settings.minutes), "--batch", str(settings.batch)], standalone_mode=False)
    config = json.loads((settings.out / "eagle" / "config.json").read_text(encoding="utf-8"))
    return {"provenance": config["evodraft"]["provenance"]}


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
    "eagle_8b": run_eagle,
    "train_head": run_training,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the steps and returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(STEPS), action="append")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--prompts-per-domain", type=int, default=4)
    parser.add_argument("--shape", default="llama-3.1-8b", help="of random weights; another one for a trial")
    parser.add_argument("--generated", type=Path, default=PROJECT / ".cache" / "generated", help="of train_head")
    parser.add_argument("--minutes", type=float, default=8.0, help="of train_head")
    parser.add_argument("--batch", type=int, default=64, help="rows of a step of train_head")
    given = parser.parse_args(arguments)
    sys.path[:0] = SOURCES
    given.out.mkdir(parents=True, exist_ok=True)
    options = {name: value for name, value in vars(given).items() if name != "only"}
    settings = Settings(**options)
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
