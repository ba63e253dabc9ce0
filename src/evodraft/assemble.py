"""Names and limits to a ready engine: loads models, plans memory, connects the parts.

The only place that knows all plug-point tables at once. Does not decode.
"""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from evodraft.config import EngineConfig, Entry, parse_part
from evodraft.controllers import CONTROLLERS
from evodraft.drafters import DRAFTERS
from evodraft.drafters.base import DrafterContext, DrafterPlan, RegisteredDraft
from evodraft.drafters.eagle.config import BUNDLED_HEADS
from evodraft.drafters.vocabulary import VOCABULARIES, Vocabulary, VocabularyContext, check_fits, required_ids
from evodraft.engine import Engine
from evodraft.errors import ConfigError, WeightsError
from evodraft.memory import plan_cache
from evodraft.runtime.choose import RuntimeOptions, choose_runtime
from evodraft.runtime.load import load_model, local_folder
from evodraft.runtime.native.noise import native_uniform
from evodraft.runtime.native.step import NativeStep
from evodraft.runtime.support import ModelFacts
from evodraft.sampling import HashedStream, hashed_uniform
from evodraft.target import Target
from evodraft.verifiers import VERIFIERS
from evodraft.zoo import registered_drafts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evodraft.learners.base import Learner
    from evodraft.runtime.step import Step
    from evodraft.sampling import RandomStream

DEMO = "demo"
VOCABULARY_FILE = "vocabulary.json"  # in a bundle, beside the target
_LONGEST_REPR = 80  # a model's would fill the screen
_PROTOCOLS: Mapping[str, tuple[str, ...]] = {  # what an object given as a part must have
    "drafter": ("needs", "versions", "max_length", "admit", "step", "commit", "release", "apply"),
    "controller": ("needs_signals", "start", "plan", "more", "observe", "finish"),
    "verifier": ("exact", "draft_key", "verify"),
    "learner": ("needs", "observe", "step"),
    "vocabulary": ("ids", "source"),
}


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How models are loaded."""

    device: str = "auto"
    dtype: str | torch.dtype = "auto"
    runtime: str = "auto"
    numerics: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    device_map: str | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.runtime_options  # noqa: B018  # raises for words that mean nothing, before anything large is loaded

    @property
    def runtime_options(self) -> RuntimeOptions:
        """How models are decoded."""
        return RuntimeOptions(self.runtime, self.numerics)

    @property
    def draft_runtime_options(self) -> RuntimeOptions:
        """Likewise for drafts: the bits of what they compute decide nothing."""
        return RuntimeOptions(self.runtime, "fast")


@dataclass(frozen=True, slots=True)
class PartSpecs:
    """Which parts to connect: names, configs or objects, as in `LLM.from_pretrained`.

    Raises ConfigError for what none of the tables knows: before anything large is loaded.
    """

    drafter: object = "auto"
    controller: object = "auto"
    verifier: object = "auto"
    learners: Sequence[Learner] = field(default=())
    vocabulary: object = None

    def __post_init__(self) -> None:
        if self.drafter is not None:
            _parsed("drafter", self.drafter, DRAFTERS)
        if self.drafter is not None or self.controller is not None:
            _parsed("controller", self.controller, CONTROLLERS)
        _parsed("verifier", self.verifier, VERIFIERS)
        for learner in self.learners:
            _check_object("learner", learner)
        if self.vocabulary is not None:
            _parsed("vocabulary", self.vocabulary, VOCABULARIES)
            if self.drafter is None:
                raise ConfigError("a vocabulary was named and drafter=None drafts nothing; leave one of them out")


class TargetSource(NamedTuple):
    """Where a target comes from, and which drafts are known for it."""

    name: str  # a folder or a hub id
    bundled_draft: Path | None = None
    registered_drafts: tuple[RegisteredDraft, ...] = ()
    bundled_vocabulary: Path | None = None
    bundled_heads: Mapping[str, Path] = MappingProxyType({})


class LoadedTarget(NamedTuple):
    """A target model with what belongs to it."""

    model: Any
    tokenizer: PreTrainedTokenizerBase | None
    bundled_draft: Path | None = None
    registered_drafts: tuple[RegisteredDraft, ...] = ()
    bundled_vocabulary: Path | None = None
    bundled_heads: Mapping[str, Path] = MappingProxyType({})

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Ids that the model's generation config or the tokenizer call the end."""
        generation_config = getattr(self.model, "generation_config", None)
        named = getattr(generation_config, "eos_token_id", None)
        ids = set(named) if isinstance(named, (list, tuple)) else {named}
        ids.add(None if self.tokenizer is None else self.tokenizer.eos_token_id)
        return frozenset(token_id for token_id in ids if token_id is not None)


def find_target(source: str | os.PathLike[str]) -> TargetSource:
    """What "demo", a folder or a hub id stands for; only a hub id can have registered drafts. Loads nothing.

    Raises WeightsError for a path that is no model's folder, and for "demo" if it is not installed.
    """
    if source == DEMO:
        bundle = demo_folder()
        vocabulary = bundle / VOCABULARY_FILE
        return TargetSource(
            str(bundle / "target"),
            bundled_draft=bundle / "draft",
            bundled_vocabulary=vocabulary if vocabulary.is_file() else None,
            bundled_heads={name: bundle / name for name in BUNDLED_HEADS.values() if (bundle / name).is_dir()},
        )
    is_hub_id = local_folder(source) is None
    return TargetSource(str(source), None, registered_drafts(str(source)) if is_hub_id else ())


def load_target(source: object, options: LoadOptions) -> LoadedTarget:
    """The target that `source` names: "demo", a local path, a hub id, or (model, tokenizer)."""
    if isinstance(source, tuple):
        if len(source) != 2:
            raise ConfigError(f"a tuple of {len(source)} was given as target; pass (model, tokenizer)")
        _check_placed(source[0], options)
        return LoadedTarget(*source)
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigError(
            f"{source.__class__.__name__} is not a target; pass 'demo', a path, a hub id, or (model, tokenizer)"
        )
    found = find_target(source)
    loaded = load_model(
        found.name,
        dtype=options.dtype,
        device=options.device,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
        device_map=options.device_map,
    )
    return LoadedTarget(loaded.model, loaded.tokenizer, *found[1:])


def demo_folder() -> Path:
    """Where the demo bundle lies. Raises WeightsError if the distribution evodraft-demo is not installed."""
    try:
        return Path(str(importlib.resources.files("evodraft_demo")))
    except ModuleNotFoundError:
        raise WeightsError(
            "the demo models are not installed; run 'pip install evodraft-demo' (from a checkout: pip install ./demo)"
        ) from None


def build_engine(target: LoadedTarget, parts: PartSpecs, load: LoadOptions, config: EngineConfig) -> Engine:
    """Connects a loaded target with drafter, controller and verifier within the memory budget."""
    facts = ModelFacts.of(target.model)
    vocab_size = facts.vocab_size
    context = DrafterContext(
        tokenizer=target.tokenizer,
        vocab_size=vocab_size,
        device=facts.device,
        dtype=target.model.dtype,
        target=target.model,
        bundled_draft=target.bundled_draft,
        bundled_heads=target.bundled_heads,
        registered_drafts=target.registered_drafts,
        trust_remote_code=load.trust_remote_code,
        runtime=load.draft_runtime_options,
        vocabulary=_vocabulary(parts.vocabulary, target, vocab_size),
    )
    runtime = choose_runtime(target.model, load.runtime_options)  # before the cache is planned: it may copy weights
    plan = _plan_drafter(parts.drafter, context)
    cache = plan_cache(facts, plan.bytes_per_token if plan else 0, config)
    drafter = plan.make(config.max_batch, cache.max_length, cache.budget_tokens) if plan else None
    decoder = runtime.decoder(config.max_batch, cache.max_length, cache_tokens=cache.budget_tokens)
    return Engine(
        target=Target(decoder, vocab_size, taps=drafter.needs.taps if drafter else ()),
        verifier=_build("verifier", parts.verifier, VERIFIERS),
        drafter=drafter,
        controller=_build("controller", parts.controller, CONTROLLERS) if drafter else None,
        learners=parts.learners,
        config=config,
        stream=_stream(runtime.step),
        cache_tokens=cache.budget_tokens,
    )


def _stream(step: Step | None) -> RandomStream:
    """Noise of the same bits everywhere, and made faster where the target runs in C++ anyway."""
    uniform = native_uniform(step.library, hashed_uniform) if isinstance(step, NativeStep) else hashed_uniform
    return HashedStream(uniform)


def _plan_drafter(spec: object, context: DrafterContext) -> DrafterPlan | None:
    if spec is None:
        return None
    entry, config = _parsed("drafter", spec, DRAFTERS)
    if entry is None:
        if context.vocabulary is not None:
            raise ConfigError("a vocabulary was named beside a drafter that is built already; build it with its ids")
        return DrafterPlan(0, lambda num_slots, max_length, cache_tokens: config)
    plan: DrafterPlan = entry.build(config, context)
    return plan


def _vocabulary(spec: object, target: LoadedTarget, vocab_size: int) -> Vocabulary | None:
    if spec is None:
        return None
    entry, config = _parsed("vocabulary", spec, VOCABULARIES)
    if entry is not None:
        required = required_ids(target.tokenizer, vocab_size, target.eos_token_ids)
        config = entry.build(config, VocabularyContext(vocab_size, required, target.bundled_vocabulary))
    vocabulary: Vocabulary = config
    check_fits(vocabulary.ids, vocab_size, vocabulary.source)
    return vocabulary


def _build(kind: str, spec: object, table: Mapping[str, Entry]) -> Any:
    entry, config = _parsed(kind, spec, table)
    return config if entry is None else entry.build(config)


def _parsed(kind: str, spec: object, table: Mapping[str, Entry]) -> tuple[Entry | None, Any]:
    """(table entry, config), or (None, object), which then has the protocol of its kind."""
    entry, config = parse_part(kind, spec, table)
    if entry is None:
        _check_object(kind, config)
    return entry, config


def _check_object(kind: str, part: object) -> None:
    missing = [name for name in _PROTOCOLS[kind] if not hasattr(part, name)]
    if missing or isinstance(part, type):
        lack = f"lacks {', '.join(missing)}" if missing else "is a class and not an object of it"
        is_model = kind == "drafter" and hasattr(part, "forward")
        hint = "; a draft model goes in as assistant_model=MODEL" if is_model else ""
        shown = repr(part) if len(repr(part)) <= _LONGEST_REPR else f"<{type(part).__name__}>"
        raise ConfigError(
            f"{kind}={shown} {lack}; pass a name, a config, or an object with the {kind.capitalize()} protocol{hint}"
        )


def _check_placed(model: Any, options: LoadOptions) -> None:
    """A model that is loaded already stays as it is: options that ask for something else are an error."""
    wanted, dtype = str(options.dtype).removeprefix("torch."), getattr(model, "dtype", None)
    if isinstance(dtype, torch.dtype) and wanted not in ("auto", str(dtype).removeprefix("torch.")):
        raise ConfigError(f"dtype={wanted} does not fit the given model, which has {dtype}; convert it before")
    device = getattr(model, "device", None)
    if isinstance(device, torch.device) and options.device not in ("auto", device.type, str(device)):
        raise ConfigError(
            f"device={options.device!r} does not fit the given model, which is on {device}; move it before"
        )
