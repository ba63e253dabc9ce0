"""Other projects' names for our parts: vLLM's `speculative_config` and transformers' keyword arguments.

Users bring these spellings along; nothing else in the project knows them. None means "not said", as it does there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from evodraft.errors import ConfigError, UnknownOptionError

TRANSFORMERS_OPTIONS = (
    "assistant_model",
    "assistant_early_exit",
    "assistant_confidence_threshold",
    "num_assistant_tokens",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
)
VLLM_KEYS = ("method", "model", "num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max")

_DRAFTER_OPTIONS = ("assistant_model", "assistant_early_exit", "prompt_lookup_num_tokens")
_METHODS: Mapping[str, str] = {
    "draft_model": "model",
    "model": "model",
    "eagle": "eagle",
    "eagle3": "eagle",
    "ngram": "ngram",
    "prompt_lookup": "ngram",
}
_SOURCES: Mapping[str, str] = {"model": "model", "eagle": "head"}  # drafter -> the option that "model" fills


class Parts(NamedTuple):
    """Drafter and controller as the tables spell them; None = not said."""

    drafter: object = None
    controller: object = None


def parts_of_speculative_config(options: Mapping[str, object]) -> Parts:
    """vLLM's `speculative_config` {"method", "model", "num_speculative_tokens", "prompt_lookup_min", "..._max"}.

    >>> parts_of_speculative_config({"method": "ngram", "num_speculative_tokens": 4}).controller
    'fixed:4'
    """
    for name in options:
        if name not in VLLM_KEYS:
            raise UnknownOptionError("speculative_config key", name, VLLM_KEYS)
    said = _said(options)
    method = str(said.get("method", "model" if "model" in said else "ngram"))
    name = _METHODS.get(method, method)
    drafter: dict[str, object] = {"name": name}
    if "model" in said and name != "ngram":
        drafter[_SOURCES.get(name, "model")] = said["model"]
    longest, shortest = said.get("prompt_lookup_max"), said.get("prompt_lookup_min")
    if longest is not None or shortest is not None:  # one that is missing equals the other, as in vLLM
        drafter["max_ngram"] = shortest if longest is None else longest
        drafter["min_ngram"] = longest if shortest is None else shortest
    width = said.get("num_speculative_tokens")
    return Parts(drafter, None if width is None else f"fixed:{width}")


def parts_of_transformers_options(options: Mapping[str, object]) -> Parts:
    """transformers' spellings; `num_assistant_tokens` and `prompt_lookup_num_tokens` imply controller `fixed`.

    With a confidence threshold beside it, `num_assistant_tokens` is the most that is drafted.

    >>> parts_of_transformers_options({"prompt_lookup_num_tokens": 6})
    Parts(drafter={'name': 'ngram'}, controller='fixed:6')
    """
    said = _said(options)
    named = [name for name in _DRAFTER_OPTIONS if name in said]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} name {len(named)} drafters, but one drafts; pass only one of them")
    return Parts(_transformers_drafter(said), _transformers_controller(said))


def translate(
    drafter: object,
    controller: object,
    speculative_config: Mapping[str, object] | None,
    transformers_options: Mapping[str, object],
) -> Parts:
    """Drafter and controller after the other spellings have had their say; a part may be named in one of them only."""
    spelled = [
        Parts() if speculative_config is None else parts_of_speculative_config(speculative_config),
        parts_of_transformers_options(transformers_options),
    ]
    return Parts(
        _settle("drafter", drafter, [parts.drafter for parts in spelled]),
        _settle("controller", controller, [parts.controller for parts in spelled]),
    )


def check_options(options: Iterable[str], known: Iterable[str]) -> None:
    """Raises UnknownOptionError for a keyword that neither we nor transformers know."""
    names = [name for name in known if name != "options"]
    for name in options:
        if name not in TRANSFORMERS_OPTIONS:
            raise UnknownOptionError("option", name, [*names, *TRANSFORMERS_OPTIONS])


def refuse_missing_parts(preset: object, learners: Sequence[object]) -> None:
    """Names of parts that this version does not have; learners may be given as objects."""
    if preset is not None:
        raise UnknownOptionError("preset", preset, [])
    for learner in [learners] if isinstance(learners, str) else learners:
        if isinstance(learner, str):
            raise UnknownOptionError("learner", learner, [])


def _said(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _transformers_drafter(said: Mapping[str, object]) -> object:
    size = said.get("max_matching_ngram_size")
    if size is not None and "prompt_lookup_num_tokens" not in said:
        raise ConfigError(
            f"max_matching_ngram_size={size} does nothing without prompt_lookup_num_tokens; "
            f"add it, or write drafter={{'name': 'ngram', 'max_ngram': {size}}}"
        )
    if "assistant_early_exit" in said:
        return "early_exit"
    if "assistant_model" in said:
        return {"name": "model", "model": said["assistant_model"]}
    if "prompt_lookup_num_tokens" in said:
        return {"name": "ngram"} | ({} if size is None else {"max_ngram": size, "min_ngram": 1})
    return None


def _transformers_controller(said: Mapping[str, object]) -> object:
    width = said.get("num_assistant_tokens", said.get("prompt_lookup_num_tokens"))
    threshold = said.get("assistant_confidence_threshold")
    if threshold is None:
        return None if width is None else f"fixed:{width}"
    limit = {} if width is None else {"max_draft_tokens": width}
    return {"name": "confidence", "threshold": threshold, **limit}


def _settle(kind: str, given: object, spelled: Sequence[object]) -> object:
    """The one that was said; what `given` says counts unless it is the default "auto"."""
    is_default = isinstance(given, str) and given == "auto"
    said = [*([] if is_default else [given]), *(part for part in spelled if part is not None)]
    if len(said) > 1:
        shown = " and ".join(_shown(part) for part in said)
        raise ConfigError(f"{len(said)} {kind}s are named ({shown}), but one works; name it in one place only")
    return said[0] if said else given


def _shown(part: object) -> str:
    """A part by its name: models and tensors inside it are no reading matter."""
    name = part.get("name") if isinstance(part, Mapping) else part
    return repr(name) if name is None or isinstance(name, str) else name.__class__.__name__
