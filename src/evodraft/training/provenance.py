"""What a set of weights was made from: command, commit, data, hardware, time.

Does not know: what was trained.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import torch

from evodraft.machine import processor_name, source_commit


@dataclass(frozen=True, slots=True)
class Provenance:
    """A record beside the weights.

    `losses` and `position_losses` map a domain, or a range of positions in a row, to held-out nats per token.
    """

    command: str
    commit: str | None
    data_sha256: str
    recipe: dict[str, Any]
    losses: dict[str, float]
    position_losses: dict[str, float]
    seconds: float
    num_tokens: int
    num_threads: int
    processor: str
    torch_version: str
    date: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class HeldOut(NamedTuple):
    """Losses on the held-out files, in nats per token."""

    by_domain: dict[str, float]
    by_position: dict[str, float]


def describe_machine() -> dict[str, object]:
    """Where and with what figures were measured: commit, date, processor, threads, torch."""
    return {
        "commit": source_commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor_name(),
        "num_threads": torch.get_num_threads(),
        "torch_version": torch.__version__,
    }


def describe_run(
    data_sha256: str, recipe: dict[str, Any], losses: HeldOut, seconds: float, num_tokens: int
) -> Provenance:
    """The provenance of a run that ends now in this process; paths in the command are cut to their last part."""
    machine: dict[str, Any] = describe_machine()
    return Provenance(
        command=_command(),
        data_sha256=data_sha256,
        recipe=recipe,
        losses=losses.by_domain,
        position_losses=losses.by_position,
        seconds=round(seconds, 1),
        num_tokens=num_tokens,
        **machine,
    )


def _command() -> str:
    words = [word.rstrip("/").rsplit("/", 1)[-1] for word in sys.argv[1:]]
    return " ".join(["python -m evodraft.training", *words])
