"""`evodraft.__all__` is the public interface: complete, importable, documented."""

from __future__ import annotations

import inspect
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import evodraft

PROJECT = Path(__file__).parents[1]


def _public_names(package: ModuleType) -> list[str]:
    """Names a user can import from the package; its submodules and what steers its imports are not among them."""
    return sorted(
        name
        for name in dir(package)
        if not name.startswith("_") and not inspect.ismodule(getattr(package, name)) and name != "TYPE_CHECKING"
    )


def test_all_lists_exactly_the_public_names() -> None:
    listed = [name for name in evodraft.__all__ if not name.startswith("__")]
    assert sorted(listed) == _public_names(evodraft)


def test_all_has_no_duplicates() -> None:
    assert len(set(evodraft.__all__)) == len(evodraft.__all__)


@pytest.mark.parametrize("name", evodraft.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(evodraft, name)
    if name == "__version__":
        assert value
        return
    documentation = value.__doc__ or ""
    # A dataclass without a docstring gets its signature for one.
    assert documentation.strip(), f"{name} has no docstring"
    assert not documentation.startswith(f"{name}("), f"{name} has no docstring of its own"


def test_star_import_gives_the_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from evodraft import *", namespace)
    assert set(evodraft.__all__) <= set(namespace)


def test_the_installed_version_is_the_one_of_the_source_tree() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata.version("evodraft") == project["version"]


def test_types_are_shipped() -> None:
    assert (Path(evodraft.__file__).parent / "py.typed").is_file()
