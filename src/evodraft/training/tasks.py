"""Mini-tasks whose answers can be checked: sums, copying, JSON fields, templated questions, and a scorer.

They show whether a change of decoding costs quality, on a model too small for public benchmarks. A task is a function
of a random generator; the held-out split has prompts that training never shows. Does not know models or tokens.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Literal, NamedTuple

from evodraft.errors import UnknownOptionError

NUM_DOCUMENTS: Final = 20_000
NUM_HELD_OUT: Final = 500
_HELD_OUT_PERCENT: Final = 10
_NAMES: Final = (
    "Ann",
    "Ben",
    "Cara",
    "Dan",
    "Eva",
    "Finn",
    "Gina",
    "Hugo",
    "Iris",
    "Jack",
    "Kim",
    "Leo",
    "Mia",
    "Noah",
)
_CITIES: Final = ("Paris", "Rome", "Berlin", "London", "Madrid", "Oslo", "Boston", "Chicago", "Tokyo", "Cairo")
_COLOURS: Final = ("red", "blue", "green", "black", "white", "yellow", "brown", "orange", "pink", "grey")
_ANIMALS: Final = ("dog", "cat", "bird", "fish", "horse", "cow", "mouse", "duck", "bear", "lion")
_THINGS: Final = (
    "apple",
    "book",
    "chair",
    "river",
    "house",
    "stone",
    "paper",
    "table",
    "water",
    "tree",
    "door",
    "bread",
)
_JOBS: Final = ("nurse", "teacher", "lawyer", "doctor", "farmer", "driver", "writer", "engineer")


class Example(NamedTuple):
    """A question with the one answer that counts as right."""

    prompt: str
    answer: str


def _sum(rng: random.Random) -> Example:
    left, right = rng.randrange(100), rng.randrange(100)
    return Example(f"Add {left} and {right}.", str(left + right))


def _copy(rng: random.Random) -> Example:
    words = rng.sample(_COLOURS + _ANIMALS + _THINGS, rng.randint(3, 6))
    line = " ".join(words)
    return Example(f"Repeat these words: {line}", line)


def _json_field(rng: random.Random) -> Example:
    record = {
        "name": rng.choice(_NAMES),
        "age": rng.randint(10, 99),
        "city": rng.choice(_CITIES),
        "job": rng.choice(_JOBS),
        "colour": rng.choice(_COLOURS),
    }
    fields = rng.sample(list(record), rng.randint(3, 5))
    asked = rng.choice(fields)
    document = json.dumps({field: record[field] for field in fields})
    return Example(f'Which value has the field "{asked}" in {document}?', str(record[asked]))


def _who_has_it(rng: random.Random) -> Example:
    names, animals = rng.sample(_NAMES, 3), rng.sample(_ANIMALS, 3)
    asked = rng.randrange(3)
    story = " ".join(f"{name} has a {animal}." for name, animal in zip(names, animals, strict=True))
    return Example(f"{story} Who has the {animals[asked]}?", f"{names[asked]} has the {animals[asked]}.")


Task = Callable[[random.Random], Example]
TaskSplit = Literal["train", "valid"]

TASKS: Final[Mapping[str, Task]] = {"sum": _sum, "copy": _copy, "json_field": _json_field, "who_has_it": _who_has_it}


def examples(task: str, split: TaskSplit, seed: int = 0) -> Iterator[Example]:
    """Endless examples of one task; which split a prompt belongs to is decided by its hash, so no prompt is in both.

    Raises `UnknownOptionError` for a task that is not in `TASKS`.

    >>> next(examples("copy", "valid")).prompt.startswith("Repeat these words: ")
    True
    """
    if task not in TASKS:
        raise UnknownOptionError("task", task, TASKS)
    rng = random.Random(f"{task}/{split}/{seed}")
    while True:
        example = TASKS[task](rng)
        if _is_held_out(example.prompt) == (split == "valid"):
            yield example


def held_out(task: str, count: int, seed: int = 0) -> list[Example]:
    """`count` different held-out examples of one task, the same at every call."""
    unique = dict.fromkeys(islice(examples(task, "valid", seed), 4 * count))
    return list(unique)[:count]


def is_right(example: Example, output: str) -> bool:
    """Whether an output is the answer, apart from white space around it; nothing may follow."""
    return output.strip() == example.answer


def accuracy(asked: Sequence[Example], outputs: Sequence[str]) -> float:
    """Share of right outputs; `outputs` are in the order of `asked`."""
    right = [is_right(example, output) for example, output in zip(asked, outputs, strict=True)]
    return sum(right) / len(right)


def _is_held_out(prompt: str) -> bool:
    digest = hashlib.sha256(prompt.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < _HELD_OUT_PERCENT
