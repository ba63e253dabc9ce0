"""Compiles the native step for this machine with the system's C++ compiler, once, into the user's cache folder.

What is kept is named after everything it was made from (sources, compiler, flags, processor), so nothing stale is
ever loaded; a folder that others may write to is refused, because what lies in it is run. Does not know what the code
computes, nor whether what lies there can be loaded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import torch

from evodraft.machine import processor_flags

_SOURCES: Final = (
    *("vectors.h", "linear.h", "attention.h", "noise.h", "draw.h", "layers.h", "chain.h"),
    "step.cpp",
)
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
    compiler: tuple[str, ...]  # as it is called: its path, and what CXX says behind it
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


def delete_library(path: Path) -> None:
    """So that it is compiled again. Raises BuildError."""
    try:
        path.unlink(missing_ok=True)  # another process may have found the same
    except OSError as error:
        raise BuildError(f"{path} cannot be loaded, nor deleted: {error}; set XDG_CACHE_HOME") from error


def library_state() -> str:
    """Whether there is one, in words. Compiles and loads nothing; raises BuildError where nothing could be compiled."""
    compiler = _find_compiler()
    if any(_path_of(recipe).exists() for recipe in _recipes(compiler)):
        return "compiled already"
    return f"to be compiled once by {shlex.join(compiler)}, which takes seconds"


def _find_compiler() -> tuple[str, ...]:
    if sys.platform == "win32":
        raise BuildError("the native step is not built on Windows")
    named = _named_compiler()
    for name, *arguments in (named,) if named else ((name,) for name in _COMPILERS):
        found = shutil.which(name)
        if found:
            return found, *arguments
    tried = shlex.join(named) if named else ", ".join(_COMPILERS)
    raise BuildError(
        f"there is no C++ compiler here ({tried}), and what was compiled before is found by the compiler's version"
    )


def _named_compiler() -> tuple[str, ...]:
    """What CXX says, which may be a command with arguments; empty if it says nothing."""
    named = os.environ.get("CXX", "")
    try:
        return tuple(shlex.split(named))
    except ValueError as error:
        raise BuildError(f"CXX={named} is no command: {error}; quote it as for a shell") from error


def _recipes(compiler: tuple[str, ...]) -> tuple[_Recipe, ...]:
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
    _run(recipe.compiler, *recipe.arguments, "-c", source, "-o", str(objects))
    # OpenMP is linked by name where it is torch's own: -fopenmp would add a second one
    link = [flag for flag in recipe.arguments if not (recipe.libraries and flag == "-fopenmp")]
    _run(recipe.compiler, *link, "-shared", str(objects), *recipe.libraries, "-o", str(made))
    return made


def _run(compiler: tuple[str, ...], *arguments: str) -> None:
    done = _finished(compiler, *arguments)
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        lines = [line for line in said if "error" in line] or said
        reason = lines[0] if lines else f"exit code {done.returncode}, and it did not say why"
        raise BuildError(f"{shlex.join(compiler)} failed: {reason}")


def _finished(compiler: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run([*compiler, *arguments], capture_output=True, check=False, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{shlex.join(compiler)} could not be run: {error}") from error


def _fingerprint(recipe: _Recipe) -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    digest.update(_finished(recipe.compiler, "--version").stdout)
    digest.update(repr((recipe, platform.machine(), sorted(processor_flags()))).encode())
    return digest.hexdigest()[:16]


def _private_folder() -> Path:
    """A folder that nobody else may write to, nor put another in its place, and whose files may be run."""
    try:
        outer = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evodraft"
        folder = outer / "native"
        for made in (outer, folder):  # one by one, because the mode is not that of parents
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(made)
        may_run = not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)
    except (OSError, RuntimeError) as error:
        raise BuildError(f"there can be no cache folder: {error}; set XDG_CACHE_HOME") from error
    if not may_run:
        raise BuildError(f"the cache folder {folder} lies where nothing may be run (noexec); set XDG_CACHE_HOME")
    return folder


def _check_private(folder: Path) -> None:
    state = folder.stat()
    if state.st_uid != os.getuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildError(f"others may write to the cache folder {folder}; chmod 700 it, or set XDG_CACHE_HOME")
