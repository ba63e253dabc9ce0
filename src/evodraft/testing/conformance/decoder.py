"""Checks for decoders: slots, widths, roll-back, trees, and that neighbours and chunks do not matter.

Does not know any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from evodraft.errors import CapacityError, ConfigError
from evodraft.testing.conformance.expect import expect, expect_close

if TYPE_CHECKING:
    from evodraft.runtime.base import Decoder, DecoderOutput

_LENGTH = 12
_TREES = ((-1, 0, 0, 1, 2, -1, 4), (-1, 0), (-1, -1, 1))  # the second is a chain
_PATH = (0, 2, 4, 6)  # the longest of the first tree: it must move together
_NO_TREES = (((-1, 1),), ((-1,),), ((-2, 0),))  # for two tokens of one row
_NO_PATHS = ((1, 0), (7,), (-1, 0))  # of the first tree


class MakeDecoder(Protocol):
    """Makes a decoder of one model with empty slots."""

    def __call__(self, num_slots: int, max_length: int) -> Decoder: ...


def check_decoder(make: MakeDecoder, tolerance: float = 1e-4) -> None:
    """Raises AssertionError unless decoders from `make` keep the Decoder protocol.

    `tolerance` bounds how far logits may differ between ways to feed the same tokens.

    >>> from evodraft.testing.table import TableDecoder, TableLM
    >>> table = TableLM.random(vocab_size=4, order=3)
    >>> check_decoder(lambda num_slots, max_length: TableDecoder(table, num_slots, max_length))
    """
    _check_facts(make(3, _LENGTH))
    _check_batch(make, tolerance)
    _check_chunks(make, tolerance)
    _check_crop(make, tolerance)
    _check_release(make, tolerance)
    _check_overflow(make, tolerance)
    _check_taps(make, tolerance)
    _check_trees(make, tolerance)
    _check_select(make, tolerance)


def _check_facts(decoder: Decoder) -> None:
    expect(decoder.num_slots == 3, f"num_slots is {decoder.num_slots}, but 3 were asked for")
    expect(decoder.max_length == _LENGTH, f"max_length is {decoder.max_length}, but {_LENGTH} was asked for")
    expect(decoder.vocab_size >= 2, f"vocab_size is {decoder.vocab_size}; a vocabulary has at least 2 ids")
    expect(decoder.num_layers >= 1, f"num_layers is {decoder.num_layers}; a model has at least 1 layer")
    lengths = [decoder.length(slot) for slot in range(3)]
    expect(lengths == [0, 0, 0], f"slots of a new decoder hold {lengths} tokens instead of none")


def _check_batch(make: MakeDecoder, tolerance: float) -> None:
    """A ragged batch in shuffled slots gives each row what it gets alone."""
    decoder = make(3, _LENGTH)
    texts = [_text(decoder, 5, 1), _text(decoder, 2, 2), _text(decoder, 7, 3)]
    slots = [2, 0, 1]
    together = _logits(_feed(decoder, texts, slots))
    expect(
        tuple(together.shape) == (3, 7, decoder.vocab_size),
        f"logits of a batch of 3 rows x 7 columns have shape {tuple(together.shape)}",
    )
    for row, (text, slot) in enumerate(zip(texts, slots, strict=True)):
        expect(decoder.length(slot) == len(text), f"slot {slot} holds {decoder.length(slot)} of {len(text)} tokens")
        alone = _logits(_feed(make(3, _LENGTH), [text], [0]))[0]
        expect_close(together[row, : len(text)], alone, tolerance, "a row of a ragged batch against the row alone")


def _check_chunks(make: MakeDecoder, tolerance: float) -> None:
    """Token by token, or the same text at once."""
    decoder = make(3, _LENGTH)
    text = _text(decoder, 6, 4)
    whole = _logits(_feed(make(3, _LENGTH), [text], [1]))[0]
    pieces = [_logits(_feed(decoder, [[token_id]], [1]))[0] for token_id in text]
    expect_close(torch.cat(pieces), whole, tolerance, "token by token against the whole text")
    silent = _feed(decoder, [text[:1]], [0], want_logits=False)
    expect(silent.logits is None, "want_logits=False returned logits")
    expect(decoder.length(0) == 1, "want_logits=False did not store the tokens")


def _check_crop(make: MakeDecoder, tolerance: float) -> None:
    """What was cropped leaves no trace, in this slot or another."""
    decoder = make(3, _LENGTH)
    text, wrong = _text(decoder, 6, 5), _text(decoder, 6, 6)
    _feed(decoder, [[*text[:3], *wrong[:3]], text], [0, 2])
    decoder.crop(0, 3)
    expect(decoder.length(0) == 3, f"after crop(0, 3) slot 0 holds {decoder.length(0)} tokens")
    expect(decoder.length(2) == 6, f"crop(0, 3) changed the length of slot 2 to {decoder.length(2)}")
    again = _logits(_feed(decoder, [text[3:]], [0]))[0]
    wanted = _logits(_feed(make(3, _LENGTH), [text], [0]))[0, 3:]
    expect_close(again, wanted, tolerance, "text after a crop against the same text without detour")
    decoder.crop(0, _LENGTH)
    expect(decoder.length(0) == 6, "a crop beyond the end changed the length")


def _check_release(make: MakeDecoder, tolerance: float) -> None:
    decoder = make(3, _LENGTH)
    text = _text(decoder, 5, 7)
    _feed(decoder, [_text(decoder, 8, 8)], [1])
    decoder.release(1)
    expect(decoder.length(1) == 0, f"a released slot holds {decoder.length(1)} tokens")
    reused = _logits(_feed(decoder, [text], [1]))
    expect_close(reused, _logits(_feed(make(3, _LENGTH), [text], [1])), tolerance, "a reused slot against a new one")


def _check_overflow(make: MakeDecoder, tolerance: float) -> None:
    """Too many tokens for one slot change nothing anywhere."""
    decoder = make(3, _LENGTH)
    text = _text(decoder, _LENGTH, 9)
    _feed(decoder, [text[:-1], text[:2]], [0, 1])
    try:
        _feed(decoder, [text[:1], text[:2]], [1, 0])
    except CapacityError:
        lengths = [decoder.length(0), decoder.length(1)]
        expect(lengths == [_LENGTH - 1, 2], f"a refused pass left lengths {lengths} instead of {[_LENGTH - 1, 2]}")
    else:
        raise AssertionError(f"{_LENGTH + 1} tokens went into a slot of {_LENGTH} without CapacityError")
    last = _logits(_feed(decoder, [text[-1:]], [0]))[0]
    wanted = _logits(_feed(make(3, _LENGTH), [text], [0]))[0, -1:]
    expect_close(last, wanted, tolerance, "the last free place after a refused pass")


def _check_taps(make: MakeDecoder, tolerance: float) -> None:
    """Hidden states come for the layers asked for, and do not depend on the way the tokens were fed."""
    decoder = make(3, _LENGTH)
    layers = [0, decoder.num_layers]
    text = _text(decoder, 4, 10)
    whole = _feed(decoder, [text], [0], taps=layers).taps
    expect(sorted(whole) == layers, f"taps {layers} were asked for and {sorted(whole)} came")
    parts = [_feed(decoder, [text[:3]], [1], taps=layers).taps, _feed(decoder, [text[3:]], [1], taps=layers).taps]
    for layer in layers:
        expect(whole[layer].shape[:2] == (1, 4), f"tap {layer} has shape {tuple(whole[layer].shape)}")
        joined = torch.cat([part[layer] for part in parts], dim=1)
        expect_close(joined, whole[layer], tolerance, f"tap {layer} in two chunks against one")


def _check_trees(make: MakeDecoder, tolerance: float) -> None:
    """A node is scored as the end of its path, beside other trees and chains; what is no tree changes nothing."""
    decoder = make(3, _LENGTH)
    slots = [2, 0, 1]
    texts = [_text(decoder, 3 + row, 11 + row) for row in range(3)]
    nodes = [_text(decoder, len(tree), 14 + row) for row, tree in enumerate(_TREES)]
    _feed(decoder, texts, slots)
    for parents in _NO_TREES:
        try:
            _feed(decoder, [[0, 0]], [2], parents=parents)
        except ConfigError:
            expect(decoder.length(2) == 3, f"refused parents left a length of {decoder.length(2)} instead of 3")
        else:
            raise AssertionError(f"parents {parents[0]} of two tokens are no tree and raised no ConfigError")
    logits = _logits(_feed(decoder, nodes, slots, parents=_TREES))
    for row, (text, ids, tree) in enumerate(zip(texts, nodes, _TREES, strict=True)):
        for node in range(len(tree)):
            plain = [*text, *(ids[step] for step in _path_to(tree, node))]
            wanted = _logits(_feed(make(3, _LENGTH), [plain], [0]))[0, -1]
            expect_close(logits[row, node], wanted, tolerance, f"node {node} of {tree} against its path as plain text")


def _check_select(make: MakeDecoder, tolerance: float) -> None:
    """What is left of a tree goes on as plain text, and neighbours do not notice."""
    decoder = make(3, _LENGTH)
    text, nodes, more = _text(decoder, 3, 17), _text(decoder, len(_TREES[0]), 25), _text(decoder, 2, 19)
    _feed(decoder, [text, text], [0, 1])
    _feed(decoder, [nodes], [1], parents=_TREES[:1])
    for path in _NO_PATHS:
        try:
            decoder.select(1, 3, path)
        except ConfigError:
            expect(decoder.length(1) == 10, f"a refused path left a length of {decoder.length(1)} instead of 10")
        else:
            raise AssertionError(f"nodes {list(path)} are no path of {_TREES[0]} and raised no ConfigError")
    decoder.select(1, 3, _PATH)
    expect(decoder.length(1) == 7, f"after a path of 4 nodes a slot of 3 tokens holds {decoder.length(1)}")
    expect(decoder.length(0) == 3, f"select in slot 1 changed the length of slot 0 to {decoder.length(0)}")
    plain = [*text, *(nodes[node] for node in _PATH), *more]
    wanted = _logits(_feed(make(3, _LENGTH), [plain], [0]))[0, -len(more) :]
    expect_close(_logits(_feed(decoder, [more], [1]))[0], wanted, tolerance, "text after a selected path")


def _path_to(tree: Sequence[int], node: int) -> list[int]:
    path = [node]
    while tree[path[0]] >= 0:
        path.insert(0, tree[path[0]])
    return path


def _text(decoder: Decoder, length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(decoder.vocab_size, (length,), generator=generator).tolist()
    return ids


def _feed(
    decoder: Decoder,
    pieces: Sequence[Sequence[int]],
    slots: Sequence[int],
    *,
    want_logits: bool = True,
    taps: Sequence[int] = (),
    parents: Sequence[Sequence[int]] | None = None,
) -> DecoderOutput:
    widths = [len(piece) for piece in pieces]
    padded = torch.tensor([[*piece, *[0] * (max(widths) - len(piece))] for piece in pieces])
    return decoder.forward(padded, widths, slots, parents=parents, want_logits=want_logits, taps=taps)


def _logits(output: DecoderOutput) -> torch.Tensor:
    if output.logits is None:
        raise AssertionError("want_logits=True returned no logits")
    return output.logits
