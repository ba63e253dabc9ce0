"""Values from files become fields, or a complaint that names file, key, value and what is wanted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from evodraft.bench.fields import built, wanted
from evodraft.config import check_range
from evodraft.errors import ConfigError, UnknownOptionError


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    size: int = 1
    rate: float = 0.5
    is_on: bool = False
    limit: int | None = None
    tags: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] | None = None
    anything: object = None

    def __post_init__(self) -> None:
        check_range(self, "size", 1, 9)


def test_lists_become_tuples_and_whole_numbers_pass_as_numbers() -> None:
    values = {"name": "a", "rate": 1, "tags": ["x"], "groups": {"law": ["y"]}, "anything": [1], "limit": None}
    sample = built(Sample, "file", values)
    assert sample == Sample("a", rate=1, tags=("x",), groups={"law": ("y",)}, anything=[1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "file has no key 'name'; add it (text)"),
        ({"name": 3}, "file: name=3 is not text; write it as one"),
        ({"name": "a", "size": True}, "file: size=True is not a whole number; write it as one"),
        ({"name": "a", "size": 1.0}, "file: size=1.0 is not a whole number; write it as one"),
        ({"name": "a", "rate": "fast"}, "file: rate='fast' is not a number; write it as one"),
        ({"name": "a", "is_on": 1}, "file: is_on=1 is not true or false; write it as one"),
        ({"name": "a", "limit": "x"}, "file: limit='x' is not a whole number; write it as one"),
        ({"name": "a", "tags": "x"}, "file: tags='x' is not a list, each entry text; write it as one"),
        ({"name": "a", "tags": [1]}, "file: tags=1 is not text; write it as one"),
        ({"name": "a", "groups": {"law": 1}}, "file: groups.law=1 is not a list, each entry text; write it as one"),
        ({"name": "a", "size": 10}, "file: size=10 is not a whole number from 1 to 9; choose one within"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        built(Sample, "file", values)


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UnknownOptionError, match="unknown key of file 'sizes'; did you mean 'size'"):
        built(Sample, "file", {"name": "a", "sizes": 3})


def test_types_in_words() -> None:
    assert wanted(Mapping[str, object]) == "a table"
    assert wanted(tuple[int, ...]) == "a list, each entry a whole number"
