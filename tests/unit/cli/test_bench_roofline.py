"""`evodraft bench roofline` on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

_FAST = ("bench", "roofline", "--repeats", "3", "--context", "16", "--device", "cpu")


def test_a_folder_with_a_draft(command: Any, model_folder: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "roofline.json"
    figures = ("--mal", "1.5", "--draft-tokens", "2", "--json", str(path))
    ended = command(*_FAST, model_folder, "--draft", model_folder, "--dtype", "float32", *figures)
    assert ended.code == 0
    assert "times the limit" in ended.out
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["model"]["name"] == Path(model_folder).name
    assert written["speculation"]["num_draft_tokens"] == 2
    assert written["target"]["read_bytes"] == written["draft"]["read_bytes"]
    assert str(Path(model_folder).parent) not in path.read_text(encoding="utf-8")


def test_random_weights_are_called_synthetic(command: Any) -> None:
    ended = command(*_FAST, "random:tiny")
    assert ended.code == 0
    assert "Synthetic: random weights in the shape of tiny" in " ".join(ended.out.split())
    assert "A step of the draft" in ended.out


def test_the_bundled_draft_of_the_demo(command: Any) -> None:
    ended = command(*_FAST, "demo", "--draft", "bundled")
    assert ended.code == 0
    assert "A step of the draft" in ended.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("random:tiny", "--draft", "x"), "makes its own draft; leave it out"),
        (("random:huge",), "unknown shape 'huge'"),
        (("FOLDER", "--draft", "bundled"), "no draft comes with this target"),
        (("FOLDER", "--mal", "2"), "give both or none"),
        (("random:tiny", "--json", "FOLDER"), "choose another file"),
    ],
)
def test_mistakes_are_one_line(command: Any, model_folder: str, arguments: tuple[str, ...], complaint: str) -> None:
    ended = command(*_FAST, *(model_folder if word == "FOLDER" else word for word in arguments))
    assert ended.code == 2
    assert complaint in ended.one_line
