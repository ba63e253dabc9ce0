"""Which token ids are worth drafting: counts over texts, or over what the target itself said.

Counting the target's own answers ranks ids by how often they are to be guessed, which raw text only approximates
(FR-Spec, arXiv 2502.14856; VocabTrim, arXiv 2506.22694). Does not know the files that the result goes into.
"""

from __future__ import annotations

import io
import json
import lzma
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from evodraft.drafters.vocabulary import ranked_ids
from evodraft.errors import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK: Final = 512  # records that are tokenised together

Words = str | list[int]  # a text, or token ids
Extract = Callable[[Mapping[str, Any]], list[Words]]


def texts_of(record: Mapping[str, Any]) -> list[Words]:
    """What a record of a corpus says: `text`, or `prompt` and `response`.

    >>> texts_of({"prompt": "Who?", "response": "Me."})
    ['Who?', 'Me.']
    """
    return [record["text"]] if "text" in record else [record["prompt"], record["response"]]


def answers_of(record: Mapping[str, Any]) -> list[Words]:
    """What a model said: `response`, as text or as token ids."""
    return [record["response"]]


def count_file(
    path: Path,
    extract: Extract,
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    group_by: str | None = None,
    told: Callable[[int], None] = lambda num_bytes: None,
) -> dict[str, torch.Tensor]:  # group -> [vocab] int64
    """How often each id occurs in a file of JSON lines, plain or .xz; `told` hears how many bytes of it are read.

    Records are of one group if they have the same value of the field `group_by`; None = all of them are.

    Raises TrainingError for a file that is missing, damaged, or made for another vocabulary.
    """
    counts: dict[str, torch.Tensor] = {}
    records = _records(path, told)
    try:
        while chunk := list(islice(records, _CHUNK)):
            words: dict[str, list[Words]] = {}
            for record in chunk:
                words.setdefault(str(record[group_by]) if group_by else "", []).extend(extract(record))
            for group, pieces in words.items():
                found = count_ids(_tokenised(pieces, tokenizer), vocab_size)
                counts[group] = counts[group] + found if group in counts else found
    except FileNotFoundError as error:
        raise TrainingError(f"there is no file {path}; check the path") from error
    except (KeyError, TypeError, AttributeError, ValueError, EOFError, lzma.LZMAError) as error:
        raise TrainingError(
            f"{path} does not hold JSON lines with the fields that are asked for ({type(error).__name__}: {error}); "
            "check the file and the flags"
        ) from error
    return counts


def count_ids(rows: Iterable[Sequence[int]], vocab_size: int) -> torch.Tensor:  # [vocab] int64
    """How often each id occurs in `rows`, which may be made on the way, by a model for instance.

    Raises TrainingError for ids outside of the vocabulary.

    >>> count_ids([[1, 1], [3]], 4).tolist()
    [0, 2, 0, 1]
    """
    ids = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64)
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise TrainingError(
            f"token ids {int(ids.min())} .. {int(ids.max())} are counted and the target has 0 .. {vocab_size - 1}; "
            "count what was tokenised with the target's tokenizer"
        )
    return torch.bincount(ids, minlength=vocab_size)


def balanced(groups: Mapping[str, torch.Tensor]) -> torch.Tensor:  # group -> [vocab] int64; -> [vocab] float64
    """Frequencies in which every group weighs the same, however much of it was counted.

    >>> balanced({"much": torch.tensor([6, 2]), "little": torch.tensor([0, 1])}).tolist()
    [0.375, 0.625]
    """
    shares = [counts.double() / counts.sum().clamp(min=1) for counts in groups.values()]
    return torch.stack(shares).mean(dim=0)


def most_frequent(
    counts: torch.Tensor,  # [vocab], or frequencies
    size: int,
    required: Collection[int],
) -> list[int]:
    """`size` ids, the most frequent first, ties to the lowest id; the `required` ones are among them.

    Raises TrainingError if the vocabulary has fewer, and ConfigError if `size` does not hold the required ids.

    >>> most_frequent(torch.tensor([0, 4, 4, 9, 1]), size=3, required=[4])
    [3, 1, 4]
    """
    if not 1 <= size <= len(counts):
        raise TrainingError(f"{size} ids cannot be taken of {len(counts)}; take 1 to {len(counts)}")
    ranked: list[int] = counts.argsort(descending=True, stable=True).tolist()
    return ranked_ids(ranked, required, size)


def token_share(
    counts: torch.Tensor,  # [vocab] int64
    ids: Sequence[int],
) -> float:
    """The share of all counted tokens that are among `ids`."""
    return float(counts[list(ids)].sum() / counts.sum().clamp(min=1))


def _tokenised(words: Sequence[Words], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    texts = [piece for piece in words if isinstance(piece, str)]
    yield from (piece for piece in words if not isinstance(piece, str))
    if texts:
        encoded: Any = tokenizer(texts, add_special_tokens=False, verbose=False)
        yield from encoded["input_ids"]


def _records(path: Path, told: Callable[[int], None]) -> Iterator[Mapping[str, Any]]:
    with (
        path.open("rb") as raw,
        lzma.open(raw) if path.suffix == ".xz" else nullcontext(raw) as stored,
        io.TextIOWrapper(stored, encoding="utf-8") as lines,
    ):
        for line in lines:
            yield json.loads(line)
            told(raw.tell())
