"""What is known of a peer before it runs: its modes, its pinned requirements, its worker. Starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Mode:
    """One way of running a peer."""

    about: str
    needs_draft: bool = False  # a draft model of the same tokenizer
    options: Mapping[str, Any] = field(default_factory=dict)  # handed to the worker
    max_batch: int = 1  # prompts it decodes together
    is_exact: bool = True


@dataclass(frozen=True, slots=True)
class Peer:
    """Another engine that a user would pick instead."""

    name: str  # as users write it: NAME/MODE
    about: str
    requirements: str  # file of pinned requirements in the folder of peers, installed in one step after torch
    worker: str  # file in evodraft/bench/peers/workers
    modes: Mapping[str, Mode]
    # after the requirements: (the environment's folder, say(line)) -> None; builds or removes what pip cannot
    finish: Callable[[Path, Callable[[str], None]], None] | None = None
