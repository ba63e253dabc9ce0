"""From what a user asks for to a result: suite, prompts, target and peers are found, then `run` measures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from evodraft.assemble import DEMO, LoadOptions, load_target
from evodraft.bench.lineup import methods_of, start_peers
from evodraft.bench.plan import Order
from evodraft.bench.prompts import collect, overrides_for
from evodraft.bench.run import Notify, run
from evodraft.bench.sources import data_folder
from evodraft.bench.suites import Suite, load_suite
from evodraft.bench.synthetic import ForcedAcceptance, random_pair
from evodraft.errors import ConfigError

if TYPE_CHECKING:
    from evodraft.assemble import LoadedTarget
    from evodraft.bench.result import Result

RANDOM = "random:"  # before the name of a shape
_LONGEST_FOR_PEERS = 4096  # tokens per sequence that peers make room for


@dataclass(frozen=True, slots=True)
class Wishes:
    """A benchmark as a user orders it. None = as the suite has it."""

    suite: str
    is_quick: bool = False
    model: str = DEMO
    draft: str | None = None
    methods: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    baseline: str = "plain"
    peers_folder: Path = Path("benchmarks/peers")
    data: Path | None = None
    prompts: Path | None = None
    force_acceptance: float | None = None
    threads: int | None = None
    load: Mapping[str, Any] = field(default_factory=dict)  # fields of LoadOptions
    overrides: Mapping[str, object] = field(default_factory=dict)  # keys of the suite
    command: tuple[str, ...] = ()


class Models(NamedTuple):
    """What is measured."""

    target: LoadedTarget
    draft: object  # a name or a model for drafter "auto"; None = what auto finds
    synthetic: str | None


def prepare(wishes: Wishes) -> Order:
    """Suite, prompts and models of a benchmark; raises an error of the tree if it cannot be done."""
    suite = _suite(wishes)
    if wishes.threads is not None:
        torch.set_num_threads(wishes.threads)
    prompts = collect(suite, data_folder(wishes.data))
    models = _models(wishes)
    synthetic, verifier = models.synthetic, None
    if wishes.force_acceptance is not None:
        verifier = ForcedAcceptance(wishes.force_acceptance)
        synthetic = "; ".join(filter(None, [synthetic, verifier.note]))
    if synthetic is not None and (wishes.peers or suite.peers):
        raise ConfigError(f"peers cannot be compared with what is synthetic ({synthetic}); leave one of them out")
    return Order(
        suite=replace(suite, methods=methods_of(wishes.methods, suite, models.draft)),
        prompts=prompts,
        target=models.target,
        model=wishes.model,
        baseline=wishes.baseline,
        load=LoadOptions(**wishes.load),
        synthetic=synthetic,
        forced_verifier=verifier,
        command=wishes.command,
    )


def start(wishes: Wishes, notify: Notify = lambda step: None) -> Result:
    """Carries out a benchmark, peers included."""
    order = prepare(wishes)
    with ExitStack() as stack:
        peers = start_peers(
            wishes.peers or order.suite.peers,
            wishes.peers_folder,
            wishes.model,
            wishes.draft,
            order.target,
            threads=torch.get_num_threads(),
            max_model_len=min(order.max_length, _LONGEST_FOR_PEERS),
            max_batch=max(condition.batch_size for condition in order.suite.conditions),
            stack=stack,
        )
        return run(order, peers, notify)


def _suite(wishes: Wishes) -> Suite:
    own = {} if wishes.prompts is None else overrides_for(wishes.prompts)
    most = own.pop("prompts_per_group", None)
    said = {name: value for name, value in wishes.overrides.items() if value is not None}
    has_data = data_folder(wishes.data) is not None and wishes.prompts is None
    suite = load_suite(wishes.suite, is_quick=wishes.is_quick, has_data=has_data, **{**own, **said})
    if isinstance(most, int) and "prompts_per_group" not in said:
        suite = replace(suite, prompts_per_group=min(most, suite.prompts_per_group))
    return suite


def _models(wishes: Wishes) -> Models:
    if wishes.model.startswith(RANDOM):
        if wishes.draft is not None:
            raise ConfigError(
                f"--draft {wishes.draft} does not go with {wishes.model}, which makes its own; leave it out"
            )
        load = LoadOptions(**wishes.load)
        pair = random_pair(wishes.model.removeprefix(RANDOM), load.dtype, load.device)
        return Models(pair.target, pair.draft, pair.note)
    return Models(load_target(wishes.model, LoadOptions(**wishes.load)), wishes.draft, None)
