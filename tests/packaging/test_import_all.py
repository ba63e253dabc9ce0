"""evodraft can be imported with its declared dependencies alone, and the script that says so can say otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from import_all import needed

SCRIPT = Path(__file__).parents[2] / "tools" / "import_all.py"


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    variables = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, encoding="utf-8", check=False)


def test_every_module_can_be_imported_with_the_declared_dependencies_alone() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 50


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A distribution `probe` that requires numpy; its module `probe.inner.top` is still empty."""
    (tmp_path / "probe" / "inner").mkdir(parents=True)
    (tmp_path / "probe" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "probe" / "inner" / "__init__.py").write_text("import numpy\n", encoding="utf-8")
    (tmp_path / "probe" / "inner" / "top.py").write_text("", encoding="utf-8")
    (tmp_path / "probe-1.dist-info").mkdir()
    metadata = (
        "Metadata-Version: 2.1\nName: probe\nVersion: 1\nRequires-Dist: numpy\nRequires-Dist: pytest; extra == 'dev'\n"
    )
    (tmp_path / "probe-1.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    return tmp_path


def test_every_level_of_a_package_is_imported(package: Path) -> None:
    done = run("probe", path=package)
    assert (done.returncode, done.stdout.split(" of ")[0]) == (0, "3 modules"), done.stderr


@pytest.mark.parametrize("name", ["pytest", "torch", "hypothesis"])
def test_an_undeclared_import_fails_and_is_named(package: Path, name: str) -> None:
    (package / "probe" / "inner" / "top.py").write_text(f"import {name}\n", encoding="utf-8")
    done = run("probe", path=package)
    assert done.returncode == 1
    assert (
        f"probe.inner.top cannot be imported with the declared dependencies alone: No module named '{name}'"
        in done.stderr
    )


PROBE = """
import importlib.metadata
import importlib.util

assert importlib.metadata.version("numpy")
assert importlib.util.find_spec("peft") is None
try:
    importlib.metadata.version("peft")
except importlib.metadata.PackageNotFoundError:
    pass
else:
    raise ImportError("its metadata is found")
"""


def test_what_transformers_would_use_if_it_were_there_is_not(package: Path) -> None:
    """It looks for a package as a module and in the metadata: both have to be hidden."""
    (package / "probe" / "inner" / "top.py").write_text(PROBE, encoding="utf-8")
    assert run("probe", path=package).stderr == ""


def test_requirements_are_followed_and_extras_are_not() -> None:
    found = needed("evodraft")
    assert {"evodraft", "torch", "transformers", "huggingface-hub", "typing-extensions"} <= found
    assert not {"pytest", "mypy", "peft", "accelerate"} & found
