"""Which token ids a drafter may say, by name. A new way to choose them is an entry of the table.

`build` takes (config, VocabularyContext) and returns a Vocabulary. Does not know drafters or output matrices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from evodraft.config import Entry, check_range
from evodraft.drafters.token_map import read_token_map
from evodraft.errors import ConfigError, ModelMismatchError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A part of the target's token ids, fixed before anything is drawn (X9). Raises ConfigError unless they ascend."""

    ids: tuple[int, ...]  # ascending, distinct
    source: str  # where they come from, for reports

    def __post_init__(self) -> None:
        if not self.ids or self.ids[0] < 0 or any(one >= other for one, other in pairwise(self.ids)):
            raise ConfigError(
                f"the {len(self.ids)} ids of vocabulary {self.source!r} are none, negative or do not ascend; "
                "sort them, each id once"
            )

    @property
    def size(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class VocabularyContext:
    """What is known of the target when ids are chosen."""

    vocab_size: int  # columns of the target's laws
    required: frozenset[int] = frozenset()  # ids without which no draft can end or change speaker
    bundled: Path | None = None  # a token map that ships with the target


@dataclass(frozen=True, slots=True)
class StaticConfig:
    """Options of the static vocabulary."""

    path: str | Path | None = None  # of a token map; None = the one bundled with the target
    size: int | None = None  # ids in all: the first of the map, and those that must be in; None = all of the map

    def __post_init__(self) -> None:
        check_range(self, "size", 1, 2**31 - 1)


def static_vocabulary(config: StaticConfig, context: VocabularyContext) -> Vocabulary:
    """The ids of a token map, which never change, and those that must be in.

    Raises ConfigError without a token map, WeightsError for a damaged one, ModelMismatchError for another model's.
    """
    path = context.bundled if config.path is None else Path(config.path).expanduser()
    if path is None:
        raise ConfigError(
            "vocabulary 'static' needs a token map and this target has none bundled; make one with "
            "'evodraft train vocabulary --target MODEL --texts FILE.jsonl --out FILE.json' and write "
            "vocabulary='static:FILE.json'"
        )
    ranked = read_token_map(path)
    check_fits(ranked, context.vocab_size, str(path))
    size = len(ranked) + len(context.required.difference(ranked)) if config.size is None else config.size
    ids = ranked_ids(ranked, context.required, size)
    return Vocabulary(tuple(sorted(ids)), f"{path.name}, {len(ids)} of {context.vocab_size} ids")


def check_fits(ids: Sequence[int], vocab_size: int, source: str) -> None:
    """Raises ModelMismatchError for ids that the target does not have."""
    if min(ids) < 0 or max(ids) >= vocab_size:
        raise ModelMismatchError(
            f"{source} lists the token ids {min(ids)} .. {max(ids)} and the target has 0 .. {vocab_size - 1}; it was "
            "made for another model: make one for this target with 'evodraft train vocabulary'"
        )


def ranked_ids(ranked: Sequence[int], required: Collection[int], size: int) -> list[int]:
    """The first of `ranked`, `size` with the `required` ids among them; those that are not ranked come last.

    Raises ConfigError if `size` does not hold the required ids.

    >>> ranked_ids([5, 3, 8, 1], required=[1, 9], size=4)
    [5, 3, 1, 9]
    """
    wanted = set(required)
    if size < len(wanted):
        raise ConfigError(
            f"size={size} does not hold the {len(wanted)} ids that must be in (special and chat tokens); "
            f"take at least {len(wanted)}"
        )
    free = size - len(wanted)
    others = [token_id for token_id in ranked if token_id not in wanted][:free]
    kept = wanted.union(others)
    return [*(token_id for token_id in ranked if token_id in kept), *sorted(wanted.difference(ranked))]


def required_ids(
    tokenizer: PreTrainedTokenizerBase | None, vocab_size: int, ends: Collection[int] = ()
) -> frozenset[int]:
    """Ids below `vocab_size` that every vocabulary needs: `ends`, the tokenizer's special tokens, and added ones that
    its chat template names. Others that were only reserved are left out: some tokenizers have thousands.

    >>> from evodraft.testing.tokenizers import byte_tokenizer
    >>> sorted(required_ids(byte_tokenizer(), 264, ends=[7]))
    [7, 256]
    """
    named = [*ends]
    if tokenizer is not None:
        template = str(tokenizer.chat_template)
        named += [token_id for token, token_id in tokenizer.get_added_vocab().items() if token in template]
        named += tokenizer.all_special_ids
    return frozenset(token_id for token_id in named if token_id < vocab_size)


VOCABULARIES: Final[Mapping[str, Entry]] = {
    "static": Entry(StaticConfig, static_vocabulary),
}
