"""The compiled step as Python sees it: its structures and functions, member for member as in step.cpp.

Does not know tensors: whoever fills a structure keeps alive what its pointers point to.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from evodraft.runtime.native.build import BuildError, build_library, delete_library

_Fields = list[tuple[str, Any]]


class Matrix(ctypes.Structure):
    """A matrix [rows, columns] in memory, and its bias [rows] in float32 or null."""

    _fields_: ClassVar[_Fields] = [
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
    ]


class Layer(ctypes.Structure):
    """The weights of one decoder layer; null where it has none."""

    _fields_: ClassVar[_Fields] = [
        *((name, Matrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm", "attention_out_norm", "mlp_out_norm")),
        *((name, ctypes.c_void_p) for name in ("query_norm", "key_norm", "beside_norm")),
        *((name, ctypes.c_int64) for name in ("query_norm_size", "key_norm_size", "window", "is_residual_normed")),
    ]


class Model(ctypes.Structure):
    """All layers, and their sizes."""

    _fields_: ClassVar[_Fields] = [
        ("layers", ctypes.POINTER(Layer)),
        *((name, ctypes.c_int64) for name in ("num_heads", "num_kv_heads", "head_dim", "rotary_dim")),
        ("scaling", ctypes.c_float),
        *((name, ctypes.c_int64) for name in ("hidden", "intermediate")),
        ("norm_epsilon", ctypes.c_float),
        ("is_bfloat16", ctypes.c_int64),
    ]


class Pass(ctypes.Structure):
    """New tokens, and where their keys and values go."""

    _fields_: ClassVar[_Fields] = [
        *((name, ctypes.c_int64) for name in ("num_tokens", "num_known")),
        *((name, ctypes.c_void_p) for name in ("slots", "starts", "nodes", "parents", "cosines", "sines")),
        *((name, ctypes.POINTER(ctypes.c_void_p)) for name in ("keys", "values")),
        ("columns", ctypes.POINTER(ctypes.c_int64)),
        ("taps", ctypes.POINTER(ctypes.c_void_p)),
        ("beside", ctypes.c_void_p),
        ("num_threads", ctypes.c_int64),
    ]


class Chain(ctypes.Structure):
    """Drafts that go on from a pass, token by token, and where they are written to."""

    _fields_: ClassVar[_Fields] = [
        *((name, Matrix) for name in ("fuse", "head")),
        *((name, ctypes.c_void_p) for name in ("taps", "given", "tokens", "final_norm", "ids", "embedding")),
        *((name, ctypes.c_int64) for name in ("embedding_rows", "num_drafts", "depth")),
        *((name, ctypes.c_void_p) for name in ("last", "states", "logits", "token_ids", "signals")),
        *((name, ctypes.c_void_p) for name in ("words", "temperatures", "laws")),
    ]


_STRUCTURES: Final = (Matrix, Layer, Model, Pass, Chain)  # in the order of evodraft_sizes


class Library:
    """The functions of a compiled step; those that need memory of their own return whether there was enough.

    Raises BuildError for a file that cannot be loaded, lacks a function or has other structures.
    """

    def __init__(self, path: Path) -> None:
        library = _opened(path)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        step = [ctypes.POINTER(Model), ctypes.POINTER(Pass), pointer, number, number]
        self._layers = _function(library, "evodraft_layers", step, number)
        chain = [ctypes.POINTER(Model), ctypes.POINTER(Pass), ctypes.POINTER(Chain)]
        self._chain = _function(library, "evodraft_chain", chain, number)
        norm = [pointer, ctypes.c_float, pointer, number, number, pointer]
        self._norm = _function(library, "evodraft_norm", norm, None)
        self._uniform = _function(library, "evodraft_uniform", [pointer, number, pointer, number, pointer], None)
        linear = [ctypes.POINTER(Matrix), pointer, number, pointer, number, number]
        self._linear = _function(library, "evodraft_linear", linear, number)

    def layers(self, model: Model, step: Pass, hidden: int, first: int, last: int) -> bool:
        """Replaces `hidden` (address of float32 [computed tokens, hidden]) by what comes behind layer `last` - 1."""
        return bool(self._layers(model, step, hidden, first, last) == 0)

    def chain(self, model: Model, step: Pass, chain: Chain) -> bool:
        """Runs a pass whose inputs `chain` names, and fills what it points to."""
        return bool(self._chain(model, step, chain) == 0)

    def norm(self, weight: int, epsilon: float, tokens: int, num_tokens: int, size: int, results: int) -> None:
        """Writes float32 `results`, shaped as float32 `tokens` [tokens, size], with `weight` [size]: all addresses."""
        self._norm(weight, epsilon, tokens, num_tokens, size, results)

    def uniform(self, words: int, num_keys: int, ids: int, num_ids: int, results: int) -> None:
        """Writes float32 `results` [keys, ids] for int32 `words` [keys, 2] and int32 `ids`: all addresses."""
        self._uniform(words, num_keys, ids, num_ids, results)

    def linear(
        self, matrix: Matrix, tokens: int, num_tokens: int, results: int, num_threads: int, *, is_bfloat16: bool
    ) -> bool:
        """Writes float32 `results` [tokens, rows] of float32 `tokens` [tokens, columns]; both are addresses."""
        return bool(self._linear(matrix, tokens, num_tokens, results, num_threads, is_bfloat16) == 0)


def load_library() -> Library:
    """The step for this machine, compiled if it was not yet, and once again if it was damaged. Raises BuildError."""
    path = build_library()
    try:
        return Library(path)
    except BuildError:
        delete_library(path)
    return Library(build_library())


def _opened(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
        sizes = (ctypes.c_int64 * len(_STRUCTURES)).in_dll(library, "evodraft_sizes")
    except (OSError, ValueError) as error:  # ValueError: nothing in it is called so
        raise _unusable(error) from error
    declared = [ctypes.sizeof(structure) for structure in _STRUCTURES]
    if list(sizes) != declared:
        raise BuildError(f"{path} has structures of {list(sizes)} bytes where {declared} are declared; delete it")
    return library


def _function(library: ctypes.CDLL, name: str, arguments: list[Any], result: Any) -> Any:
    try:
        function = getattr(library, name)
    except AttributeError as error:
        raise _unusable(error) from error
    function.argtypes, function.restype = arguments, result
    return function


def _unusable(error: Exception) -> BuildError:
    return BuildError(f"the compiled step cannot be loaded: {error}; set CXX to another compiler")


def pointers(addresses: Sequence[int | None]) -> ctypes.Array[ctypes.c_void_p]:
    """An array of addresses; None is null."""
    return (ctypes.c_void_p * len(addresses))(*addresses)
