"""Does a user's own pair say what its target says, and is it faster? One document that others can check.

Exactness is judged in float32, where rounding cannot excuse a difference (X13); speed as the model is stored. The plain
tokens of our runtime are also compared with those of transformers' own `generate`. Does not know the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from evodraft.bench.checks import Judge
from evodraft.bench.own import Method, Stage
from evodraft.bench.plan import PLAIN, plans_of
from evodraft.bench.result import ALL
from evodraft.bench.run import Notify, run
from evodraft.bench.schema import document
from evodraft.bench.start import Wishes, prepare
from evodraft.bench.theirs import generated
from evodraft.config import EngineConfig
from evodraft.runtime.integrity import record_of

if TYPE_CHECKING:
    from evodraft.bench.plan import Order
    from evodraft.bench.result import Interval, Result, Row

SCHEMA: Final = "evodraft.verify/1"
PAIR: Final = "pair"
_SUITE: Final = "verify"


@dataclass(frozen=True, slots=True)
class DraftRecord:
    """Which draft was used; everything None = it drafts without a model."""

    name: str | None = None
    commit: str | None = None  # of a hub model
    sha256: Mapping[str, str] | None = None  # file -> hash, of a folder on this disk
    num_parameters: int | None = None


class Reference(NamedTuple):
    """Plain greedy outputs of our runtime beside those of transformers' `generate`, in float32."""

    num_outputs: int
    num_identical: int
    worst_deficit_nats: float  # of transformers' tokens, under our runtime's logits
    tolerance_nats: float

    @property
    def is_passed(self) -> bool:
        return self.worst_deficit_nats <= self.tolerance_nats


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found, and why it is not enough, if it is not."""

    drafter: str  # as the user named it
    draft: DraftRecord
    reference: Reference
    exactness: Result  # in float32
    speed: Result
    reasons: tuple[str, ...]  # against calling the pair verified; empty = verified

    @property
    def is_verified(self) -> bool:
        return not self.reasons

    @property
    def speed_up(self) -> Interval | None:
        """Under the headline condition, over all prompts."""
        return _headline(self.speed).speed_up


def verify(wishes: Wishes, drafter: str, notify: Notify = lambda step: None) -> Verification:
    """Measures one pair; `wishes` says what on, `drafter` is a name as in `LLM.from_pretrained`.

    Raises an error of the tree if the pair cannot be loaded.
    """
    methods = (f"drafter={drafter}",)
    wishes = replace(wishes, suite=_SUITE, methods=methods)
    exact_order = _named(prepare(replace(wishes, load={**wishes.load, "dtype": "float32"})))
    exactness = run(exact_order, notify=notify)
    reference = compare_with_transformers(exact_order)
    draft = _describe_draft(exact_order)
    del exact_order  # its weights go before the others come
    speed = run(_named(prepare(wishes)), notify=notify)
    reasons = (*_doubts_of_exactness(exactness, reference), *_doubts_of_speed(speed))
    return Verification(drafter, draft, reference, exactness, speed, reasons)


def as_document(verification: Verification) -> dict[str, Any]:
    """What is written to JSON."""
    return {
        "schema": SCHEMA,
        "is_verified": verification.is_verified,
        "reasons": list(verification.reasons),
        "drafter": _without_place(verification.drafter),
        "draft": asdict(verification.draft),
        "reference": {**verification.reference._asdict(), "is_passed": verification.reference.is_passed},
        "exactness": document(verification.exactness),
        "speed": document(verification.speed),
    }


def compare_with_transformers(order: Order) -> Reference:
    """Greedy outputs of the same prompts, once by our plain decoding and once by `model.generate`."""
    plan = next(plan for plan in plans_of(order, ()) if plan.condition.temperature == 0)
    stage = Stage(order.target, order.load, EngineConfig(max_batch=1))
    plain = Method(PLAIN, {"drafter": None}, stage)
    judge = Judge(plain.engine.target.decoder, order.vocab_size, order.target.model.dtype)
    asks = [ask for batch in plan.batches for ask in batch.asks]
    num_identical, worst = 0, 0.0
    for ask in asks:
        [answer] = plain.generate([ask]).answers
        theirs = generated(order.target.model, ask)
        num_identical += answer.token_ids == theirs
        worst = max(worst, *judge.find(ask, theirs, "greedy").deficits)
    return Reference(len(asks), num_identical, worst, judge.tolerance(0.0, "greedy"))


def _without_place(drafter: str) -> str:
    """A folder by its name: its place says nothing to others.

    >>> _without_place("ngram"), _without_place("model:owner/draft")
    ('ngram', 'model:owner/draft')
    """
    name, colon, place = drafter.partition(":")
    return f"{name}{colon}{Path(place).name if Path(place).is_dir() else place}"


def _named(order: Order) -> Order:
    """The one method under the name that the document uses."""
    [options] = order.suite.methods.values()
    return replace(order, suite=replace(order.suite, methods={PAIR: options}))


def _describe_draft(order: Order) -> DraftRecord:
    [options] = order.suite.methods.values()
    method = Method(PAIR, options, Stage(order.target, order.load, EngineConfig(max_batch=1)))
    decoder = getattr(method.engine.drafter, "decoder", None)
    model = getattr(decoder, "model", None)
    if model is None:
        return DraftRecord()
    place, commit = str(model.config.name_or_path), getattr(model.config, "_commit_hash", None)
    folder = Path(place)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    hashes = {file.name: found.sha256 for file in files if (found := record_of(file)) is not None}
    return DraftRecord(
        name=folder.name if folder.is_dir() else place,
        commit=commit,
        sha256=hashes or None,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _doubts_of_exactness(result: Result, reference: Reference) -> list[str]:
    doubts = (
        []
        if reference.is_passed
        else [
            f"plain tokens differ from transformers' by up to {reference.worst_deficit_nats:.3g} nats in float32, "
            f"and rounding explains {reference.tolerance_nats:g}"
        ]
    )
    for row in (row for row in result.rows if row.group == ALL and row.contestant == PAIR):
        if row.error is not None:
            doubts.append(f"{row.condition}: {row.error}")
        elif row.check is not None and not row.check.is_passed:
            doubts.append(f"{row.condition}: the {row.check.kind} check failed in float32")
        elif row.check is not None and row.check.kind == "none":
            doubts.append(f"{row.condition}: the method does not claim the target's own output law")
    return doubts


def _doubts_of_speed(result: Result) -> list[str]:
    row = _headline(result)
    if row.error is not None or row.speed_up is None:
        return [f"speed, {row.condition}: {row.error or 'not measured'}"]
    doubts = []
    if result.noise is None or not result.noise.is_quiet:
        doubts.append("the machine was too noisy: the baseline differs from itself; measure again")
    if row.speed_up.low <= 1.0:
        shown = f"{row.speed_up.value:.2f} ({row.speed_up.low:.2f} to {row.speed_up.high:.2f})"
        doubts.append(f"no speed-up on this machine: {shown} times plain decoding, {row.condition}")
    return doubts


def _headline(result: Result) -> Row:
    condition = result.conditions[0].name
    rows: Sequence[Row] = [row for row in result.rows if row.group == ALL and row.condition == condition]
    return next(row for row in rows if row.contestant == PAIR)
