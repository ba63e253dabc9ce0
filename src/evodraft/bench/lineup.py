"""Who is to be measured: methods by name or by their options, peers started with the same weights. Measures nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from evodraft.assemble import DEMO, demo_folder
from evodraft.bench.peers import find_peer
from evodraft.bench.peers.process import PeerContestant
from evodraft.bench.plan import PLAIN
from evodraft.errors import BenchError, ConfigError
from evodraft.runtime.load import local_folder

if TYPE_CHECKING:
    from evodraft.bench.plan import Order
    from evodraft.bench.suites import Suite

_MAX_MODEL_LEN = 4096  # tokens per sequence that peers make room for
_OPTION = re.compile(r"^([a-z_]+)=(.*)$")
_PLACE = re.compile(r"[^,:=]*/")


def methods_of(specs: Sequence[str], suite: Suite, draft: object = None) -> dict[str, dict[str, object]]:
    """The methods that a user named: of the suite by name, others by their options; none named = all of the suite.

    An option may be any of `LLM.from_pretrained` that names a part. A `draft` (folder, hub id or model) takes the place
    of the drafter "auto".

    Raises ConfigError for what is neither.

    >>> from evodraft.bench.suites import load_suite
    >>> methods_of(["drafter=ngram,controller=fixed:4"], load_suite("domains"))
    {'drafter=ngram,controller=fixed:4': {'drafter': 'ngram', 'controller': 'fixed:4'}}
    """
    methods = {name: dict(options) for name, options in (_chosen(specs, suite) if specs else suite.methods).items()}
    if draft is not None:
        for options in methods.values():
            if options.get("drafter", "auto") == "auto":
                options["drafter"] = {"name": "model", "model": draft}
    return methods


def start_peers(
    specs: Sequence[str], folder: Path, order: Order, draft: str | None, *, threads: int, stack: ExitStack
) -> list[PeerContestant]:
    """Peers, each in a process of its own with the weights of the order's target; `stack` ends them.

    Raises BenchError for a peer that is not installed, that needs a draft where there is none, or that cannot load.
    """
    if not specs:
        return []
    found = [find_peer(spec) for spec in dict.fromkeys(specs)]  # all names are checked before anything starts
    target_folder, draft_folder = order.folder or _target_folder(order.model), _draft_folder(order.model, draft)
    running = []
    for peer, mode in found:
        contestant = PeerContestant(
            peer,
            mode,
            folder,
            target_folder,
            draft_folder,
            dtype=str(order.target.model.dtype).removeprefix("torch."),
            threads=threads,
            eos_token_ids=sorted(order.stop_token_ids),
            max_model_len=min(order.max_length, _MAX_MODEL_LEN),
            max_batch=max(condition.batch_size for condition in order.suite.conditions),
            synthetic=order.synthetic,
        )
        stack.callback(contestant.close)
        running.append(contestant)
    return running


def _chosen(specs: Sequence[str], suite: Suite) -> dict[str, Mapping[str, object]]:
    chosen: dict[str, str] = {}
    for spec in specs:
        if spec != PLAIN and chosen.setdefault(_name(spec), spec) != spec:
            raise ConfigError(
                f"methods {chosen[_name(spec)]!r} and {spec!r} would both be called {_name(spec)!r} in the result; "
                "rename a folder, or name them in a suite of your own"
            )
    return {name: suite.methods.get(spec) or _parsed(spec, suite) for name, spec in chosen.items()}


def _name(spec: str) -> str:
    """What a method is called in results: folders and hub ids by their last part."""
    return _PLACE.sub("", spec)


def _parsed(spec: str, suite: Suite) -> Mapping[str, object]:
    """Options as "drafter=ngram,controller=fixed:4"; "none" is no drafter."""
    options: dict[str, object] = {}
    for part in spec.split(","):
        match = _OPTION.match(part.strip())
        if match is None:
            raise ConfigError(
                f"method {spec!r} is neither one of suite {suite.name} ({', '.join([PLAIN, *suite.methods])}) nor "
                "options like drafter=ngram,controller=fixed:4"
            )
        name, value = match.groups()
        options[name] = None if value == "none" else value
    return options


def _target_folder(model: str) -> Path:
    if model == DEMO:
        return demo_folder() / "target"
    folder = local_folder(model)
    if folder is None:
        raise BenchError(f"peers need the weights of {model} as a folder; download it and pass the folder as --model")
    return folder


def _draft_folder(model: str, draft: str | None) -> Path | None:
    if draft is not None:
        return local_folder(draft)
    return demo_folder() / "draft" if model == DEMO else None
