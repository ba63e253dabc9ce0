"""Prompts of a suite: chosen from its sources, then made token ids. Does not know who answers them.

No prompt is chosen twice, and the same suite, data and seed choose the same ones. Where a condition wants prompts of an
exact length, a longer one ends earlier and a shorter one gets other text of its group in front: prompts that were not
chosen, and passages written for that.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from evodraft.bench.jsonl import read_records
from evodraft.bench.sources import Prompt, Wanted, own_passages, read_source
from evodraft.errors import BenchError
from evodraft.text import encoded, encoded_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evodraft.bench.suites import Condition, Suite

__all__ = ["Prompt", "collect", "encode", "overrides_for"]

_CHARS_PER_TOKEN = 16  # more than any tokenizer makes one token of, on average
_SEPARATOR = "\n\n"
_TEXT_FIELDS = ("prompt", "text", "turns")
_GROUP_FIELDS = ("group", "domain", "category")
_ONLY_GROUP = "prompts"  # of a file that names none


class Frame(NamedTuple):
    """Tokens that a chat template, or the tokenizer, puts around any text."""

    num_head: int
    num_tail: int


# --------------------------------------------------------------------------------
# Choosing
# --------------------------------------------------------------------------------


def collect(suite: Suite, data: Path | None = None) -> list[Prompt]:
    """The prompts of a suite: group by group, or for a stream phase by phase, `prompts_per_group` each.

    A group takes its prompts in turn from the sources that have some for it, from each in an order that the suite's
    seed decides. Raises BenchError if a group has too few different prompts.
    """
    wanted = Wanted(suite.groups, max(map(suite.num_prompts, suite.groups)), suite.seed, data)
    read = [list(read_source(source.kind, source.options, wanted)) for source in suite.sources]
    seen: set[Hashable] = set()
    chosen: dict[str, list[Prompt]] = {}
    for group in suite.groups:
        found = list(_different(_in_turn(read, group, suite.seed), seen))
        num_wanted = suite.num_prompts(group)
        if len(found) < num_wanted:
            raise BenchError(
                f"suite {suite.name}: group {group!r} has {len(found)} different prompts in "
                f"{', '.join(source.label for source in suite.sources)}, but {num_wanted} are wanted; lower "
                "prompts_per_group, or name a source that has more"
            )
        chosen[group] = _with_before(found[:num_wanted], found[num_wanted:], suite.conditions)
    streams = {group: iter(prompts) for group, prompts in chosen.items()}
    order = suite.phases or suite.groups
    return [next(streams[group]) for group in order for _ in range(suite.prompts_per_group)]


def overrides_for(path: Path) -> dict[str, object]:
    """Keywords of `load_suite` that put the prompts of a JSONL file in the place of a suite's own.

    The text is in `prompt`, `text` or `turns`, the group in `group`, `domain` or `category`, as the first record has
    it; without any of these all are one group. `prompts_per_group` is what the smallest group has. Raises BenchError
    for a file that has no such text.
    """
    records = list(read_records(path))
    first = records[0].fields if records else {}
    text = next((name for name in _TEXT_FIELDS if name in first), None)
    if text is None:
        raise BenchError(f"{path} has none of the fields {', '.join(_TEXT_FIELDS)} in its first record; add one")
    options: dict[str, object] = {"kind": "jsonl", "path": str(path), "text": text}
    field = next((name for name in _GROUP_FIELDS if name in first), None)
    if field is None:
        options["group"] = _ONLY_GROUP
        groups: tuple[str, ...] = (_ONLY_GROUP,)
    else:
        options["group_field"] = field
        groups = tuple(dict.fromkeys(str(record.fields.get(field)) for record in records))
    sizes = Counter(str(record.fields.get(field or "")) for record in records)  # without a field all are one group
    return {"sources": [options], "groups": groups, "phases": (), "prompts_per_group": min(sizes.values())}


def _in_turn(read: Sequence[Sequence[Prompt]], group: str, seed: int) -> Iterator[Prompt]:
    """The group's prompts, one of every source and again, each source shuffled on its own."""
    shuffled = []
    for number, prompts in enumerate(read):
        own = [prompt for prompt in prompts if prompt.group == group]
        random.Random(f"{seed} {group} {number}").shuffle(own)
        shuffled.append(own)
    return (prompt for prompt in chain.from_iterable(zip_longest(*shuffled)) if prompt is not None)


def _different(prompts: Iterator[Prompt], seen: set[Hashable]) -> Iterator[Prompt]:
    """Prompts whose text, white space aside, is not in `seen` yet; puts them there."""
    for prompt in prompts:
        key = " ".join(prompt.text.split()) if prompt.token_ids is None else prompt.token_ids
        if key not in seen:
            seen.add(key)
            yield prompt


def _with_before(chosen: list[Prompt], rest: Sequence[Prompt], conditions: Sequence[Condition]) -> list[Prompt]:
    """The chosen prompts, with what may stand before them if a condition wants prompts of a certain length.

    All have the same texts before them, but each begins with another one.
    """
    num_tokens = max((condition.prompt_tokens or 0 for condition in conditions), default=0)
    if not num_tokens:
        return chosen
    pool, num_chars = [], 0
    for text in chain(own_passages(chosen[0].group), (prompt.text for prompt in rest if prompt.token_ids is None)):
        if num_chars < num_tokens * _CHARS_PER_TOKEN:
            pool.append(text)
            num_chars += len(text)
    starts = [number * len(pool) // len(chosen) for number in range(len(chosen))]
    return [
        replace(prompt, before="".join(text + _SEPARATOR for text in (*pool[start:], *pool[:start])))
        for prompt, start in zip(chosen, starts, strict=True)
    ]


# --------------------------------------------------------------------------------
# Token ids
# --------------------------------------------------------------------------------


def encode(
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase | None,
    condition: Condition,
    vocab_size: int,
    limit: int,
) -> list[tuple[int, ...]]:
    """The token ids of every prompt under a condition.

    Args:
        prompts: as `collect` hands them out.
        tokenizer: of the target; None if all prompts are token ids already.
        condition: with `prompt_tokens`, all prompts get exactly so many.
        vocab_size: ids of the target are 0 .. vocab_size - 1.
        limit: tokens that a prompt may have: the target's context less what is to be generated.

    Raises BenchError for a prompt that is too long, that cannot be filled up, or that equals another one after cutting.
    """
    encoder = _Encoder(tokenizer, vocab_size)
    ids = []
    for number, prompt in enumerate(prompts, 1):
        what = f"prompt {number} (group {prompt.group!r}, condition {condition.name!r})"
        own = encoder.ids(prompt, what)
        if condition.prompt_tokens is not None:
            own = encoder.sized(own, prompt, condition.prompt_tokens, what)
        if len(own) > limit:
            raise BenchError(
                f"{what} has {len(own)} tokens, but {limit} fit into the context beside the answer; lower "
                "max_new_tokens or prompt_tokens, or leave long prompts out with max_chars of their source"
            )
        ids.append(own)
    _check_different(ids, condition)
    return ids


class _Encoder:
    """Prompts to ids of one target."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        special = set() if tokenizer is None else set(tokenizer.all_special_ids)
        self._plain_ids = [token_id for token_id in range(vocab_size) if token_id not in special]

    def ids(self, prompt: Prompt, what: str) -> tuple[int, ...]:
        """The whole prompt, with chat template and special tokens."""
        if prompt.token_ids is not None:
            return tuple(self._plain_ids[raw % len(self._plain_ids)] for raw in prompt.token_ids)
        ids = tuple(self._encoded(prompt.text, prompt.is_chat))
        if not ids:
            raise BenchError(f"{what} has no tokens; leave it out")
        if max(ids) >= self._vocab_size:
            raise BenchError(
                f"{what} has the token id {max(ids)}, but the target knows 0 .. {self._vocab_size - 1}; "
                "take the tokenizer that belongs to it"
            )
        return ids

    def sized(self, ids: tuple[int, ...], prompt: Prompt, num_tokens: int, what: str) -> tuple[int, ...]:
        """`ids` with exactly `num_tokens`: the end of the text cut off, or the end of other text put in front of it."""
        frame = self._frame(prompt)
        room = num_tokens - frame.num_head - frame.num_tail
        if room < 1:
            raise BenchError(f"{what}: prompt_tokens={num_tokens} leave no room in the chat template; raise them")
        head, tail = ids[: frame.num_head], ids[len(ids) - frame.num_tail :]
        body = ids[frame.num_head : len(ids) - frame.num_tail][:room]
        before = self._before(prompt)
        num_missing = room - len(body)
        if num_missing > len(before):
            raise BenchError(
                f"{what} has {len(ids)} tokens and {len(before)} of other text of its group to fill it up with, but "
                f"{num_tokens} are wanted; name a source with more text, or lower prompt_tokens or prompts_per_group"
            )
        return head + before[len(before) - num_missing :] + body + tail

    def _before(self, prompt: Prompt) -> tuple[int, ...]:
        if self._tokenizer is None or not prompt.before:
            return ()
        return tuple(self._tokenizer(prompt.before, add_special_tokens=False, verbose=False)["input_ids"])

    def _frame(self, prompt: Prompt) -> Frame:
        """What two texts that differ everywhere have in common."""
        if prompt.token_ids is not None:
            return Frame(0, 0)
        first, second = (self._encoded(text, prompt.is_chat) for text in ("0", "x"))
        return Frame(_num_common(first, second), _num_common(first[::-1], second[::-1]))

    def _encoded(self, text: str, is_chat: bool) -> list[int]:
        if self._tokenizer is None:
            raise BenchError("these prompts are text, but the target has no tokenizer; ask them as random_ids")
        if is_chat and self._tokenizer.chat_template:
            return encoded_chat(self._tokenizer, [{"role": "user", "content": text}])
        return encoded(self._tokenizer, text)


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest beginning that both share."""
    pairs = zip(first, second, strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _check_different(ids: Sequence[tuple[int, ...]], condition: Condition) -> None:
    numbers: dict[tuple[int, ...], int] = {}
    for number, own in enumerate(ids, 1):
        if numbers.setdefault(own, number) != number:
            raise BenchError(
                f"prompts {numbers[own]} and {number} are the same tokens under condition {condition.name!r}; raise "
                "prompt_tokens, or take out one of them"
            )
