"""What every test starts from: no network, one thread, the same examples on every run."""

from __future__ import annotations

import os

# Read by the libraries at import time, so they are set before anything below is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from hypothesis import settings

# No deadline: the first call of a torch kernel may take a hundred times as long as the second.
settings.register_profile("evodraft", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("evodraft")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """float32 sums depend on the number of threads; models of this size gain nothing from more than one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_random_models() -> None:
    """Tests build models with random weights; the order in which tests run must not change them."""
    torch.manual_seed(0)


_NATIVE = (  # what asks for the native runtime, or takes for granted that it is chosen
    "tests/benchmarks/test_invariance.py",
    "tests/exactness/test_invariance.py",
    "tests/unit/runtime/native/",
    "tests/unit/runtime/test_changes.py",
    "tests/unit/runtime/test_choose",
    "tests/unit/runtime/test_foretell.py",
    "tests/unit/runtime/test_fused.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a C++ compiler the program takes other runtimes; tests of the native one are skipped with the reason."""
    natives = [item for item in items if item.nodeid.startswith(_NATIVE) or "native" in item.name]
    if not natives:
        return
    from evodraft.runtime.native.problem import native_problem

    if (problem := native_problem(torch.empty(0))) is not None:
        for item in natives:
            item.add_marker(pytest.mark.skip(reason=problem))
