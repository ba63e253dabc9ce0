"""An EAGLE-3 head before its weights are loaded: what its config says, and whether it fits the target.

Does not know who asked for the head.
"""

from __future__ import annotations

from pathlib import Path

import torch

from evodraft.drafters.eagle.files import CONFIG_FILE, HeadFiles, find_head
from evodraft.drafters.eagle.fit import check_head, doubt_about
from evodraft.drafters.eagle.head import EagleHead
from evodraft.drafters.eagle.layouts import HeadDescription
from evodraft.drafters.eagle.origin import Origin
from evodraft.drafters.eagle.plan import cache_bytes
from evodraft.drafters.eagle.tensors import empty_head
from evodraft.errors import ModelMismatchError
from evodraft.inspection.model import Blueprint
from evodraft.inspection.report import ModelReport


def read_head(
    source: str | Path, revision: str | None, target: Blueprint, dtype: torch.dtype, *, check_target: bool = True
) -> Blueprint:
    """What is known of a head, in the type in which it would be loaded; `problems` say why it does not fit.

    Raises WeightsError or UnsupportedModelError if not even its config can be read.
    """
    found = find_head(source, revision)
    origin = Origin.of(target.model)
    problem, doubt = _problem(found, origin, check_target), doubt_about(found.description, found.place)
    head = _empty(found.description, origin.num_layers).to(dtype)
    num_parameters, stored = sum(parameter.numel() for parameter in head.parameters()), _stored_bytes(found)
    report = ModelReport(
        name=found.place,
        model_type="eagle3",
        architecture=type(head).__name__,
        num_parameters=num_parameters,
        num_layers=1,
        vocab_size=origin.vocab_size if head.lm_head is None else head.lm_head.out_features,
        context_length=None,
        dtype=str(dtype).removeprefix("torch."),
        weight_bytes=max(num_parameters * dtype.itemsize, stored or 0),
        cache_bytes_per_token=cache_bytes(head),
        num_file_bytes=stored,
    )
    warnings = () if doubt is None or not check_target else (doubt,)
    return Blueprint(report, None, () if problem is None else (problem,), warnings, head)


def bytes_per_step(head: EagleHead, target: Blueprint) -> int:
    """Bytes of weights that one draft token reads: the layer and the output matrix, shared or not."""
    hidden, size = head.shape.config.hidden_size, head.fc.weight.element_size()
    rows = target.report.vocab_size if head.lm_head is None else head.lm_head.weight.shape[0]
    layer = sum(parameter.numel() for parameter in head.midlayer.parameters())
    return (layer + rows * hidden) * size


def _problem(found: HeadFiles, origin: Origin, check_target: bool) -> str | None:
    try:
        check_head(found.description, origin, found.place, check_target=check_target)
    except ModelMismatchError as error:
        return str(error)
    return None


def _empty(description: HeadDescription, num_target_layers: int) -> EagleHead:
    """As far as a config tells: whether a head holds matrices that its target has too shows in its weights only."""
    rows, vocab_size = description.draft_vocab_size, description.layer.vocab_size
    is_narrower = description.layer.hidden_size != description.target_hidden_size
    rows = vocab_size if rows is None and is_narrower else rows
    own_rows = rows if is_narrower or rows != vocab_size else None
    return empty_head(description, num_target_layers, own_rows, has_own_embedding=is_narrower)


def _stored_bytes(found: HeadFiles) -> int | None:
    """Bytes of the weights on this disk; None if they are not here."""
    config = found.fetch(CONFIG_FILE)
    assert config is not None, "it was read"
    files = sorted(config.parent.glob("*.safetensors")) or sorted(config.parent.glob("pytorch_model*.bin"))
    return sum(file.stat().st_size for file in files) if files else None
