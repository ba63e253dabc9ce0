"""Options of the EAGLE-3 drafter, and which head they name. Reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evodraft.errors import ConfigError

BUNDLED_HEADS: Final[Mapping[str | None, str]] = {None: "eagle", "general": "eagle_general"}
"""Name of a head that comes with the target -> its folder beside the target's."""


@dataclass(frozen=True, slots=True)
class EagleConfig:
    """Options of the EAGLE-3 drafter."""

    head: object = None  # a path, a hub id, an EagleHead; None = the head bundled with the target, "general" = another
    revision: str | None = None  # of a hub id
    check_target: bool = True  # False: take a head that was trained for another model of the same shape


def source_of(config: EagleConfig, bundled: Mapping[str, Path]) -> str | Path:
    """The folder or hub id that `config` names. Raises ConfigError for a bundled head that is not there.

    >>> source_of(EagleConfig("general"), {"eagle_general": Path("bundle/eagle_general")}).name
    'eagle_general'
    """
    if isinstance(config.head, Path):
        return config.head
    if config.head is not None and not isinstance(config.head, str):
        raise ConfigError(f"head={config.head!r:.80} is no head; pass a path, a hub id, or an EagleHead")
    if config.head not in BUNDLED_HEADS:
        return str(config.head)
    folder = BUNDLED_HEADS[config.head]
    if folder not in bundled:
        asked = "" if config.head is None else f":{config.head}"
        raise ConfigError(
            f"drafter 'eagle{asked}' needs a head and this target has none bundled; write "
            "drafter='eagle:PATH-OR-HUB-ID', look for a published one with 'evodraft inspect', or train one with "
            "'evodraft train head'"
        )
    return bundled[folder]
