"""What a set of weights was made from: command, commit, data, hardware, time.

Does not know: what was trained.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from evodraft.machine import processor_name, source_commit


@dataclass(frozen=True, slots=True)
class Provenance:
    """A record beside the weights; `losses` maps a domain to nats per token on the held-out files."""

    command: str
    commit: str | None
    data_sha256: str
    recipe: dict[str, Any]
    losses: dict[str, float]
    seconds: float
    num_tokens: int
    num_threads: int
    processor: str
    torch_version: str
    date: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def describe_run(
    data_sha256: str, recipe: dict[str, Any], losses: dict[str, float], seconds: float, num_tokens: int
) -> Provenance:
    """The provenance of a run that ends now in this process; paths in the command are cut to their last part."""
    return Provenance(
        command=_command(),
        commit=source_commit(),
        data_sha256=data_sha256,
        recipe=recipe,
        losses=losses,
        seconds=round(seconds, 1),
        num_tokens=num_tokens,
        num_threads=torch.get_num_threads(),
        processor=processor_name(),
        torch_version=torch.__version__,
        date=datetime.now(UTC).date().isoformat(),
    )


def _command() -> str:
    words = [word.rstrip("/").rsplit("/", 1)[-1] for word in sys.argv[1:]]
    return " ".join(["python -m evodraft.training", *words])
