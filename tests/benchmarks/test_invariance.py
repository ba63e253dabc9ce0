"""The long comparison of speculative with plain decoding, at a small size; and that it notices a difference."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from evodraft.runtime import choose
from evodraft.runtime.native.step import NativeStep
from evodraft.runtime.step import LayersOutput

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "invariance.py"


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def run(script: dict[str, Any], path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code and what was written, over two widths and two batches."""
    script["main"].__globals__.update(WIDTHS=(1, 4), BATCHES=(1, 3))
    code = script["main"](["--json", str(path / "new" / "result.json"), "--tokens", "160", "--length", "20", *options])
    return code, json.loads((path / "new" / "result.json").read_text(encoding="utf-8"))


def test_nothing_differs(script: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = run(script, tmp_path)
    assert code == 0
    assert result["num_differing"] == 0
    assert [(cell["width"], cell["batch"], cell["num_tokens"]) for cell in result["cells"]] == [
        (1, 1, 40),
        (1, 3, 60),
        (4, 1, 40),
        (4, 3, 60),
    ]
    assert result["num_tokens"] == 200
    assert result["cells"][0]["num_draft_tokens"] == 0
    assert result["cells"][3]["num_draft_tokens"] >= result["cells"][3]["num_accepted"] > 0
    assert (result["dtype"], result["runtime"]) == ("bfloat16", "native")
    assert result["numerics"]["name"] == "invariant"
    assert {"processor", "threads"} == set(result["machine"])
    assert {"date", "commit", "versions", "seconds"} <= set(result)
    said = capsys.readouterr().out
    assert "width  4: 200 tokens, 0 differ" in said
    assert said.endswith("200 tokens compared, 0 differ\n")


class ByWidth(NativeStep):
    """Keeps only the signs in wide passes."""

    def layers(self, hidden, cache, step, first, last, taps):
        output = super().layers(hidden, cache, step, first, last, taps)
        return LayersOutput(output.hidden.sign() if step.width > 1 else output.hidden, output.taps)


def test_a_difference_is_found(script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "NativeStep", ByWidth)
    monkeypatch.setattr(choose, "check_decoder", lambda *arguments: None)
    code, result = run(script, tmp_path, "--runtime", "native", "--numerics", "fast")
    assert code == 1
    assert result["num_differing"] > 0
    for cell in result["cells"]:
        assert cell["num_differing"] == 0 or cell["width"] > 1
        assert cell["num_tokens"] <= 20 * cell["num_texts"], "nothing is compared behind a difference"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [((1, 2, 3), (1, 2, 3), None), ((1, 2, 3), (1, 4, 3), 1), ((1, 2), (1, 2, 3), 2), ((), (5,), 0)],
)
def test_where_two_texts_part(script: dict[str, Any], one, other, expected) -> None:
    assert script["first_difference"](one, other) == expected
