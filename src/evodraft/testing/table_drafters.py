"""Every built-in drafter over a table, by its name in `evodraft.drafters.DRAFTERS`, a scripted one, and some that
slice and grow.

`auto` is no drafter of its own: it chooses one of these. Does not know targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from evodraft.drafters.model import ModelDrafter
from evodraft.drafters.ngram import NgramConfig, NgramDrafter
from evodraft.testing.drafters import Offer, ScriptedDrafter
from evodraft.testing.slices import SlicedDrafter
from evodraft.testing.table import TableDecoder, TableLM
from evodraft.testing.trees import TreeDrafter, random_shape

if TYPE_CHECKING:
    from evodraft.drafters.base import Drafter


def _mixed(table: TableLM) -> ScriptedDrafter:
    """Draws, chooses, or has nothing to offer, depending on the context."""

    def offer(context: tuple[int, ...]) -> Offer:
        kind = (3 * len(context) + sum(context)) % 5
        if kind == 0:
            return None
        return context[0] if kind == 1 else table.law(context).tolist()

    return ScriptedDrafter(offer, table.vocab_size)


def _model(table: TableLM) -> ModelDrafter:
    return ModelDrafter(TableDecoder(table), table.vocab_size)


TABLE_DRAFTERS: Final[Mapping[str, Callable[[TableLM], Drafter]]] = MappingProxyType(
    {
        "model": _model,
        "ngram": lambda table: NgramDrafter(NgramConfig(max_ngram=2, min_ngram=1)),
        "scripted": _mixed,
        "sliced": lambda table: SlicedDrafter(_model(table), range(1, table.vocab_size)),
        "tree": lambda table: TreeDrafter(_model(table), random_shape()),
        "sliced tree": lambda table: TreeDrafter(
            SlicedDrafter(_model(table), [0, table.vocab_size - 1]), random_shape()
        ),
    }
)
