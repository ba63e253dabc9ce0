"""The error tree."""

from __future__ import annotations

import inspect
import pickle

import pytest

from evodraft import errors
from evodraft.errors import ConfigError, EvodraftError, RequestError, UnknownOptionError

ALL = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_the_one_root_and_stands_in_the_printed_tree(kind) -> None:
    assert issubclass(kind, EvodraftError)
    assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize("kind", [ConfigError, RequestError])
def test_wrong_values_are_value_errors_too(kind) -> None:
    assert issubclass(kind, ValueError)


def test_an_unknown_name_offers_the_nearest() -> None:
    message = str(UnknownOptionError("verifier", "copuled", ["rejection", "coupled", "auto"]))
    assert message == "unknown verifier 'copuled'; did you mean 'coupled'? Known: auto, coupled, rejection"


def test_a_name_that_is_near_to_nothing_lists_what_there_is() -> None:
    assert str(UnknownOptionError("verifier", "xyz", ["b", "a"])) == "unknown verifier 'xyz'. Known: a, b"
    assert str(UnknownOptionError("learner", "xyz", [])) == "unknown learner 'xyz'. Known: none in this version"


def test_errors_travel_between_processes() -> None:
    error = UnknownOptionError("drafter", "ngrm", ["model", "ngram"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
