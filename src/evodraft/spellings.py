"""Other projects' names for our parts: vLLM's `speculative_config` and transformers' keyword arguments.

Users bring these spellings along; nothing else in the project knows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from evodraft.errors import UnknownOptionError

TRANSFORMERS_OPTIONS = (
    "assistant_model",
    "assistant_early_exit",
    "assistant_confidence_threshold",
    "num_assistant_tokens",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
)


class Parts(NamedTuple):
    """Drafter and controller as the tables spell them; None = not said."""

    drafter: object = None
    controller: object = None


_METHODS: Mapping[str, str] = {"draft_model": "model", "model": "model", "ngram": "ngram", "prompt_lookup": "ngram"}


def parts_of_speculative_config(options: Mapping[str, object]) -> Parts:
    """vLLM's `speculative_config` {"method", "model", "num_speculative_tokens", "prompt_lookup_min", "..._max"}.

    >>> parts_of_speculative_config({"method": "ngram", "num_speculative_tokens": 4}).controller
    'fixed:4'
    """
    known = ["method", "model", "num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max"]
    for name in options:
        if name not in known:
            raise UnknownOptionError("speculative_config key", name, known)
    method = str(options.get("method", "model" if "model" in options else "ngram"))
    name = _METHODS.get(method, method)
    drafter: dict[str, object] = {"name": name}
    if "model" in options and name != "ngram":
        drafter["model"] = options["model"]
    if "prompt_lookup_max" in options:
        drafter["max_ngram"] = options["prompt_lookup_max"]
    if "prompt_lookup_min" in options:
        drafter["min_ngram"] = options["prompt_lookup_min"]
    width = options.get("num_speculative_tokens")
    return Parts(drafter, None if width is None else f"fixed:{width}")


def parts_of_transformers_options(options: Mapping[str, object]) -> Parts:
    """transformers' spellings; `num_assistant_tokens` and `prompt_lookup_num_tokens` imply controller `fixed`.

    >>> parts_of_transformers_options({"prompt_lookup_num_tokens": 6})
    Parts(drafter={'name': 'ngram'}, controller='fixed:6')
    """
    drafter: object = None
    controller: object = None
    if "assistant_early_exit" in options:
        drafter = "early_exit"
    if "assistant_model" in options:
        drafter = {"name": "model", "model": options["assistant_model"]}
    if "prompt_lookup_num_tokens" in options:
        size = options.get("max_matching_ngram_size")
        drafter = {"name": "ngram"} | ({} if size is None else {"max_ngram": size, "min_ngram": 1})
        controller = f"fixed:{options['prompt_lookup_num_tokens']}"
    if "assistant_confidence_threshold" in options:
        controller = {"name": "confidence", "threshold": options["assistant_confidence_threshold"]}
    if "num_assistant_tokens" in options:
        controller = f"fixed:{options['num_assistant_tokens']}"
    return Parts(drafter, controller)


def translate(
    drafter: object,
    controller: object,
    speculative_config: Mapping[str, object] | None,
    transformers_options: Mapping[str, object],
) -> Parts:
    """Drafter and controller after the other spellings, where given, have had their say."""
    spelled = [
        Parts() if speculative_config is None else parts_of_speculative_config(speculative_config),
        parts_of_transformers_options(transformers_options),
    ]
    for parts in spelled:
        drafter = drafter if parts.drafter is None else parts.drafter
        controller = controller if parts.controller is None else parts.controller
    return Parts(drafter, controller)


def check_options(options: Iterable[str], known: Iterable[str]) -> None:
    """Raises UnknownOptionError for a keyword that neither we nor transformers know."""
    names = [name for name in known if name != "options"]
    for name in options:
        if name not in TRANSFORMERS_OPTIONS:
            raise UnknownOptionError("option", name, [*names, *TRANSFORMERS_OPTIONS])


def refuse_missing_parts(vocabulary: object, preset: object, learners: Sequence[object]) -> None:
    """Names of parts that this version does not have; learners may be given as objects."""
    if vocabulary is not None:
        raise UnknownOptionError("vocabulary", vocabulary, ["None"])
    if preset is not None:
        raise UnknownOptionError("preset", preset, [])
    for learner in learners:
        if isinstance(learner, str):
            raise UnknownOptionError("learner", learner, [])
