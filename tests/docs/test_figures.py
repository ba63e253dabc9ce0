"""Figures in the documentation are those of the committed results, for the bundle that is in the tree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from evodraft.bench.result import SCHEMA, Result, Row
from evodraft.bench.schema import read
from evodraft.runtime.integrity import record_of

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "benchmarks" / "results"
MANIFEST = PROJECT / "demo/src/evodraft_demo/MANIFEST.json"
DOMAINS = ["general", "code", "law", "medicine", "math"]


def _results(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return content


MODELS = _results("models.json")
BENCH = [path.name for path in sorted(FOLDER.glob("*.json")) if _results(path.name).get("schema") == SCHEMA]
HEADS = [
    "heads/default.json",
    "heads/five_tokens.json",
    "heads/peers.json",
]  # of a noisy machine, and their pages say so
RUNTIME = [f"runtime/{path.name}" for path in sorted((FOLDER / "runtime").glob("*.json"))]


def _text(page: str) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _model_line(domain: str) -> str:
    target, draft, fit = MODELS["target"], MODELS["draft"], MODELS["fit"][domain]
    loss = target["losses"][domain]
    return _line(
        domain,
        f"{loss['num_tokens']:,}",
        f"{loss['nats']:.2f}",
        f"{math.exp(loss['nats']):.1f}",
        f"{math.exp(draft['losses'][domain]['nats']):.1f}",
        f"{target['repetition'][domain]['distinct_4']:.2f}",
        f"{fit['kl']:.2f}",
        f"{fit['overlap']:.2f}",
    )


@pytest.mark.parametrize("page", ["docs/models.md", "demo/MODEL_CARD.md"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_the_models_pages_show_the_committed_losses(page: str, domain: str) -> None:
    assert _model_line(domain) in _text(page)


def test_the_models_page_shows_positions_exits_tasks_and_costs() -> None:
    page, target, draft = _text("docs/models.md"), MODELS["target"], MODELS["draft"]
    lines = [
        _line(span, f"{nats:.2f}", f"{draft['position_losses'][span]:.2f}")
        for span, nats in target["position_losses"].items()
    ]
    lines += [_line(depth, f"{nats:.2f}") for depth, nats in target["exits"].items()]
    lines += [f"| `{task}` | {found['accuracy']:.0%} |" for task, found in target["tasks"].items()]
    lines += [
        _line(
            dtype.removeprefix("torch."), f"{cost['target_ms']:.2f}", f"{cost['draft_ms']:.2f}", f"{cost['ratio']:.2f}"
        )
        for dtype, cost in MODELS["cost"].items()
    ]
    assert [line for line in lines if line not in page] == []


def _manifests() -> set[str]:
    """Hashes of the manifest in the tree and of earlier ones with the same target and draft."""
    record = record_of(MANIFEST)
    assert record is not None
    return {record.sha256, *json.loads(MANIFEST.read_text(encoding="utf-8"))["same_models_as"]}


def _is_of_the_bundle(result: Result) -> bool:
    """An earlier manifest will do for what names no head: there `auto` was the small draft."""
    record = record_of(MANIFEST)
    assert record is not None
    names_heads = any("eagle" in str(contestant.options) for contestant in result.contestants)
    return result.model.sha256 in _manifests() and (not names_heads or result.model.sha256 == record.sha256)


def test_the_models_figures_are_of_the_bundle_in_the_tree() -> None:
    record = record_of(MANIFEST)
    assert record is not None
    assert MODELS["manifest_sha256"] in _manifests()
    assert MODELS["heads_manifest_sha256"] == record.sha256


def test_the_results_that_readme_needs_are_there() -> None:
    assert {"domains.json", "domains_float32.json"} <= set(BENCH)


@pytest.mark.parametrize("name", BENCH)
def test_results_are_of_the_bundle_in_the_tree_and_of_a_quiet_machine(name: str) -> None:
    result = read(FOLDER / name)
    assert _is_of_the_bundle(result)
    assert result.model.synthetic is None
    assert result.noise is not None
    assert result.noise.is_quiet


@pytest.mark.parametrize("name", [*RUNTIME, *HEADS])
def test_runtimes_were_compared_on_this_bundle_or_on_random_weights(name: str) -> None:
    result = read(FOLDER / name)
    assert result.model.synthetic is not None or _is_of_the_bundle(result)


@pytest.mark.parametrize("name", [*BENCH, *RUNTIME, *HEADS])
def test_no_row_of_ours_failed_its_check(name: str) -> None:
    result = read(FOLDER / name)
    methods = {record.name for record in result.contestants if record.kind == "method"}
    rows = [row for row in result.rows if row.contestant in methods]
    assert rows
    assert [row for row in rows if row.error is not None or row.check is None or not row.check.is_passed] == []


def test_in_float32_every_determined_output_is_identical() -> None:
    result = read(FOLDER / "domains_float32.json")
    assert result.model.dtype == "float32"
    checks = [row.check for row in result.rows if row.check is not None and row.check.kind == "equality"]
    assert checks
    assert all(check.num_identical == check.num_outputs > 0 for check in checks)


def test_readme_says_what_float32_gains() -> None:
    rows = read(FOLDER / "domains_float32.json").rows
    [row] = [row for row in rows if (row.group, row.condition, row.contestant) == ("all", "T=0.7", "auto")]
    assert row.speed_up is not None
    assert f"slower than plain decoding: {row.speed_up.value:.2f}x" in _text("README.md")
    assert row.speed_up.high < 1


# --- runtimes -------------------------------------------------------------------------------------------------------

RUNTIME_MODELS = ("demo", "llama-100m", "llama-350m")
RUNTIME_CONTESTANTS = {
    "native": "plain",
    "native, against itself": "control",
    "transformers, called by evodraft": "drafter=none,runtime=transformers",
    "transformers, `generate`": "transformers/plain",
    "llama.cpp": "llama_cpp/plain",
    "vLLM, compiled": "vllm/plain-compiled",
    "OpenVINO GenAI": "openvino/plain",
}


def runtime_line(name: str) -> str:
    cells = [name]
    for model in RUNTIME_MODELS:
        rows = read(FOLDER / "runtime" / f"{model}.json").rows
        row = next((row for row in rows if (row.group, row.contestant) == ("all", RUNTIME_CONTESTANTS[name])), None)
        if row is None:
            cells.append("not run")
            continue
        assert row.tokens_per_s is not None
        assert row.speed_up is not None
        ratio = f"{row.speed_up.value:.2f}x [{row.speed_up.low:.2f}, {row.speed_up.high:.2f}]"
        cells.append(f"{1e3 / row.tokens_per_s:.2f} ms" if name == "native" else f"{ratio}")
    return _line(*cells)


@pytest.mark.parametrize("name", RUNTIME_CONTESTANTS)
def test_the_runtime_page_shows_the_committed_comparison(name: str) -> None:
    assert runtime_line(name) in _text("docs/runtime.md")


def roofline_line(model: str) -> str:
    found = _results(f"roofline/{model}.json")
    passes = {cost["num_tokens"]: cost["ms"] for cost in found["passes"]}
    cells = [f"{found['plain_ms']:.2f} ms", f"{found['target']['limit_ms']:.2f} ms", f"{found['over_limit']:.2f}"]
    return _line(model, *cells, f"{passes[8]:.2f} ms", f"{passes[8] / passes[1]:.2f}")


@pytest.mark.parametrize("model", RUNTIME_MODELS)
def test_the_runtime_page_says_how_near_the_limit_is(model: str) -> None:
    assert roofline_line(model) in _text("docs/runtime.md")


def split_line(row: dict[str, Any]) -> str:
    options, parts = row["options"], row["ms_per_token"]
    what = "plain" if options["drafter"] is None else "default parts"
    return _line(options["runtime"], what, f"{row['temperature']:g}", *(f"{ms:.2f}" for ms in parts.values()))


def test_the_runtime_page_shows_where_the_time_goes() -> None:
    page, found = _text("docs/runtime.md"), _results("time_split.json")
    assert [line for row in [*found["before"], *found["rows"]] if (line := split_line(row)) not in page] == []


def test_the_runtime_page_says_how_many_tokens_were_compared() -> None:
    found = _results("invariance.json")
    assert found["num_differing"] == 0
    assert f"{found['num_tokens']:,} tokens" in _text("docs/runtime.md")


def _spread(row: Row) -> str:
    found = row.speed_up
    assert found is not None
    return f"{found.value:.2f}x [{found.low:.2f}, {found.high:.2f}]"


def test_readme_says_what_the_head_gains() -> None:
    rows = {(row.contestant, row.condition, row.group): row for row in read(FOLDER / HEADS[0]).rows}
    page, ngram = _text("README.md"), "drafter=ngram,controller=fixed:3"
    assert f"control {_spread(rows['control', 'T=0.7', 'all'])}" in page
    for label, condition, group in (
        ("T=0.7", "T=0.7", "all"),
        ("T=0, the 16 answers that do not loop", "T=0", "varied"),
    ):
        assert rows["auto", condition, group].num_prompts in (40, 16)
        cells = [_spread(rows[name, condition, group]) for name in ("auto", ngram)]
        assert _line(label, *cells) in page


def test_the_page_on_heads_says_how_much_is_accepted() -> None:
    rows = [row for row in read(FOLDER / HEADS[1]).rows if row.group == "all" and row.mean_acceptance_length]
    varied = [row for row in read(FOLDER / HEADS[1]).rows if row.group == "varied" and row.mean_acceptance_length]
    page = _text("docs/heads.md")
    for name in dict.fromkeys(row.contestant for row in rows):
        of = {row.condition: row for row in rows if row.contestant == name}
        [greedy] = [row for row in varied if row.contestant == name]
        lengths = [of["T=0.7"], greedy, of["T=0"]]
        assert _line(f"`{name}`", *(f"{row.mean_acceptance_length:.2f}" for row in lengths)) in page
