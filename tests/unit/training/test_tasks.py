"""Mini-tasks: right answers, splits that do not meet, a scorer that says no."""

from __future__ import annotations

import json
import re
from itertools import islice

import pytest

from evodraft.errors import UnknownOptionError
from evodraft.training.tasks import TASKS, Example, accuracy, examples, held_out, is_right


def solve(task, prompt):
    """The answer, found from the prompt alone."""
    if task == "sum":
        return str(sum(int(number) for number in re.findall(r"\d+", prompt)))
    if task == "copy":
        return prompt.removeprefix("Repeat these words: ")
    if task == "json_field":
        field = re.search(r'field "(\w+)"', prompt)[1]
        return str(json.loads(prompt[prompt.index("{") : -1])[field])
    name = re.search(rf"(\w+) has a {re.search(r'the (.*)[?]', prompt)[1]}[.]", prompt)[1]
    return f"{name} has the {re.search(r'the (.*)[?]', prompt)[1]}."


@pytest.mark.parametrize("task", TASKS)
def test_every_answer_follows_from_its_prompt(task):
    for example in islice(examples(task, "train"), 200):
        assert solve(task, example.prompt) == example.answer


@pytest.mark.parametrize("task", TASKS)
def test_no_held_out_prompt_is_shown_in_training(task):
    shown = {example.prompt for example in islice(examples(task, "train"), 5_000)}
    asked = held_out(task, 100)
    assert len({example.prompt for example in asked}) == 100
    assert shown.isdisjoint(example.prompt for example in asked)
    assert asked == held_out(task, 100)
    assert asked != held_out(task, 100, seed=1)


def test_an_unknown_task_is_named_with_the_known_ones():
    with pytest.raises(UnknownOptionError, match="did you mean 'sum'"):
        next(examples("sums", "train"))


def test_only_the_whole_answer_is_right():
    example = Example("Add 1 and 2.", "3")
    outputs = ["3", " 3\n", "3 4", "4", ""]
    assert [is_right(example, output) for output in outputs] == [True, True, False, False, False]
    assert accuracy([example] * 5, outputs) == 0.4
