"""How a model would be decoded, and what that means for its outputs, as sentences. Decides nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from evodraft.errors import UnsupportedModelError
from evodraft.inspection.report import Choice, RuntimeChoice
from evodraft.runtime.foretell import foretell_runtime

if TYPE_CHECKING:
    import torch

    from evodraft.inspection.model import Blueprint
    from evodraft.runtime.choose import RuntimeOptions, RuntimeReport

_SAME: Final = "greedy and coupled outputs are the same token by token with and without drafts, in any batch"
_EXACT: Final = "speculative and plain outputs are compared token by token in our tests, which run in float32"
_ROUNDED: Final = (
    "in {dtype} a pass over several tokens can round differently from a pass over one, and two nearly equal "
    "candidates may swap; compare in float32"
)


class RuntimeFindings(NamedTuple):
    """What was foretold, or why nothing decodes the model."""

    choice: RuntimeChoice | None
    problems: tuple[str, ...] = ()
    copied_bytes: int = 0  # of weights, beside those of the model


def foretold(
    blueprint: Blueprint, device: torch.device, options: RuntimeOptions, pending_bytes: int
) -> RuntimeFindings:
    """What will be chosen when the model is loaded to `device`. Nothing, and no problem, if its config has problems."""
    if blueprint.facts is None:
        return RuntimeFindings(None)
    try:
        found = foretell_runtime(blueprint.model, blueprint.facts, device, options, pending_bytes=pending_bytes)
    except UnsupportedModelError as error:
        return RuntimeFindings(None, (str(error),))
    choice = described(found.report, blueprint.report.dtype, found.outlook)
    return RuntimeFindings(choice, copied_bytes=found.copied_bytes)


def described(report: RuntimeReport, dtype: str, outlook: tuple[str, ...] = ()) -> RuntimeChoice:
    """A report of a target in words, which say what its numerics mean."""
    rounded = _EXACT if dtype == "float32" else _ROUNDED.format(dtype=dtype)
    meanings = {
        "invariant": _SAME,
        "untried": f"if all bits are equal, {_SAME}; if not, {rounded}",
        "fast": rounded,
    }
    name, reason = report.numerics
    return RuntimeChoice(
        name=report.name,
        why="; ".join([report.about, *outlook]),
        passed_over=tuple(Choice(over.name, over.reason) for over in report.passed_over),
        numerics=Choice(name, f"{reason}; {meanings[name]}"),
    )
