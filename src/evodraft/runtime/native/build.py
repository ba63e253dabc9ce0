"""Compiles the native step for this machine with the system's C++ compiler, once, into the user's cache folder.

What is kept is named after everything it was made from (sources, compiler, flags, processor), so nothing stale is
ever loaded; a folder that others may write to is refused, because what lies in it is run. Does not know what the code
computes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import torch

from evodraft.machine import processor_flags

_SOURCES: Final = ("vectors.h", "linear.h", "attention.h", "noise.h", "step.cpp")
_COMPILERS: Final = ("c++", "g++", "clang++")
# Contracted to fused multiply-adds everywhere; what reorders sums (-ffast-math) is left out on purpose.
_FLAGS: Final = (
    *("-O3", "-march=native", "-std=c++17", "-fPIC", "-fvisibility=hidden"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
_LIMIT_S: Final = 300


class BuildError(Exception):
    """Why there is no native step here. Never reaches a user: the runtime takes another way, and `inspect` says why."""


class _Recipe(NamedTuple):
    compiler: str
    arguments: tuple[str, ...]  # before the output and the sources
    libraries: tuple[str, ...]  # behind them


def build_library() -> Path:
    """The compiled library. Compiles it if it is not there yet, which takes seconds. Raises BuildError."""
    compiler = _find_compiler()
    problems = []
    for recipe in _recipes(compiler):
        try:
            return _built(recipe)
        except BuildError as error:
            problems.append(str(error))
    raise BuildError(problems[0])


def library_state() -> str:
    """Whether it was compiled before, in words. Compiles nothing; raises BuildError where nothing could."""
    compiler = _find_compiler()
    if any(_path_of(recipe).exists() for recipe in _recipes(compiler)):
        return "compiled already"
    return f"to be compiled once by {compiler}, which takes seconds"


def _find_compiler() -> str:
    if sys.platform == "win32":
        raise BuildError("the native step is not built on Windows")
    named = os.environ.get("CXX")
    for name in (named,) if named else _COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise BuildError(f"there is no C++ compiler here ({named or ', '.join(_COMPILERS)})")


def _recipes(compiler: str) -> tuple[_Recipe, ...]:
    """With torch's own OpenMP, so that both share one pool of threads; else with the compiler's; else one thread."""
    threaded = (*_FLAGS, "-fopenmp")
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    shared = [_Recipe(compiler, threaded, (str(path), "-lpthread")) for path in bundled[:1]]
    return (*shared, _Recipe(compiler, threaded, ()), _Recipe(compiler, _FLAGS, ()))


def _built(recipe: _Recipe) -> Path:
    path = _path_of(recipe)
    if not path.exists():
        logging.getLogger("evodraft").info("compiling the native runtime (once)")
        _compile(recipe, path)
    return path


def _path_of(recipe: _Recipe) -> Path:
    return _private_folder() / f"step-{_fingerprint(recipe)}.so"


def _compile(recipe: _Recipe, path: Path) -> None:
    """Two processes may do it at once: each writes its own file, and the last one to finish replaces the other's."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = _compiled(recipe, Path(folder))
            with made.open("rb") as file:
                os.fsync(file.fileno())  # half a library that a crash left behind would end every process that loads it
            os.replace(made, path)
    except OSError as error:
        raise BuildError(f"nothing can be written to {path.parent}: {error}; set XDG_CACHE_HOME") from error


def _compiled(recipe: _Recipe, folder: Path) -> Path:
    made, objects = folder / "step.so", folder / "step.o"
    source = str(Path(__file__).parent / _SOURCES[-1])
    _run([recipe.compiler, *recipe.arguments, "-c", source, "-o", str(objects)])
    # OpenMP is linked by name where it is torch's own: -fopenmp would add a second one
    link = [flag for flag in recipe.arguments if not (recipe.libraries and flag == "-fopenmp")]
    _run([recipe.compiler, *link, "-shared", str(objects), *recipe.libraries, "-o", str(made)])
    return made


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} could not be run: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").splitlines()
        lines = [line for line in said if "error" in line] or said or ["it did not say why"]
        raise BuildError(f"{command[0]} failed: {lines[0].strip()}")


def _fingerprint(recipe: _Recipe) -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    try:
        version = subprocess.run([recipe.compiler, "--version"], capture_output=True, check=False, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{recipe.compiler} could not be run: {error}") from error
    digest.update(version.stdout)
    digest.update(repr((recipe, platform.machine(), sorted(processor_flags()))).encode())
    return digest.hexdigest()[:16]


def _private_folder() -> Path:
    """A folder that nobody else may write to."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evodraft" / "native"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except (OSError, RuntimeError) as error:
        raise BuildError(f"there can be no cache folder: {error}; set XDG_CACHE_HOME") from error
    if state.st_uid != os.getuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildError(f"others may write to the cache folder {folder}; chmod 700 it, or set XDG_CACHE_HOME")
    return folder
