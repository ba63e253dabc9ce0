"""The native code is compiled once, by whichever compiler there is; nothing stale, partial or foreign is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from evodraft.runtime.native import build
from evodraft.runtime.native.build import BuildError, build_library, delete_library, library_state

VERSION = 'case "$*" in *--version) echo fake 1.0; exit;; esac\n'
COPIES = 'while [ $# -gt 1 ]; do shift; [ "$1" = -o ] && echo library > "$2"; done; true\n'  # writes its output


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and no compiler named."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "cache" / "evodraft" / "native"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Makes a script that stands for the compiler; its calls are noted in `calls`."""

    def make(script, version=VERSION):
        path = tmp_path / "c++"
        path.write_text(f'#!/bin/sh\n{version}echo "$@" >> {tmp_path / "calls"}\n{script}')
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return path

    return make


@pytest.fixture
def calls(tmp_path):
    return lambda: (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []


SILENT = [(f"{blank}exit 3", "exit code 3, and it did not say why") for blank in ("", r"printf ' \n\n' >&2; ")]


# ---- the compiler ------------------------------------------------------------------------------------------------


def test_no_compiler_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask in (build_library, library_state):
        with pytest.raises(BuildError, match=r"no C\+\+ compiler here \(c\+\+, g\+\+, clang\+\+\)"):
            ask()


def test_a_compiler_that_is_not_there_any_more(compiler):
    """What it compiled is named after its version, and that can no longer be asked."""
    path = compiler(COPIES)
    build_library()
    path.unlink()
    for ask in (build_library, library_state):
        with pytest.raises(BuildError, match=r"no C\+\+ compiler here .* compiled before is found by the .* version"):
            ask()


@pytest.mark.parametrize("named", ["", " "])
def test_an_empty_name_is_none(compiler, named, monkeypatch):
    monkeypatch.setenv("PATH", f"{compiler(COPIES).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CXX", named)
    assert build_library().read_text() == "library\n"


def test_a_name_may_have_arguments(compiler, calls, monkeypatch):
    path = compiler(COPIES)
    names = {build_library().name}
    monkeypatch.setenv("CXX", f"'{path}' -m64 '-DA=b c'")
    assert library_state() == f"to be compiled once by {path} -m64 '-DA=b c', which takes seconds"
    names.add(build_library().name)
    assert len(names) == 2
    assert [call.startswith("-m64 -DA=b c -O3") for call in calls()] == [False, False, True, True]


def test_a_name_may_be_a_launcher_and_a_compiler(compiler, calls, tmp_path, monkeypatch):
    path, launcher = compiler(COPIES), tmp_path / "ccache"
    launcher.write_text('#!/bin/sh\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CXX", f"ccache {path}")
    names = [build_library().name]
    compiler(COPIES, version=VERSION.replace("1.0", "1.1"))
    monkeypatch.setenv("CXX", f"ccache {path}")
    names.append(build_library().name)
    assert names[0] != names[1], "the version is the compiler's, and not the launcher's"
    assert len(calls()) == 4


def test_a_name_with_an_open_quote(monkeypatch):
    monkeypatch.setenv("CXX", "g++ 'x")
    with pytest.raises(BuildError, match=r"CXX=g\+\+ 'x is no command: No closing quotation; quote it"):
        library_state()


def test_a_named_compiler_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match=r"no C\+\+ compiler here \(no-such-compiler\)"):
        build_library()


def test_windows_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(BuildError, match="Windows"):
        build_library()


def test_the_named_compiler_is_taken_and_asked_once(compiler, calls, cache):
    compiler(COPIES)
    assert library_state().startswith("to be compiled once by ")
    assert not calls()
    path = build_library()
    assert path.parent == cache
    assert path.read_text() == "library\n"
    assert [path] == list(cache.iterdir()), "nothing else is left behind"
    num_calls = len(calls())
    assert num_calls == 2, "to compile and to link"
    assert build_library() == path
    assert library_state() == "compiled already"
    assert len(calls()) == num_calls


def test_a_compiler_that_fails_is_quoted(compiler, cache):
    compiler('echo "In file included from here" >&2; echo "step.cpp:1: error: no such thing" >&2; exit 1')
    with pytest.raises(BuildError, match=r"c\+\+ failed: step.cpp:1: error: no such thing"):
        build_library()
    assert not list(cache.iterdir())


@pytest.mark.parametrize(("script", "reason"), [*SILENT, (r"printf '\377' >&2; exit 1", "�")])
def test_a_compiler_that_fails_without_a_readable_word(compiler, script, reason):
    compiler(script)
    with pytest.raises(BuildError, match=f"failed: {reason}"):
        build_library()


def test_a_compiler_that_fails_after_writing_leaves_nothing(compiler, cache):
    compiler(COPIES + "exit 1")
    with pytest.raises(BuildError, match="failed"):
        build_library()
    assert not list(cache.iterdir())


def test_without_openmp_one_thread_is_better_than_nothing(compiler, calls):
    compiler('case "$*" in *-fopenmp*) echo "error: unknown -fopenmp" >&2; exit 1;; esac\n' + COPIES)
    assert build_library().exists()
    assert "-fopenmp" in calls()[0]
    assert "-fopenmp" not in calls()[-1]


def test_a_compiler_that_cannot_be_started(tmp_path, monkeypatch):
    path = tmp_path / "c++"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    with pytest.raises(BuildError, match="could not be run"):
        build_library()


def test_a_compiler_that_disappears(compiler, tmp_path):
    path = compiler("")
    compiler("", version=f"rm {path}\n" + VERSION)
    with pytest.raises(BuildError, match="could not be run"):
        build_library()


def test_a_compiler_that_writes_nothing(compiler):
    compiler("true")
    with pytest.raises(BuildError, match="nothing can be written"):
        build_library()


# ---- where it lies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
@pytest.mark.parametrize("which", ["evodraft", "native"])
def test_a_folder_that_others_may_write_to_is_refused(compiler, cache, which, mode):
    compiler(COPIES)
    build_library()
    folder = {"evodraft": cache.parent, "native": cache}[which]
    folder.chmod(mode)
    for ask in (build_library, library_state):
        with pytest.raises(BuildError, match=f"others may write to the cache folder {folder}; chmod 700"):
            ask()


def test_a_folder_where_nothing_may_be_run_is_refused(compiler, calls, monkeypatch):
    compiler(COPIES)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC | os.ST_NOSUID))
    for ask in (build_library, library_state):
        with pytest.raises(BuildError, match=r"where nothing may be run \(noexec\); set XDG_CACHE_HOME"):
            ask()
    assert not calls()


def test_what_is_deleted_is_compiled_again(compiler, calls):
    compiler(COPIES)
    path = build_library()
    delete_library(path)
    assert library_state() != "compiled already"
    delete_library(path)  # somebody else may have been faster
    assert build_library() == path
    assert path.read_text() == "library\n"
    assert len(calls()) == 4


def test_what_cannot_be_deleted(tmp_path):
    with pytest.raises(BuildError, match=f"{tmp_path} cannot be loaded, nor deleted: .*; set XDG_CACHE_HOME"):
        delete_library(tmp_path)


def test_somebody_elses_folder_is_refused(compiler, monkeypatch):
    compiler(COPIES)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(BuildError, match="others may write"):
        build_library()


@pytest.mark.parametrize("mask", [0o002, 0o000])
def test_the_folder_is_made_for_its_owner_alone(compiler, cache, mask):
    """Whoever may write to the folder around it could put another in its place."""
    compiler(COPIES)
    before = os.umask(mask)
    try:
        build_library()
    finally:
        os.umask(before)
    assert [folder.stat().st_mode & 0o777 for folder in (cache.parent, cache)] == [0o700, 0o700]


def test_a_folder_that_cannot_be_made(compiler, cache):
    compiler(COPIES)
    cache.parent.parent.write_text("a file")
    with pytest.raises(BuildError, match="there can be no cache folder.*XDG_CACHE_HOME"):
        build_library()


def test_nobodys_home(compiler, monkeypatch):
    compiler(COPIES)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(BuildError, match="there can be no cache folder: no home"):
        build_library()


def test_without_a_named_cache_it_lies_in_the_home(compiler, tmp_path, monkeypatch):
    compiler(COPIES)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build_library().parent == tmp_path / ".cache" / "evodraft" / "native"


# ---- what it is called -------------------------------------------------------------------------------------------


def test_the_name_follows_what_it_was_made_from(compiler, monkeypatch):
    """Every change of compiler, flags, processor or sources makes another file; none makes the same."""
    compiler(COPIES)
    names = [build_library().name, build_library().name]
    assert names[0] == names[1]
    compiler(COPIES, version=VERSION.replace("1.0", "1.1"))
    names.append(build_library().name)
    monkeypatch.setattr(build, "processor_flags", lambda: frozenset({"avx9"}))
    names.append(build_library().name)
    monkeypatch.setattr(build, "_FLAGS", ("-O0",))
    names.append(build_library().name)
    monkeypatch.setattr(build, "_SOURCES", build._SOURCES[1:])
    names.append(build_library().name)
    assert len(set(names)) == len(names) - 1


def test_every_source_counts():
    """A file that is included and not named would be stale without a sign."""
    folder = Path(build.__file__).parent
    assert set(build._SOURCES) == {path.name for path in folder.iterdir() if path.suffix in (".h", ".cpp")}


def test_the_name_is_the_same_in_every_process(compiler):
    compiler(COPIES)
    program = "from evodraft.runtime.native.build import build_library; print(build_library().name)"
    command = [sys.executable, "-c", program]

    def run(seed):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, ("1", "2"))
    assert first == second == build_library().name


def test_two_may_compile_at_once(compiler, cache):
    """The compiler is slow, so that both find nothing; each sees a whole file in the end."""
    compiler("sleep 0.1\n" + COPIES)
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: build_library(), range(2)))
    assert paths[0] == paths[1]
    assert list(cache.iterdir()) == [paths[0]]
    assert paths[0].read_text() == "library\n"


def test_a_compiler_that_is_interrupted_leaves_nothing_that_is_taken_for_a_library(compiler, calls, cache, monkeypatch):
    compiler(COPIES)
    monkeypatch.setattr(build.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build_library()
    assert not list(cache.iterdir())
    assert library_state() != "compiled already"
