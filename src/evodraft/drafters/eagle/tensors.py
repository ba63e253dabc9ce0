"""A head from tensors under the names that published heads have.

Does not know files, nor for which target a head is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from evodraft.drafters.eagle.head import NUM_TAPS, EagleHead, EagleShape, published_taps
from evodraft.drafters.eagle.layouts import HeadDescription
from evodraft.errors import UnsupportedModelError, WeightsError

Tensors = dict[str, torch.Tensor]

_PREFIXES: Final[Mapping[str, str]] = {"model.": "", "layers.0.": "midlayer.", "midlayers.0.": "midlayer."}
_IGNORED: Final = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")  # computed from the config
_FLOATS: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_QUANTISED: Final = ("_scale", "_scale_inv", "weight_packed", "qweight", "qzeros")  # ends of names
_REMEDY: Final = "take an EAGLE-3 head (docs/heads.md)"
_MAPS: Final = ("d2t", "t2d")  # between the vocabularies of head and target


def build_head(
    tensors: Tensors,
    description: HeadDescription,
    num_target_layers: int,
    place: str,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
) -> EagleHead:
    """The head in eval mode, in `dtype` or as it is stored, from tensors under their published names.

    Rows of its own output matrix are put in the order of the target's ids.

    Raises WeightsError for tensors that are missing, surplus or of the wrong shape, and UnsupportedModelError for those
    of another kind of head.
    """
    named = _own_names(tensors, place)
    ids = _token_ids(named, description, place)
    rows = named["lm_head.weight"].shape[0] if "lm_head.weight" in named else None
    head = empty_head(description, num_target_layers, rows, has_own_embedding="embed_tokens.weight" in named)
    _check_tensors(head, named, place)
    return _filled(head, named, ids, dtype, device)


def empty_head(
    description: HeadDescription, num_target_layers: int, num_rows: int | None, *, has_own_embedding: bool
) -> EagleHead:
    """The module that a config describes, on the meta device: what it claims takes no memory.

    `num_rows` are those of its own output matrix, None if it has none.
    """
    shape = EagleShape(
        config=description.layer,
        target_hidden_size=description.target_hidden_size,
        taps=description.taps or published_taps(num_target_layers),
        draft_vocab_size=num_rows,
        norm_before_residual=description.norm_before_residual,
        has_own_embedding=has_own_embedding,
    )
    with torch.device("meta"):
        return EagleHead(shape)


def published_ids(token_ids: torch.Tensor, vocab_size: int) -> Tensors:  # [rows] -> d2t [rows], t2d [vocab]
    """The two maps between vocabularies, as heads are published: offsets of the rows, and who has one.

    >>> maps = published_ids(torch.tensor([1, 3]), 5)
    >>> maps["d2t"].tolist(), maps["t2d"].int().tolist()
    ([1, 2], [0, 1, 0, 1, 0])
    """
    members = torch.zeros(vocab_size, dtype=torch.bool)
    members[token_ids] = True
    return {"d2t": token_ids - torch.arange(len(token_ids)), "t2d": members}


def _own_names(tensors: Tensors, place: str) -> Tensors:
    named = {own: value for name, value in tensors.items() if (own := _own_name(name)) is not None}
    _refuse_foreign_names(named, place)
    for name, value in named.items():
        if name not in _MAPS and value.dtype not in _FLOATS:
            raise UnsupportedModelError(
                f"{name} of {place} is stored as {value.dtype}; quantised heads cannot be read, take one in bfloat16"
            )
        if value.layout != torch.strided:
            raise UnsupportedModelError(f"{name} of {place} is stored as {value.layout}; take a head that is dense")
    return named


def _token_ids(tensors: Tensors, description: HeadDescription, place: str) -> torch.Tensor | None:  # [rows of lm_head]
    """Takes the two maps between vocabularies out of `tensors`; None of a head without an output matrix of its own."""
    offsets, members = tensors.pop("d2t", None), tensors.pop("t2d", None)  # [rows] target id - row; [vocab] bool
    vocab_size, wanted = description.layer.vocab_size, description.draft_vocab_size
    if "lm_head.weight" not in tensors:
        if offsets is not None or wanted not in (None, vocab_size):
            raise WeightsError(
                f"{place} has a vocabulary of its own ({wanted} of {vocab_size} ids) and no lm_head.weight; copy or "
                "download the weights again"
            )
        return None
    rows = tensors["lm_head.weight"].shape[0]
    if offsets is None and rows != vocab_size:
        raise WeightsError(
            f"lm_head.weight of {place} has {rows} rows, the vocabulary has {vocab_size}, and no d2t says which ids "
            "they stand for; copy or download the weights again"
        )
    if offsets is not None and (offsets.shape != (rows,) or offsets.dtype not in (torch.int64, torch.int32)):
        raise WeightsError(
            f"d2t of {place} has shape {tuple(offsets.shape)} of {offsets.dtype}; it must be {rows} whole numbers, one "
            "for each row of lm_head.weight; download the head again"
        )
    ids = torch.arange(rows) + (0 if offsets is None else offsets.long())
    _check_ids(ids, members, vocab_size, place)
    return ids


def _check_ids(ids: torch.Tensor, members: torch.Tensor | None, vocab_size: int, place: str) -> None:
    """Raises WeightsError unless rows stand for different ids of the target (X9), the same that t2d marks."""
    if int(ids.min()) < 0 or int(ids.max()) >= vocab_size or len(ids.unique()) != len(ids):
        raise WeightsError(
            f"d2t of {place} maps rows to the ids {int(ids.min())} .. {int(ids.max())}, {len(ids.unique())} different "
            f"of {len(ids)}; they must be different and within 0 .. {vocab_size - 1}; download the head again"
        )
    if members is None:
        return
    expected = torch.zeros(vocab_size, dtype=torch.bool)
    expected[ids] = True
    if members.shape != expected.shape or not torch.equal(members.bool(), expected):
        raise WeightsError(f"d2t and t2d of {place} name different ids; download the head again")


def _check_tensors(head: EagleHead, tensors: Tensors, place: str) -> None:
    expected = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    stored = {name: tuple(value.shape) for name, value in tensors.items()}
    remedy = "config.json and weights belong to different heads, or to one of another kind (docs/heads.md)"
    if missing := expected.keys() - stored.keys():
        raise WeightsError(f"{place} lacks {len(missing)} tensors, first {min(missing)}; {remedy}")
    if surplus := stored.keys() - expected.keys():
        raise WeightsError(f"{place} has {len(surplus)} tensors too many, first {min(surplus)}; {remedy}")
    for name, shape in expected.items():
        if stored[name] != shape:
            hint = f", of {NUM_TAPS} taps of {head.shape.target_hidden_size}" if name == "fc.weight" else ""
            raise WeightsError(
                f"{name} of {place} has shape {stored[name]} and config.json says {shape}{hint}; {remedy}"
            )


def _filled(
    head: EagleHead, tensors: Tensors, ids: torch.Tensor | None, dtype: torch.dtype | None, device: torch.device
) -> EagleHead:
    """The tensors take the place of the empty ones; what is computed is computed anew."""
    kept = dtype or tensors["fc.weight"].dtype
    if ids is not None and not bool((ids[1:] > ids[:-1]).all()):
        ids, order = ids.sort()
        tensors = tensors | {"lm_head.weight": tensors["lm_head.weight"][order]}
    dense = {name: value.to(device, kept).contiguous() for name, value in tensors.items()}  # a pickle may hold views
    head.load_state_dict(dense, assign=True)
    head.rotary_emb = LlamaRotaryEmbedding(head.shape.config).to(device)
    head.token_ids = None if ids is None else ids.to(device)
    return head.eval().requires_grad_(False)


def _own_name(name: str) -> str | None:
    """The name of a published tensor in EagleHead, or "d2t" and "t2d"; None for what is computed anyway."""
    for prefix, ours in _PREFIXES.items():
        if name.startswith(prefix):
            name = ours + name.removeprefix(prefix)
    return None if name.endswith(_IGNORED) else name


def _refuse_foreign_names(names: Iterable[str], place: str) -> None:
    """Raises UnsupportedModelError for the tensors of another kind of head. Takes names as EagleHead has them."""
    found = sorted(names)
    kinds = {
        "its weights are quantised": [name for name in found if name.endswith(_QUANTISED)],
        "it drafts all tokens in one pass (P-EAGLE)": [name for name in found if name == "mask_hidden"],
        "it has several layers": [name for name in found if name.startswith(("layers.", "midlayers."))],
    }
    for kind, hits in kinds.items():
        if hits:
            raise UnsupportedModelError(f"{place} cannot be read: {kind} ({hits[0]}); {_REMEDY}")
    if "midlayer.self_attn.q_proj.weight" in found and "midlayer.hidden_norm.weight" not in found:
        raise UnsupportedModelError(f"{place} has no hidden_norm and is of EAGLE-1 or EAGLE-2; {_REMEDY}")
