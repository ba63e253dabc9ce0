"""Read the corpora, format them as documents, tokenise them into flat files, and sample training batches.

A corpus folder holds `<domain>.<train|chat>.jsonl.xz` and, held out, `<domain>.<valid|chat.valid>.jsonl.xz`, one JSON
object a line: `text` or `prompt` + `response`, and `source`. Does not know: what the batches are used for.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import os
import re
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
import torch

from evodraft.errors import TrainingError
from evodraft.training.tasks import NUM_DOCUMENTS, NUM_HELD_OUT, examples
from evodraft.training.tokenizer import ASSISTANT, END, SEPARATOR, SPECIAL_TOKENS, USER, special_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from transformers import PreTrainedTokenizerFast

    from evodraft.training.mix import Kind, Mix, Source

Split = Literal["train", "valid"]
TokenArray = np.ndarray[tuple[int], np.dtype[np.uint16]]
GOLDEN_RATIO: float = math.sqrt(1.25) - 0.5
PROMPT_TOKENS = 32
_TURN = re.compile(r"^(A|B|User|Assistant): ", re.MULTILINE)
_SPECIAL = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))


class Turn(NamedTuple):
    """One message of a dialogue; `role` is "user" or "assistant"."""

    role: str
    content: str


def format_chat(turns: Sequence[Turn]) -> str:
    """The text of a dialogue in the tokenizer's chat format, without the separator that begins a document."""
    marks = {"user": USER, "assistant": ASSISTANT}
    return "".join(marks[turn.role] + plain(turn.content) + END for turn in turns)


def plain(text: str) -> str:
    """`text` without the spellings of special tokens, so that content cannot act as structure."""
    return _SPECIAL.sub("", text)


def parse_dialogue(text: str) -> list[Turn]:
    """Turns of a transcript whose lines begin with "A: "/"B: " or "User: "/"Assistant: "; empty if it is none."""
    pieces = _TURN.split(text)
    if pieces[0].strip() or len(pieces) < 5:
        return []
    first = pieces[1]
    names, contents = pieces[1::2], pieces[2::2]
    pairs = zip(names, contents, strict=True)
    return [Turn("user" if name == first else "assistant", content.strip()) for name, content in pairs]


def read_documents(corpus: Path, source: Source, split: Split) -> Iterator[str]:
    """Formatted documents of one source. Raises `TrainingError` when its file is missing or damaged."""
    if source.kind == "task":
        for example in islice(examples(source.prefix, split), NUM_DOCUMENTS if split == "train" else NUM_HELD_OUT):
            yield format_chat([Turn("user", example.prompt), Turn("assistant", example.answer)])
        return
    for record in _read_records(corpus / corpus_file(source.domain, source.kind, split)):
        if not record["source"].startswith(source.prefix):
            continue
        document = _format_record(record)
        if source.keeps(document):
            yield document


def corpus_file(domain: str, kind: Kind, split: Split) -> str:
    """The name of the file that holds one kind of documents of one domain."""
    stems = {
        ("text", "train"): "train",
        ("chat", "train"): "chat",
        ("text", "valid"): "valid",
        ("chat", "valid"): "chat.valid",
    }
    return f"{domain}.{stems[kind, split]}.jsonl.xz"


def sample_texts(corpus: Path, mix: Mix, num_chars: int) -> Iterator[str]:
    """Training documents, each source up to its share of `num_chars` characters; for the tokenizer."""
    for source in mix.sources:
        budget = mix.shares[source.slug] * num_chars
        for document in read_documents(corpus, source, "train"):
            if budget <= 0:
                break
            budget -= len(document)
            yield _SPECIAL.sub("\n", document)


def tokenise(tokenizer: PreTrainedTokenizerFast, documents: Iterable[str], path: Path) -> int:
    """Write `documents` to `path` as flat uint16 ids, each preceded by the separator; returns the number of ids.

    The file appears only when it is complete. Raises `TrainingError` for a vocabulary beyond 16 bits.
    """
    if len(tokenizer) > 1 << 16:
        raise TrainingError(f"{len(tokenizer)} vocabulary entries do not fit 16 bits; at most {1 << 16} do")
    separator = special_ids(tokenizer).separator
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    num_tokens = 0
    iterator = iter(documents)
    with partial.open("wb") as file:
        while chunk := list(islice(iterator, 512)):
            for ids in tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]:
                np.asarray([separator, *ids], dtype=np.uint16).tofile(file)
                num_tokens += len(ids) + 1
    os.replace(partial, path)
    return num_tokens


def build_streams(
    corpus: Path, mix: Mix, tokenizer: PreTrainedTokenizerFast, cache: Path, split: Split = "train"
) -> dict[str, TokenArray]:
    """Slug -> memory-mapped ids of every source of `mix`, tokenised into `cache` where not there yet.

    A held-out split may lack a source, which is then left out; an empty training source is a `TrainingError`.
    """
    key = _fingerprint(tokenizer.backend_tokenizer.to_str().encode())
    streams: dict[str, TokenArray] = {}
    for source in mix.sources:
        path = cache / key / split / f"{source.slug}.bin"
        if not path.is_file():
            tokenise(tokenizer, read_documents(corpus, source, split), path)
        if path.stat().st_size:
            streams[source.slug] = np.memmap(path, dtype=np.uint16, mode="r")
        elif split == "train":
            raise TrainingError(f"no document of {corpus} has a source beginning with {source.prefix!r}")
    return streams


def held_out_prompts(
    corpus: Path, mix: Mix, tokenizer: PreTrainedTokenizerFast, per_domain: int
) -> dict[str, list[list[int]]]:
    """Domain -> ids of up to `per_domain` held-out prompts, taken in turn from its measured sources.

    A prompt is a document up to its first answer; of text without turns, its first `PROMPT_TOKENS` ids.
    """
    prompts: dict[str, list[list[int]]] = {}
    for domain in dict.fromkeys(source.domain for source in mix.sources if source.kind != "task"):
        chosen = [source for source in mix.sources if source.domain == domain and source.slug in mix.measured]
        documents = [list(islice(read_documents(corpus, source, "valid"), per_domain)) for source in chosen]
        in_turn = (document for group in zip_longest(*documents) for document in group if document is not None)
        prompts[domain] = [_prompt_ids(tokenizer, document) for document in islice(in_turn, per_domain)]
    return prompts


def hash_streams(streams: Mapping[str, TokenArray]) -> str:
    """SHA-256 over names and ids: the identity of the data a model has seen."""
    digest = hashlib.sha256()
    for slug in sorted(streams):
        digest.update(slug.encode())
        digest.update(streams[slug].tobytes())
    return digest.hexdigest()


class BatchSampler:
    """Endless training rows: sources in the proportions of `shares`, windows spread evenly over each stream.

    Both choices follow golden-ratio sequences started at random by `generator`, so coverage is even from the
    first row on. Owns its counters: `state` and `restore` make a continued run draw the same rows.
    """

    def __init__(
        self, streams: Mapping[str, TokenArray], shares: Mapping[str, float], generator: torch.Generator
    ) -> None:
        self._slugs = list(shares)
        self._streams = [streams[slug] for slug in shares]
        self.set_shares(shares)
        self._starts = torch.rand(len(shares) + 1, generator=generator, dtype=torch.float64).tolist()
        self._counts = [0] * (len(shares) + 1)
        first = {int(stream[0]) for stream in self._streams}
        if len(first) != 1:
            raise TrainingError(f"the streams begin with different separators {sorted(first)}; tokenise them anew")
        self._heads = [np.flatnonzero(stream == stream[0]) for stream in self._streams]

    def next_batch(self, batch: int, context: int) -> torch.Tensor:
        """Token ids  # [batch, context + 1]: inputs and, shifted by one, labels."""
        rows = [self._next_row(context + 1) for _ in range(batch)]
        return torch.from_numpy(np.stack(rows))

    def set_shares(self, shares: Mapping[str, float]) -> None:
        """Draw the next rows in other proportions of the same sources; a share may be zero."""
        self._edges = np.cumsum([shares[slug] for slug in self._slugs])

    def state(self) -> dict[str, list[float]]:
        """What `restore` needs to continue with the row after the last one drawn."""
        return {"starts": list(self._starts), "counts": [float(count) for count in self._counts]}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """Continue from a `state` of a sampler over the same streams; raises `TrainingError` for another one's."""
        if len(state["counts"]) != len(self._counts):
            raise TrainingError(
                f"the state counts {len(state['counts']) - 1} sources, the mix has {len(self._counts) - 1}"
            )
        self._starts = [float(start) for start in state["starts"]]
        self._counts = [int(count) for count in state["counts"]]

    def _next_row(self, length: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        index = min(int(np.searchsorted(self._edges, self._draw(0), side="right")), len(self._streams) - 1)
        stream, heads = self._streams[index], self._heads[index]
        offset = int(self._draw(index + 1) * len(stream))
        head = int(heads[np.searchsorted(heads, offset, side="right") - 1])
        start = head if offset - head < length else offset  # a row begins with its document where that is near
        row = np.take(stream, np.arange(start, start + length), mode="wrap")
        return cast("np.ndarray[tuple[int], np.dtype[np.int64]]", row.astype(np.int64))

    def _draw(self, counter: int) -> float:
        value: float = self._starts[counter] + GOLDEN_RATIO * self._counts[counter]
        self._counts[counter] += 1
        return value % 1.0


def _prompt_ids(tokenizer: PreTrainedTokenizerFast, document: str) -> list[int]:
    head, mark, _ = document.partition(ASSISTANT)
    ids: list[int] = tokenizer.encode(SEPARATOR + head + mark, add_special_tokens=False)
    return ids if mark else ids[:PROMPT_TOKENS]


def _read_records(path: Path) -> Iterator[dict[str, str]]:
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except FileNotFoundError as error:
        raise TrainingError(f"no corpus file {path}; point --corpus at the folder that holds it") from error
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise TrainingError(f"{path} is damaged ({error}); fetch it again") from error


def _format_record(record: Mapping[str, str]) -> str:
    if "prompt" in record:
        return format_chat([Turn("user", record["prompt"]), Turn("assistant", record["response"])])
    turns = parse_dialogue(record["text"])
    return format_chat(turns) if turns else plain(record["text"])


def _fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
