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
from evodraft.bench.peers import find_peer
from evodraft.bench.peers.process import check_installed
from evodraft.bench.plan import Order
from evodraft.bench.prompts import collect, overrides_for
from evodraft.bench.run import Notify, run
from evodraft.bench.sources import data_folder
from evodraft.bench.suites import Suite, load_suite
from evodraft.bench.synthetic import ForcedAcceptance, random_pair, stored_pair
from evodraft.errors import ConfigError

if TYPE_CHECKING:
    from evodraft.assemble import LoadedTarget
    from evodraft.bench.result import Result

RANDOM = "random:"  # before the name of a shape


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
    folder: Path | None = None  # in which peers find the target, where its name is no place


def prepare(wishes: Wishes) -> Order:
    """Suite, prompts and models of a benchmark; raises an error of the tree if it cannot be done."""
    suite = _suite(wishes)
    if wishes.threads is not None:
        torch.set_num_threads(wishes.threads)
    prompts = collect(suite, data_folder(wishes.data))
    peers = wishes.peers or suite.peers
    if peers and wishes.force_acceptance is not None:
        raise ConfigError("peers accept what they accept, so --force-acceptance goes with no --peer; leave one out")
    for spec in peers:  # before a model is loaded, or even written
        check_installed(find_peer(spec)[0], wishes.peers_folder)
    models = _models(wishes, len(peers))
    synthetic, verifier = models.synthetic, None
    if wishes.force_acceptance is not None:
        verifier = ForcedAcceptance(wishes.force_acceptance)
        synthetic = "; ".join(filter(None, [synthetic, verifier.note]))
    return Order(
        suite=replace(suite, methods=methods_of(wishes.methods, suite, models.draft)),
        prompts=prompts,
        target=models.target,
        model=wishes.model,
        baseline=wishes.baseline,
        load=LoadOptions(**wishes.load),
        synthetic=synthetic,
        forced_verifier=verifier,
        folder=models.folder,
        command=wishes.command,
        notes=_notes(suite),
    )


def start(wishes: Wishes, notify: Notify = lambda step: None) -> Result:
    """Carries out a benchmark, peers included."""
    order = prepare(wishes)
    with ExitStack() as stack:
        peers = start_peers(
            wishes.peers or order.suite.peers,
            wishes.peers_folder,
            order,
            wishes.draft,
            threads=torch.get_num_threads(),
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


def _notes(suite: Suite) -> tuple[str, ...]:
    return (f"no token ends an answer: all have {suite.max_new_tokens} tokens",) if suite.ignore_eos else ()


def _models(wishes: Wishes, num_peers: int) -> Models:
    """Random weights are a folder only where peers must load them: it is as large as they are."""
    load = LoadOptions(**wishes.load)
    if wishes.model.startswith(RANDOM):
        if wishes.draft is not None:
            raise ConfigError(
                f"--draft {wishes.draft} does not go with {wishes.model}, which makes its own; leave it out"
            )
        shape, folder = wishes.model.removeprefix(RANDOM), None
        if num_peers:
            pair, folder = stored_pair(shape, load.dtype, load.device, num_copies=1 + num_peers)
        else:
            pair = random_pair(shape, load.dtype, load.device)
        return Models(pair.target, pair.draft, pair.note, folder)
    return Models(load_target(wishes.model, load), wishes.draft, None)
