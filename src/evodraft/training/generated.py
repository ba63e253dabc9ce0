"""Training rows from answers that the target itself wrote: documents of JSON lines, packed without padding.

A line has `domain`, `prompt` and `response` (token ids). Does not know: who wrote the lines, what learns from the rows.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import torch

from evodraft.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from evodraft.training.data import BatchSampler

LOOKAHEAD: Final = 64
HELD_OUT_OF: Final = 40


class Document(NamedTuple):
    """A prompt and its answer."""

    domain: str
    ids: list[int]  # of the prompt and the answer
    is_held_out: bool


class Rows(Protocol):
    """An endless source of training rows that can go on where it was."""

    def next_batch(self, batch: int, context: int) -> torch.Tensor:
        """Token ids  # [batch, context]."""

    def state(self) -> dict[str, Any]:
        """JSON-ready, for `restore`."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after the last row before `state` was taken."""


def read_documents(paths: Sequence[Path], domains: Collection[str] | None = None) -> list[Document]:
    """Documents of `paths` in order; a file that still grows is read up to its last whole line.

    One prompt in `HELD_OUT_OF` is held out, with all its answers. Raises `TrainingError` for a line of another kind and
    when none is left.
    """
    documents = [document for path in paths for document in _read_file(path)]
    chosen = [document for document in documents if domains is None or document.domain in domains]
    if not chosen:
        raise TrainingError(
            f"{len(documents)} documents, and none of the domains {domains and sorted(domains)}; there are "
            f"{sorted({document.domain for document in documents})}: name one of those or generate answers first"
        )
    return chosen


def hash_documents(documents: Sequence[Document]) -> str:
    """SHA-256 over all ids in order: the identity of what a head has learned from."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps([document.domain, document.ids]).encode())
    return digest.hexdigest()


class PackedRows:
    """Rows of whole documents in an order drawn anew each epoch; the beginning of another one fills what is left."""

    def __init__(self, documents: Sequence[Sequence[int]], seed: int) -> None:
        self._documents = [list(document) for document in documents if document]
        if not self._documents:
            raise TrainingError("there are no documents to make rows of; generate answers first")
        self._seed, self._epoch = seed, 0
        self._queue: list[int] = []

    def next_batch(self, batch: int, context: int) -> torch.Tensor:
        """Token ids  # [batch, context]."""
        return torch.tensor([self._next_row(context) for _ in range(batch)])

    def state(self) -> dict[str, Any]:
        """The order that is left of this epoch."""
        return {"epoch": self._epoch, "queue": list(self._queue), "num_documents": len(self._documents)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Documents that were added at the end since join in the next epoch; fewer raise `TrainingError`."""
        if state["num_documents"] > len(self._documents):
            raise TrainingError(
                f"the run began with {state['num_documents']} documents and there are {len(self._documents)} now; "
                "give all files of the first start"
            )
        self._epoch, self._queue = int(state["epoch"]), [int(index) for index in state["queue"]]

    def _next_row(self, context: int) -> list[int]:
        row = self._documents[self._take(0)][-context:]  # of a longer one the end, where the answer is
        while room := context - len(row):
            row = row + self._filling(room)
        return row

    def _filling(self, room: int) -> list[int]:
        """The longest of the next documents that fits, or the beginning of one that keeps its turn."""
        sizes = [len(self._documents[index]) for index in self._queue[:LOOKAHEAD]]
        fitting = max(((size, place) for place, size in enumerate(sizes) if size <= room), default=None)
        if fitting is None:
            self._refill()
            return self._documents[self._queue[0]][:room]
        return self._documents[self._take(fitting[1])]

    def _take(self, place: int) -> int:
        self._refill()
        return self._queue.pop(place)

    def _refill(self) -> None:
        if len(self._queue) < LOOKAHEAD:
            self._epoch += 1
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
            self._queue += torch.randperm(len(self._documents), generator=generator).tolist()


class MixedRows:
    """Rows of documents and, `corpus_share` of them, of a corpus if there is one."""

    def __init__(self, documents: PackedRows, corpus: BatchSampler | None, corpus_share: float) -> None:
        if not 0 <= corpus_share < 1 or (corpus is None and corpus_share):
            raise TrainingError(f"corpus_share is {corpus_share}; give 0 to below 1, and 0 without a corpus")
        self.corpus_share = corpus_share
        self._documents, self._corpus = documents, corpus

    def next_batch(self, batch: int, context: int) -> torch.Tensor:
        """Token ids  # [batch, context]."""
        num_corpus = round(batch * self.corpus_share)
        rows = [self._documents.next_batch(batch - num_corpus, context)]
        if self._corpus is not None and num_corpus:
            rows.append(self._corpus.next_batch(num_corpus, context - 1))
        return torch.cat(rows)

    def state(self) -> dict[str, Any]:
        """Of both parts."""
        return {"documents": self._documents.state(), "corpus": self._corpus and self._corpus.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Both parts continue; raises `TrainingError` if only one of them has a corpus."""
        if (state["corpus"] is None) != (self._corpus is None):
            raise TrainingError("the run began with another choice of --corpus; resume it with the same one")
        self._documents.restore(state["documents"])
        if self._corpus is not None:
            self._corpus.restore(state["corpus"])


def _read_file(path: Path) -> Iterator[Document]:
    try:
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                record = json.loads(line)
                yield Document(record["domain"], record["prompt"] + record["response"], _is_held_out(record["prompt"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} has a line without `domain`, `prompt` and `response` ({error}); generate the answers again"
        ) from error


def _is_held_out(prompt: list[int]) -> bool:
    return zlib.crc32(json.dumps(prompt).encode()) % HELD_OUT_OF == 0
