"""The wheels hold the package and nothing else; a wheel that is wrong in one way is refused for that reason."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import check_wheels
from check_wheels import Rule, check

PROJECT = Path(__file__).parents[2]
METADATA = "pack-1.dist-info"
GOOD = {
    "pack/__init__.py": b"",
    "pack/py.typed": b"",
    "pack/zoo/registry.toml": b"[pairs]\n",
    f"{METADATA}/METADATA": b"Name: pack\n",
    f"{METADATA}/licenses/LICENSE": b"do as you like\n",
}


@pytest.fixture
def rule(tmp_path: Path) -> Rule:
    """A package whose files are those of GOOD, and a cache that no wheel should hold."""
    for name, content in GOOD.items() | {("pack/__pycache__/__init__.cpython-311.pyc", b"")}:
        if name.startswith("pack/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    return Rule(100_000, tmp_path / "pack", "LICENSE")


def wheel(folder: Path, files: Mapping[str, bytes], name: str = "pack-1-py3-none-any.whl") -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return folder / name


def test_a_good_wheel_passes(tmp_path: Path, rule: Rule) -> None:
    assert check(wheel(tmp_path, GOOD), rule) == []


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (GOOD | {"tests/test_pack.py": b""}, "holds tests/test_pack.py, which is no file of pack"),
        (GOOD | {"pack/__pycache__/__init__.cpython-311.pyc": b""}, "holds pack/__pycache__/__init__"),
        (GOOD | {"pack/stale.py": b""}, "holds pack/stale.py"),
        (
            {name: data for name, data in GOOD.items() if name != "pack/zoo/registry.toml"},
            "lacks pack/zoo/registry.toml",
        ),
        ({name: data for name, data in GOOD.items() if name != "pack/py.typed"}, "lacks pack/py.typed"),
        ({name: data for name, data in GOOD.items() if "LICENSE" not in name}, "lacks its LICENSE"),
        (
            GOOD | {f"{METADATA}/weights.bin": bytes(100_001)},
            "the limit is 100,000; leave the largest out, or ship it in a distribution of its own: "
            f"{METADATA}/weights.bin (100,001)",
        ),
    ],
)
def test_a_bad_wheel_is_refused(tmp_path: Path, rule: Rule, files: Mapping[str, bytes], complaint: str) -> None:
    [found] = check(wheel(tmp_path, files), rule)
    assert complaint in found


def test_a_package_without_type_marker_is_refused(tmp_path: Path, rule: Rule) -> None:
    (rule.package / "py.typed").unlink()
    files = {name: data for name, data in GOOD.items() if name != "pack/py.typed"}
    assert check(wheel(tmp_path, files), rule) == [
        f"{rule.package} has no py.typed, so that its annotations would be ignored"
    ]


def test_every_distribution_and_no_other_must_be_there(
    tmp_path: Path, rule: Rule, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_wheels, "RULES", {"pack": rule})
    wheel(tmp_path, GOOD)
    assert check_wheels.main(tmp_path) == 0
    assert "pack-1-py3-none-any.whl: " in capsys.readouterr().out
    wheel(tmp_path, GOOD, "other-1-py3-none-any.whl")
    assert check_wheels.main(tmp_path) == 1
    assert "other-1-py3-none-any.whl is of no distribution that has a rule" in capsys.readouterr().err
    assert check_wheels.main(tmp_path / "nothing") == 1
    assert "no wheel of pack in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("evodraft", ["pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "src"]),
        ("evodraft_demo", ["demo/pyproject.toml", "demo/MODEL_CARD.md", "demo/NOTICE", "demo/src"]),
    ],
)
def test_what_the_project_builds_passes(tmp_path: Path, name: str, sources: list[str]) -> None:
    """Built with the setuptools that is installed, in a copy: a build leaves files beside the sources."""
    for source in sources:
        if (PROJECT / source).is_dir():
            ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
            shutil.copytree(PROJECT / source, tmp_path / "src", ignore=ignored, copy_function=copy_without_weights)
        else:
            shutil.copy(PROJECT / source, tmp_path)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    [built] = (tmp_path / "dist").glob("*.whl")
    assert check(built, check_wheels.RULES[name]) == []


def copy_without_weights(source: str, target: str) -> None:
    """Weights become empty files: which files a wheel holds does not depend on them, and to pack them takes long."""
    if source.endswith(".safetensors"):
        Path(target).touch()
    else:
        shutil.copy(source, target)
