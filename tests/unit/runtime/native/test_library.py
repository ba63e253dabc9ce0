"""Structures and functions as Python declares them are those of the C++ code."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from pathlib import Path

import pytest

from evodraft.runtime.native import build, library
from evodraft.runtime.native.build import BuildError
from evodraft.runtime.native.library import Layer, Library, Matrix, Model, Pass, load_library, pointers

FOLDER = Path(build.__file__).parent
SOURCES = {"Matrix": "linear.h", "Layer": "step.cpp", "Heads": "attention.h", "Model": "step.cpp", "Pass": "step.cpp"}


def members(structure: str) -> list[str]:
    """Names of a C++ structure's members in their order; those of a nested structure in its place."""
    source = (FOLDER / SOURCES[structure]).read_text(encoding="utf-8")
    found = re.search(rf"^struct {structure} {{\n(.*?)^}};", source, re.MULTILINE | re.DOTALL)
    assert found is not None
    code = re.sub(r"//.*", "", found[1])
    names = []
    for declaration in re.findall(r"^  ([^(){};]+);", code, re.MULTILINE):
        kind, *_ = re.sub(r"\bconst\b|\*", " ", declaration).split()
        rest = re.sub(r"\bconst\b|\*", " ", declaration).strip().removeprefix(kind)
        names += members(kind) if kind == "Heads" else [name.strip() for name in rest.split(",")]
    return names


@pytest.mark.parametrize("structure", [Matrix, Layer, Model, Pass])
def test_members_are_those_of_the_source(structure):
    assert [name for name, _ in structure._fields_] == members(structure.__name__)


def test_a_structure_of_another_size_is_refused(monkeypatch):
    class Longer(ctypes.Structure):
        _fields_ = [*Pass._fields_, ("more", ctypes.c_int64)]

    monkeypatch.setattr(library, "_STRUCTURES", (Matrix, Layer, Model, Longer))
    with pytest.raises(BuildError, match=r"has structures of \[.*\] bytes where \[.*\] are declared; delete it"):
        load_library()


@pytest.mark.parametrize("content", [b"", b"text" * 2000, b"\x7fELF"])
def test_what_is_no_library_is_refused(tmp_path, content):
    path = tmp_path / "step.so"
    path.write_bytes(content)
    with pytest.raises(BuildError, match=f"cannot be loaded: .*delete {path}"):
        Library(path)


def test_another_library_is_refused():
    with pytest.raises(BuildError, match="cannot be loaded: .*evodraft_sizes"):
        Library(Path(ctypes.util.find_library("m") or "libm.so.6"))


def test_no_address_is_null():
    assert list(pointers([None, 7, None])) == [None, 7, None]
