"""Imports every module of evodraft with nothing importable but what its metadata declares.

    python tools/import_all.py

Whatever is installed beside it is hidden from Python first: development tools, and packages that transformers would use
if it found them. A module that imports an undeclared package at its top then fails here, as it would for a user.
Does not know what a module does; one that runs when it is imported is skipped.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

RUNS_WHEN_IMPORTED = {"evodraft.__main__"}


class Hiding:
    """A finder of the import system that no longer finds some modules and distributions."""

    def __init__(self, finder: Any, modules: set[str], distributions: set[str]) -> None:
        self._finder, self._modules, self._distributions = finder, modules, distributions

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Nothing for a hidden module, whatever the wrapped finder says for another."""
        return None if name.partition(".")[0] in self._modules else self._finder.find_spec(name, path, target)

    def find_distributions(self, *arguments: Any) -> Iterable[importlib.metadata.Distribution]:
        """What the wrapped finder finds, without the hidden distributions."""
        find: Callable[..., Any] = getattr(self._finder, "find_distributions", lambda *_: ())
        return [found for found in find(*arguments) if _normal(found.name) not in self._distributions]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def main(package: str = "evodraft") -> int:
    """Prints how many modules were imported, or the first that could not be."""
    hidden = installed() - needed(package)
    modules = {
        name
        for name, owners in importlib.metadata.packages_distributions().items()
        if {_normal(owner) for owner in owners} <= hidden
    }
    sys.meta_path[:] = [Hiding(finder, modules, hidden) for finder in sys.meta_path]
    importlib.invalidate_caches()
    names = [package]
    try:
        for name in names:  # grows while it is read: a package adds what it contains
            module = importlib.import_module(name)
            inside = pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}.")
            names += [found.name for found in inside if found.name not in RUNS_WHEN_IMPORTED]
    except ImportError as error:
        print(f"{name} cannot be imported with the declared dependencies alone: {error}", file=sys.stderr)
        return 1
    print(f"{len(names)} modules of {package} imported, {len(hidden)} other installed packages hidden")
    return 0


def installed() -> set[str]:
    """Normalised names of all installed distributions."""
    return {_normal(found.name) for found in importlib.metadata.distributions()}


def needed(package: str) -> set[str]:
    """The distribution `package`, what it requires, what that requires, and so on; optional extras are not followed."""
    from packaging.requirements import Requirement

    present, found = installed(), set[str]()
    todo = [package]
    while todo:
        name = _normal(todo.pop())
        if name in found or name not in present:
            continue
        found.add(name)
        requirements = map(Requirement, importlib.metadata.requires(name) or ())
        todo += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
