"""The one error tree. A message names the value, the limit and the remedy.

    EvodraftError
    ├── ConfigError             an option of the engine or of a part is wrong (fix the call that builds it)
    │   └── UnknownOptionError  a name nobody knows; the message offers the nearest one
    ├── RequestError            one request is wrong (fix that request; the others run on)
    │   ├── PromptError         empty, too long, or with ids outside the vocabulary
    │   ├── SamplingError       a sampling parameter outside its range
    │   └── UserCodeError       a logits processor or stopping criterion of the caller failed
    ├── ModelError              a model cannot serve (choose or repair the model)
    │   ├── UnsupportedModelError   e.g. a cache that cannot be rolled back
    │   ├── ModelMismatchError      drafter and target do not speak the same tokens
    │   ├── WeightsError            files missing, truncated, renamed or swapped
    │   └── NumericsError           NaN or infinite logits
    ├── CapacityError           memory or slots do not suffice (lower a limit or raise the budget)
    ├── TrainingError           a training recipe cannot go on
    └── BenchError              a benchmark cannot run, or its result cannot be read

This module does not know who raises what.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EvodraftError(Exception):
    """Root of every error that evodraft raises on purpose."""


class ConfigError(EvodraftError, ValueError):
    """An option of the engine or of one of its parts is wrong."""


class UnknownOptionError(ConfigError):
    """A name that no table or dataclass knows.

    >>> str(UnknownOptionError("drafter", "ngrm", ["model", "ngram"]))
    "unknown drafter 'ngrm'; did you mean 'ngram'? Known: model, ngram"
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        self._given = (kind, name, names)
        near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        super().__init__(f"unknown {kind} {name!r}{hint} Known: {', '.join(names) or 'none in this version'}")

    def __reduce__(self) -> tuple[type, tuple[str, object, list[str]]]:
        return type(self), self._given  # errors travel between processes


class RequestError(EvodraftError, ValueError):
    """One request is wrong; other requests are not affected."""


class PromptError(RequestError):
    """The prompt is empty, too long, or holds ids outside the vocabulary."""


class SamplingError(RequestError):
    """A sampling parameter is outside its range."""


class UserCodeError(RequestError):
    """A logits processor or stopping criterion passed with a request raised or returned nonsense."""


class ModelError(EvodraftError):
    """A model cannot be used."""


class UnsupportedModelError(ModelError):
    """The architecture cannot do what speculative decoding needs."""


class ModelMismatchError(ModelError):
    """Drafter and target disagree on what a token id means."""


class WeightsError(ModelError):
    """Files of a model are missing or damaged."""


class NumericsError(ModelError):
    """A model returned NaN, +inf, or a row without any possible token."""


class CapacityError(EvodraftError):
    """Memory, slots or context do not suffice."""


class TrainingError(EvodraftError):
    """A training recipe cannot start or go on."""


class BenchError(EvodraftError):
    """A benchmark cannot run, or a file of results cannot be read."""
