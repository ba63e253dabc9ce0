"""The target's own answers to prompts, written to a file of JSON lines that an interrupted run goes on with.

Heads learn best from what the target says itself. Does not know: how answers are decoded, what learns from them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from evodraft.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

Answer = Callable[[list[list[int]], float], list[list[int]]]
"""(ids of prompts, temperature) -> ids of the answers, each with the stop id that ended it, if one did."""

TEXT_TOKENS = 32  # of a text are the prompt
ANY_DOMAIN = "any"


class Prompt(NamedTuple):
    """What is asked."""

    domain: str
    ids: list[int]


def read_prompts(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """Prompts of JSON lines with `prompt`, a question, or `text`, whose beginning is one; `domain` is optional.

    A question is put into the tokenizer's chat form if it has one.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        prompts = [Prompt(str(record.get("domain", ANY_DOMAIN)), _encode(record, tokenizer)) for record in records]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path} has a line without `prompt` or `text` ({error!r}); mend or remove it") from error
    prompts = [prompt for prompt in prompts if prompt.ids]
    if not prompts:
        raise TrainingError(f"{path} has no prompts; give JSON lines with `prompt` or `text`")
    return prompts


def write_answers(
    prompts: Sequence[Prompt],
    answer: Answer,
    path: Path,
    *,
    temperatures: Sequence[float] = (0.0, 0.7, 1.0),
    batch: int = 16,
    report: Callable[[int], None] | None = None,
) -> None:
    """Answer all prompts in batches, whose temperatures take turns; `report` gets the number of answers there are.

    What the file holds of the same prompts already is kept. Raises `TrainingError` for a file of other prompts.
    """
    num_done = _kept_answers(prompts, path, batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for start in range(num_done, len(prompts), batch):
            asked = prompts[start : start + batch]
            temperature = temperatures[start // batch % len(temperatures)]
            answers = answer([prompt.ids for prompt in asked], temperature)
            records = _records(asked, answers, temperature)
            file.write("".join(json.dumps(record) + "\n" for record in records))
            file.flush()
            if report is not None:
                report(start + len(asked))


def _kept_answers(prompts: Sequence[Prompt], path: Path, batch: int) -> int:
    """How many answers of whole batches are there; what follows them is cut off."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    asked = [json.loads(line)["prompt"] for line in whole]
    if len(asked) > len(prompts) or asked != [prompt.ids for prompt in prompts[: len(asked)]]:
        raise TrainingError(f"{path} has {len(asked)} answers to other prompts than these; name another file")
    num_kept = len(whole) if len(whole) == len(prompts) else len(whole) // batch * batch
    if lines[num_kept:]:
        path.write_text("".join(lines[:num_kept]), encoding="utf-8")
    return num_kept


def _records(asked: Sequence[Prompt], answers: list[list[int]], temperature: float) -> Iterator[dict[str, Any]]:
    if len(answers) != len(asked):
        raise TrainingError(f"{len(answers)} answers came back to {len(asked)} prompts; give one for each")
    for prompt, response in zip(asked, answers, strict=True):
        yield {"domain": prompt.domain, "prompt": prompt.ids, "response": response, "temperature": temperature}


def _encode(record: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if "text" in record:
        ids: list[int] = tokenizer(record["text"])["input_ids"]
        return ids[:TEXT_TOKENS]
    if not tokenizer.chat_template:
        return list(tokenizer(record["prompt"])["input_ids"])
    turns = [{"role": "user", "content": record["prompt"]}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
