"""Does a head fit a target? Compared before weights are read, by sizes, layers and what the head remembers.

A head of another target drafts, but nothing that is accepted: lossless and slow, which nobody would notice. Does not
know files or tensors of the head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from evodraft.drafters.eagle.head import published_taps
from evodraft.drafters.eagle.origin import Origin
from evodraft.errors import ModelMismatchError

if TYPE_CHECKING:
    from evodraft.drafters.eagle.layouts import HeadDescription

_REMEDY: Final = "take the head of this target, or train one with 'evodraft train head'"


def check_head(head: HeadDescription, target: Origin, place: str, *, check_target: bool = True) -> None:
    """Raises ModelMismatchError, with value, limit and remedy, for a head of another target.

    Without `check_target`, only what makes it impossible to run counts.
    """
    if head.target_hidden_size != target.hidden_size:
        raise ModelMismatchError(
            f"the head {place} reads hidden states of {head.target_hidden_size} numbers and the target has "
            f"{target.hidden_size}; {_REMEDY}"
        )
    if head.layer.vocab_size != target.vocab_size:
        raise ModelMismatchError(
            f"the head {place} was trained for a vocabulary of {head.layer.vocab_size} ids and the target has "
            f"{target.vocab_size}; {_REMEDY}"
        )
    _check_taps(head.taps, target.num_layers, place)
    if check_target:
        _check_origin(head, target, place)


def doubt_about(head: HeadDescription, place: str) -> str | None:
    """What to know where nothing proves for which target a head was trained."""
    if head.origin is not None:
        return None
    told = f"its config names {head.target}" if head.target else "its config names none"
    return (
        f"nothing in the head {place} proves for which target it was trained ({told}); with another one its drafts are "
        "rejected and decoding is slower, never wrong"
    )


def check_shared(hidden_size: int, target: Origin, what: str, place: str) -> None:
    """Raises ModelMismatchError unless a head can use a matrix of its target."""
    if hidden_size != target.hidden_size:
        raise ModelMismatchError(
            f"the head {place} has no {what} of its own and hidden states of {hidden_size} numbers, the target's have "
            f"{target.hidden_size}, so that it cannot use the target's; copy or download its files again"
        )


def _check_taps(taps: tuple[int, ...] | None, num_layers: int, place: str) -> None:
    named = published_taps(num_layers) if taps is None else taps
    if list(named) == sorted(set(named)) and named[0] >= 0 and named[-1] <= num_layers:
        return
    said = "names no taps, which then are" if taps is None else "reads the taps"
    raise ModelMismatchError(
        f"the head {place} {said} {named}, and the target has {num_layers} layers: taps must ascend within "
        f"0 .. {num_layers}; {_REMEDY}"
    )


def _check_origin(head: HeadDescription, target: Origin, place: str) -> None:
    if head.origin is None:
        return
    sizes = replace(head.origin, sample=()), replace(target, sample=())
    if sizes[0] != sizes[1] or head.origin.is_other_model(target):
        name = head.target or "another model"
        raise ModelMismatchError(
            f"the head {place} was trained for {name} ({_shown(head.origin)}) and this target ({_shown(target)}) has "
            f"other weights; {_REMEDY}; if the target is a fine-tune of that model, say "
            "drafter={'name': 'eagle', 'head': ..., 'check_target': False}"
        )


def _shown(origin: Origin) -> str:
    return f"{origin.num_layers} layers of {origin.hidden_size}, {origin.vocab_size} ids"
