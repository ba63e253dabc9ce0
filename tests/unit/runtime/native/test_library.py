"""Structures and functions as Python declares them are those of the C++ code."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from pathlib import Path

import pytest

from evodraft.runtime.native import build, library
from evodraft.runtime.native.build import BuildError, build_library
from evodraft.runtime.native.library import Chain, Layer, Library, Matrix, Model, Pass, load_library, pointers

FOLDER = Path(build.__file__).parent
SOURCES = {"Matrix": "linear.h", "Heads": "attention.h", "Chain": "chain.h"}  # all others: layers.h


def members(structure: str) -> list[str]:
    """Names of a C++ structure's members in their order; those of a nested structure in its place."""
    source = (FOLDER / SOURCES.get(structure, "layers.h")).read_text(encoding="utf-8")
    found = re.search(rf"^struct {structure} {{\n(.*?)^}};", source, re.MULTILINE | re.DOTALL)
    assert found is not None
    code = re.sub(r"//.*", "", found[1])
    names = []
    for declaration in re.findall(r"^  ([^(){};]+);", code, re.MULTILINE):
        kind, *_ = re.sub(r"\bconst\b|\*", " ", declaration).split()
        rest = re.sub(r"\bconst\b|\*", " ", declaration).strip().removeprefix(kind)
        names += members(kind) if kind == "Heads" else [name.strip() for name in rest.split(",")]
    return names


@pytest.mark.parametrize("structure", [Matrix, Layer, Model, Pass, Chain])
def test_members_are_those_of_the_source(structure):
    assert [name for name, _ in structure._fields_] == members(structure.__name__)


def test_a_structure_of_another_size_is_refused(monkeypatch):
    class Longer(ctypes.Structure):
        _fields_ = [*Pass._fields_, ("more", ctypes.c_int64)]

    monkeypatch.setattr(library, "_STRUCTURES", (Matrix, Layer, Model, Longer, Chain))
    with pytest.raises(BuildError, match=r"has structures of \[.*\] bytes where \[.*\] are declared; delete it"):
        Library(build_library())


@pytest.mark.parametrize("content", [b"", b"text" * 2000, b"\x7fELF"])
def test_what_is_no_library_is_refused(tmp_path, content):
    path = tmp_path / "step.so"
    path.write_bytes(content)
    with pytest.raises(BuildError, match=r"cannot be loaded: .*step\.so.*; set CXX to another compiler"):
        Library(path)


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Stands for the compiler: makes what is to be found one after the other, whenever nothing is there."""
    path, whole = tmp_path / "step.so", build_library()

    def script(*contents):
        left = [whole.read_bytes() if content is None else content for content in contents]

        def build():
            if not path.exists():
                path.write_bytes(left.pop(0))
            return path

        monkeypatch.setattr(library, "build_library", build)
        return left

    return script


@pytest.mark.parametrize("content", [b"", b"text" * 2000])
def test_what_is_damaged_is_made_anew(found, content):
    left = found(content, None)
    assert isinstance(load_library(), Library)
    assert not left


def test_what_is_damaged_is_made_anew_once(found):
    left = found(b"one", b"two", None)
    with pytest.raises(BuildError, match="cannot be loaded"):
        load_library()
    assert len(left) == 1


def test_what_is_whole_is_not_made_anew(found):
    left = found(None, None)
    load_library()
    load_library()
    assert len(left) == 1


def test_a_library_that_lacks_a_function_is_refused(monkeypatch):
    monkeypatch.setattr(library, "_opened", lambda _: ctypes.CDLL(None))
    with pytest.raises(BuildError, match="cannot be loaded: .*evodraft_layers"):
        Library(Path("step.so"))


def test_another_library_is_refused():
    with pytest.raises(BuildError, match="cannot be loaded: .*evodraft_sizes"):
        Library(Path(ctypes.util.find_library("m") or "libm.so.6"))


def test_no_address_is_null():
    assert list(pointers([None, 7, None])) == [None, 7, None]
