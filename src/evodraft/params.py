"""SamplingParams: how one request wants its tokens drawn and when it wants to stop.

Knows ranges and spellings; does not know vocabularies, models or how a law is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields
from typing import NamedTuple

from evodraft.errors import SamplingError, UnknownOptionError


class LawParams(NamedTuple):
    """The part of SamplingParams that shapes a law; hashable, so that equal rows are computed together."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling and stopping options of one request; names as in vLLM and transformers.

    `max_tokens` and `min_tokens` are accepted as other spellings of `max_new_tokens` and `min_new_tokens`.
    Raises SamplingError for a value outside its range.

    >>> SamplingParams(max_tokens=16, temperature=0.7).max_new_tokens
    16
    """

    max_new_tokens: int = 128
    temperature: float = 0.0  # 0 = greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 = all
    min_p: float = 0.0
    stop: str | Sequence[str] = ()  # text; excluded from the output
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    min_new_tokens: int = 0
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None  # strongest rivals to report beside each output token
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: InitVar[int | None] = None
    min_tokens: InitVar[int | None] = None

    def __post_init__(self, max_tokens: int | None, min_tokens: int | None) -> None:
        self._take_alias("max_tokens", max_tokens, "max_new_tokens", default=128)
        self._take_alias("min_tokens", min_tokens, "min_new_tokens", default=0)
        for name, nothing in _NOTHING.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, nothing)
        _check_collection("stop", self.stop, Iterable)
        _check_collection("stop_token_ids", self.stop_token_ids, Iterable)
        _check_collection("logit_bias", self.logit_bias, Mapping)
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))
        for name, (low, high) in _RANGES.items():
            _check_range(name, getattr(self, name), low, high)
        for name in _INTEGERS:
            _check_integer(name, getattr(self, name))
        if self.min_new_tokens > self.max_new_tokens:
            raise SamplingError(
                f"min_new_tokens={self.min_new_tokens} exceeds max_new_tokens={self.max_new_tokens}; lower it"
            )
        _check_stop(self.stop)
        for token_id in self.stop_token_ids:
            _check_token_id("stop_token_ids entry", token_id)
        _check_bias(self.logit_bias)

    @classmethod
    def from_options(cls, options: Mapping[str, object], base: SamplingParams | None = None) -> SamplingParams:
        """`base` (default: all defaults) with some fields replaced; an unknown name is an error naming the nearest."""
        known = [f.name for f in fields(cls)] + ["max_tokens", "min_tokens"]
        for name in options:
            if name not in known:
                raise UnknownOptionError("sampling option", name, known)
        values = {f.name: getattr(base, f.name) for f in fields(cls)} if base else {}
        for alias, name in _ALIASES.items():
            if alias in options:
                values.pop(name, None)
        return cls(**(values | dict(options)))

    def _take_alias(self, alias: str, value: int | None, name: str, default: int) -> None:
        if value is None:
            return
        given = getattr(self, name)
        if given not in (default, value):
            raise SamplingError(f"{alias}={value} and {name}={given} say different things; give one of them")
        object.__setattr__(self, name, value)

    @property
    def law(self) -> LawParams:
        return LawParams(self.temperature, self.top_k, self.top_p, self.min_p)


_RANGES: Mapping[str, tuple[float, float]] = {
    "max_new_tokens": (1, 2**31 - 1),
    "temperature": (0.0, 100.0),
    "top_p": (1e-6, 1.0),
    "top_k": (0, 2**31 - 1),
    "min_p": (0.0, 1.0),
    "min_new_tokens": (0, 2**31 - 1),
    "seed": (0, 2**64 - 1),
    "n": (1, 1024),
    "logprobs": (0, 1024),
    "repetition_penalty": (1e-3, 1e3),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
}
_ALIASES: Mapping[str, str] = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens"}
_NOTHING: Mapping[str, object] = {"stop": (), "stop_token_ids": (), "logit_bias": {}}  # None is OpenAI's spelling
_INTEGERS = ("max_new_tokens", "top_k", "min_new_tokens", "seed", "n", "logprobs")


def _check_range(name: str, value: object, low: float, high: float) -> None:
    if value is None and name in ("seed", "logprobs"):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < math.inf:
        raise SamplingError(f"{name}={value!r} is not a finite number; give one from {low:g} to {high:g}")
    if not low <= value <= high:
        raise SamplingError(f"{name}={value!r} is outside {low:g} .. {high:g}; choose a value within")


def _check_integer(name: str, value: object) -> None:
    if value is not None and not isinstance(value, int):
        raise SamplingError(f"{name}={value!r} is not a whole number; leave out the fraction")


def _check_collection(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        example = "{5: -1.0}" if kind is Mapping else "a list"
        raise SamplingError(f"{name}={value!r} is not a collection; write {example}, or leave it out")


def _check_token_id(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SamplingError(f"{what} {value!r} is not a token id; use whole numbers from 0")


def _check_stop(stop: str | Sequence[str]) -> None:
    for text in stop:
        if not isinstance(text, str) or not text:
            raise SamplingError(f"stop={text!r} must be a non-empty string; leave it out to stop at EOS only")


def _check_bias(bias: Mapping[int, float]) -> None:
    for token_id, value in bias.items():
        _check_token_id("logit_bias key", token_id)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value < math.inf:
            raise SamplingError(f"logit_bias[{token_id}]={value!r} is not usable; use a finite number or -inf to ban")
