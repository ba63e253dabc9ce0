"""Test doubles, exact references and conformance checks, for parts of evodraft and for parts of yours.

A new drafter is tested in one line, a new controller against every output there is:

>>> from evodraft.controllers import FixedConfig, FixedController
>>> from evodraft.testing import check_controller
>>> check_controller(lambda: FixedController(FixedConfig(num_draft_tokens=2)))

Tiny random transformers models live in `evodraft.testing.tiny`, which this package does not import. Knows nothing of
pytest: checks raise AssertionError.
"""

from evodraft.testing.conformance import (
    check_controller,
    check_decoder,
    check_drafter,
    check_learner,
    check_verifier,
)
from evodraft.testing.controllers import ScriptedController, SignalController
from evodraft.testing.drafters import ScriptedDrafter
from evodraft.testing.enumeration import EnumeratingStream, ReusedKeyError, as_fraction, enumerate_outcomes
from evodraft.testing.fit import chi_square_p_value
from evodraft.testing.harness import CountingClock, outputs, run_all, table_engine
from evodraft.testing.learners import SwappingLearner
from evodraft.testing.reference import coupled_tokens, plain_law, product_law
from evodraft.testing.slices import SlicedDrafter
from evodraft.testing.table import TableDecoder, TableLM
from evodraft.testing.trees import TreeDrafter, random_shape

__all__ = [
    "CountingClock",
    "EnumeratingStream",
    "ReusedKeyError",
    "ScriptedController",
    "ScriptedDrafter",
    "SignalController",
    "SlicedDrafter",
    "SwappingLearner",
    "TableDecoder",
    "TableLM",
    "TreeDrafter",
    "as_fraction",
    "check_controller",
    "check_decoder",
    "check_drafter",
    "check_learner",
    "check_verifier",
    "chi_square_p_value",
    "coupled_tokens",
    "enumerate_outcomes",
    "outputs",
    "plain_law",
    "product_law",
    "random_shape",
    "run_all",
    "table_engine",
]
