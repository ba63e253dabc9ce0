"""llama.cpp: its modes, and how llama-server is built. Does not know how the server is asked: its worker does.

There is no wheel of llama-server in the package index, but the source distribution of llama-cpp-python carries the
whole of llama.cpp. It is built with the cmake and ninja of the peer's environment: only a C++ compiler is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from evodraft.bench.peers.base import Mode, Peer
from evodraft.bench.peers.steps import run_step
from evodraft.errors import BenchError

_SOURCE: Final = "llama-cpp-python==0.3.36"
_SOURCE_FOLDER: Final = "vendor/llama.cpp"  # within the source distribution
_CMAKE_OPTIONS: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    f"-DLLAMA_BUILD_COMMIT={_SOURCE}",  # else that of whatever repository the build lies in
)
_COMPILERS: Final = ("c++", "g++", "clang++")
_STEPS_BETWEEN_LINES: Final = 25
_STEP: Final = re.compile(r"\[(\d+)/\d+\]")  # of ninja


def _finish(environment: Path, say: Callable[[str], None]) -> None:
    """Builds llama-server for this processor and puts it into the environment's bin.

    Raises BenchError where there is no compiler or a step fails, with the last lines of it.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        raise BenchError(
            f"llama_cpp: no C++ compiler ({', '.join(_COMPILERS)}) is on the PATH and CXX is not set; "
            "llama-server is built from source: install g++ or clang++"
        )
    programs = environment / "bin"
    variables = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}
    with tempfile.TemporaryDirectory(prefix="evodraft-llama-cpp-") as name:
        folder = Path(name)
        say(f"llama_cpp: downloading the source distribution of {_SOURCE}")
        _run(_download_command(programs / "python", folder), variables, say)
        _unpack(next(folder.glob("*.tar.gz")), folder / "source")
        build = folder / "build"
        say(f"llama_cpp: building llama-server with {compiler} (minutes)")
        configure = [str(programs / "cmake"), "-G", "Ninja", "-S", str(folder / "source"), "-B", str(build)]
        _run([*configure, *_CMAKE_OPTIONS], variables, say)
        _run([str(programs / "ninja"), "-C", str(build), "llama-server"], variables, say)
        shutil.copy2(build / "bin" / "llama-server", programs / "llama-server")


def _download_command(python: Path, folder: Path) -> list[str]:
    # of this package alone: ":all:" would build pip's build tools from source as well
    only_source = ["--no-binary", _SOURCE.partition("==")[0]]
    options = ["--disable-pip-version-check", "--no-deps", "--progress-bar", "off", "--dest", str(folder)]
    return [str(python), "-m", "pip", "download", *options, *only_source, _SOURCE]


def _unpack(archive: Path, destination: Path) -> None:
    """llama.cpp out of the archive; nothing lands outside `destination`, no repository comes along."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(destination, members=_members(tar), filter="data")
    except tarfile.TarError as error:
        raise BenchError(f"llama_cpp: {archive.name} cannot be unpacked: {error}") from error
    if not (destination / "CMakeLists.txt").is_file():
        raise BenchError(f"llama_cpp: {archive.name} holds no {_SOURCE_FOLDER}/CMakeLists.txt; expected {_SOURCE}")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        _, _, path = member.name.partition(f"/{_SOURCE_FOLDER}/")
        if path and ".git" not in Path(path).parts:
            yield member.replace(name=path)


def _run(command: Sequence[str], variables: Mapping[str, str], say: Callable[[str], None]) -> None:
    run_step("llama_cpp", command, say, _is_shown, variables)


def _is_shown(line: str) -> bool:
    step = _STEP.match(line)
    return step is not None and int(step[1]) % _STEPS_BETWEEN_LINES == 0


def _ngram(lookup: int, draft: int) -> dict[str, object]:
    sizes = {"--spec-ngram-simple-size-n": lookup, "--spec-ngram-simple-size-m": draft}
    return {"--spec-type": "ngram-simple", **sizes}


LLAMA_CPP: Final = Peer(
    name="llama_cpp",
    about="llama.cpp's llama-server, unquantised weights converted to GGUF by evodraft",
    requirements="llama_cpp.txt",
    worker="llama_cpp_worker.py",
    modes={
        "plain": Mode("one token after the other", max_batch=8),
        "draft": Mode(
            "a draft model; as many tokens a round as llama-server drafts by default",
            needs_draft=True,
            options={"--spec-type": "draft-simple", "--spec-draft-n-max": 3},
        ),
        "ngram": Mode(
            "what followed the last 12 tokens earlier in the text; lengths as llama-server's by default",
            options=_ngram(lookup=12, draft=48),
        ),
        "ngram-short": Mode(
            "what followed the last 2 tokens earlier in the text; lengths as prompt lookup's in transformers",
            options=_ngram(lookup=2, draft=10),
        ),
    },
    finish=_finish,
)
