"""A head of another target is refused with its sizes, before it drafts what nobody accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import pytest
import torch

from evodraft.drafters.eagle.fit import check_head, check_shared, doubt_about
from evodraft.drafters.eagle.layouts import HeadDescription, describe_head
from evodraft.drafters.eagle.origin import Origin
from evodraft.errors import ModelMismatchError
from evodraft.testing.heads import tiny_head
from evodraft.testing.tiny import tiny_model

TARGET: Final = tiny_model("llama", num_hidden_layers=8)
ORIGIN: Final = Origin.of(TARGET)


def described(**changes: Any) -> HeadDescription:
    return replace(describe_head(tiny_head(TARGET, taps=(2, 4, 5))), **changes)


def test_a_head_of_this_target() -> None:
    head = described(origin=ORIGIN)
    check_head(head, ORIGIN, "here")
    assert doubt_about(head, "here") is None


MISFITS: Final[Mapping[str, tuple[HeadDescription, Origin, str]]] = {
    "hidden size": (
        described(),
        replace(ORIGIN, hidden_size=48),
        "the head here reads hidden states of 32 numbers and the target has 48; take the head of this target",
    ),
    "vocabulary": (described(), replace(ORIGIN, vocab_size=65), "a vocabulary of 64 ids and the target has 65"),
    "missing layers": (described(taps=(2, 4, 9)), ORIGIN, r"taps \(2, 4, 9\), and the target has 8 layers"),
    "negative taps": (described(taps=(-1, 4, 5)), ORIGIN, r"must ascend within 0 .. 8"),
    "taps twice": (described(taps=(2, 2, 5)), ORIGIN, r"must ascend within 0 .. 8"),
    "taps out of order": (described(taps=(5, 4, 2)), ORIGIN, r"must ascend within 0 .. 8"),
    "no taps for so few layers": (
        described(taps=None),
        replace(ORIGIN, num_layers=4),
        r"names no taps, which then are \(2, 2, 1\), and the target has 4 layers",
    ),
    "another number of layers": (
        described(origin=replace(ORIGIN, num_layers=9), target="big"),
        ORIGIN,
        r"was trained for big \(9 layers of 32, 64 ids\) and this target \(8 layers of 32, 64 ids\)",
    ),
    "other weights": (
        described(origin=Origin.of(tiny_model("llama", num_hidden_layers=8, seed=1))),
        ORIGIN,
        "other weights; .* 'check_target': False",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_heads_of_other_targets(name: str) -> None:
    head, target, words = MISFITS[name]
    with pytest.raises(ModelMismatchError, match=words):
        check_head(head, target, "here")


def test_other_weights_can_be_allowed() -> None:
    other = described(origin=Origin.of(tiny_model("llama", num_hidden_layers=8, seed=1)))
    check_head(other, ORIGIN, "here", check_target=False)
    with pytest.raises(ModelMismatchError):
        check_head(replace(other, taps=(2, 4, 9)), ORIGIN, "here", check_target=False)


@pytest.mark.parametrize(("target", "told"), [(None, "names none"), ("Qwen/Qwen3-8B", "names Qwen/Qwen3-8B")])
def test_where_nothing_tells_the_target(target: str | None, told: str) -> None:
    head = described(target=target)
    check_head(head, ORIGIN, "here")
    doubt = doubt_about(head, "here") or ""
    assert told in doubt
    assert "decoding is slower, never wrong" in doubt


def test_matrices_that_cannot_be_shared() -> None:
    check_shared(32, ORIGIN, "embedding", "here")
    with pytest.raises(ModelMismatchError, match="has no embedding of its own and hidden states of 16 numbers"):
        check_shared(16, ORIGIN, "embedding", "here")


# --- the numbers that tell targets apart --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_another_dtype_is_the_same_model(dtype: torch.dtype) -> None:
    target = tiny_model("llama", num_hidden_layers=8).to(dtype)
    assert not ORIGIN.is_other_model(Origin.of(target))


def test_a_slight_fine_tune_is_the_same_model() -> None:
    target = tiny_model("llama", num_hidden_layers=8)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(1.001)
    assert not ORIGIN.is_other_model(Origin.of(target))


def test_what_has_no_numbers_is_no_other_model() -> None:
    with torch.device("meta"):
        empty = type(TARGET)(TARGET.config)
    assert Origin.of(empty) == replace(ORIGIN, sample=())
    assert not ORIGIN.is_other_model(Origin.of(empty))
    assert ORIGIN.is_other_model(replace(ORIGIN, sample=(1.0,)))
