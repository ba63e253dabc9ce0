"""What somebody wrote, without where it lies: places on this machine say nothing to others. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_PLACE: Final = re.compile(r"(^|[=:])/(?:[^/,]*/)*")


def without_places(text: str) -> str:
    """`text` with its absolute paths cut to their last part.

    >>> without_places("drafter=model:/models/draft,controller=fixed:3"), without_places("transformers/plain")
    ('drafter=model:draft,controller=fixed:3', 'transformers/plain')
    """
    return _PLACE.sub(r"\1", text)


def written(options: Mapping[str, object]) -> dict[str, Any]:
    """Options as a result holds them: without places, and a model or part that came as an object by its class.

    >>> written({"drafter": {"name": "model", "model": "/models/draft"}, "controller": None})
    {'drafter': {'name': 'model', 'model': 'draft'}, 'controller': None}
    """
    return {str(name): _written(value) for name, value in options.items()}


def _written(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return without_places(value)
        case Mapping():
            return written(value)
        case list() | tuple():
            return [_written(entry) for entry in value]
    return type(value).__name__
