"""llama.cpp as a peer: building llama-server, with programs of the environment replaced by short scripts."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from evodraft.bench.peers import llama_cpp
from evodraft.bench.peers.llama_cpp import LLAMA_CPP
from evodraft.errors import BenchError

ROOT = "llama_cpp_python-0.3.36"
FILES = {
    "PKG-INFO": "not wanted",
    "vendor/llama.cpp/.git/config": "not wanted",
    "vendor/llama.cpp/CMakeLists.txt": "project(llama.cpp)",
    "vendor/llama.cpp/src/llama.cpp": "int main;",
}


def archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{ROOT}/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose pip "downloads" an archive, and whose ninja "builds" a server."""
    source = archive(tmp_path / "source.tar.gz", FILES)
    scripts = {
        "python": f'while [ "$1" != --dest ]; do shift; done; cp {source} "$2/{ROOT}.tar.gz"',
        "cmake": 'test -f "$4/CMakeLists.txt" && mkdir -p "$6" && echo "$@" > "$6/options"',
        "ninja": 'echo "[24/50] a"; echo "[25/50] b"; mkdir "$2/bin"; cp "$2/options" "$2/bin/$3"',
    }
    programs = tmp_path / "environment" / "bin"
    programs.mkdir(parents=True)
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\nset -e\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("CXX", "some-compiler")
    return programs.parent


def test_finish_builds_the_server_out_of_the_downloaded_sources(environment: Path) -> None:
    said: list[str] = []
    assert LLAMA_CPP.finish is not None
    LLAMA_CPP.finish(environment, said.append)
    options = (environment / "bin" / "llama-server").read_text()
    assert "-DBUILD_SHARED_LIBS=OFF" in options
    assert "-G Ninja" in options
    assert "  [25/50] b" in said
    assert "  [24/50] a" not in said
    assert any("some-compiler" in line for line in said)


def test_a_step_that_fails_shows_its_last_lines(environment: Path) -> None:
    (environment / "bin" / "ninja").write_text("#!/bin/sh\necho undefined reference\nexit 3\n")
    with pytest.raises(BenchError, match=r"exit code 3: .*ninja(?s:.*)undefined reference"):
        llama_cpp._finish(environment, lambda line: None)
    assert not (environment / "bin" / "llama-server").exists()


def test_without_a_compiler_nothing_is_downloaded(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(llama_cpp, "_COMPILERS", ("no-such-compiler",))
    said: list[str] = []
    with pytest.raises(BenchError, match="no C\\+\\+ compiler .*install"):
        llama_cpp._finish(environment, said.append)
    assert said == []


def test_only_llama_cpp_itself_is_unpacked(tmp_path: Path) -> None:
    llama_cpp._unpack(archive(tmp_path / "a.tar.gz", FILES), tmp_path / "out")
    files = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/**/*") if path.is_file()}
    assert files == {"CMakeLists.txt", "src/llama.cpp"}


def test_nothing_is_unpacked_outside(tmp_path: Path) -> None:
    evil = archive(tmp_path / "a.tar.gz", FILES | {"vendor/llama.cpp/../../../../evil": "x"})
    with pytest.raises(BenchError, match="cannot be unpacked: .*outside"):
        llama_cpp._unpack(evil, tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    other = archive(tmp_path / "a.tar.gz", {"setup.py": ""})
    with pytest.raises(BenchError, match=r"a\.tar\.gz holds no vendor/llama\.cpp/CMakeLists\.txt"):
        llama_cpp._unpack(other, tmp_path / "out")


def test_only_drafting_modes_are_told_to_speculate() -> None:
    for name, mode in LLAMA_CPP.modes.items():
        assert ("--spec-type" in mode.options) == (name != "plain")
        assert mode.needs_draft == (name == "draft")
        assert name == "plain" or mode.max_batch == 1, "the worker tells counts of one answer at a time"


def test_the_pins_name_the_sources_so_that_others_make_a_new_environment() -> None:
    pins = Path(__file__).parents[4] / "benchmarks" / "peers" / LLAMA_CPP.requirements
    assert llama_cpp._SOURCE in pins.read_text(encoding="utf-8")
