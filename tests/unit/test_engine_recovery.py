"""An exception in the middle of a step leaves sessions from which decoding goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from evodraft.controllers import FixedConfig, FixedController
from evodraft.drafters.model import ModelDrafter
from evodraft.engine import Engine
from evodraft.params import SamplingParams
from evodraft.runtime.base import DecoderOutput
from evodraft.session import Session
from evodraft.target import Target
from evodraft.testing import coupled_tokens
from evodraft.testing.table import TableDecoder, TableLM
from evodraft.testing.trees import TreeDrafter, random_shape
from evodraft.types import Request
from evodraft.verifiers import CoupledVerifier

PROMPTS = [(0, 1, 2, 1, 0, 2), (1,), (2, 2, 0)]


class _Faulty(TableDecoder):
    """Raises once, in pass number `fault`, either before or after it has written."""

    def __init__(self, table: TableLM, fault: int, is_late: bool) -> None:
        super().__init__(table)
        self.fault = fault
        self.is_late = is_late

    def forward(
        self,
        token_ids: torch.Tensor,
        widths: Sequence[int],
        slots: Sequence[int],
        *,
        want_logits: bool = True,
        **options: Any,
    ) -> DecoderOutput:
        self.fault -= 1
        if self.fault == 0 and not self.is_late:
            raise RuntimeError("a kernel failed")
        output = super().forward(token_ids, widths, slots, want_logits=want_logits, **options)
        if self.fault == 0 and want_logits:
            raise KeyboardInterrupt
        return output


def _outputs(target: TableDecoder, draft: TableDecoder) -> tuple[list[tuple[int, ...]], int]:
    """What all prompts yield if the caller carries on after an exception, and how many there were."""
    engine = Engine(Target(target), CoupledVerifier(), ModelDrafter(draft, 3), FixedController(FixedConfig(2)))
    params = SamplingParams(max_new_tokens=10, temperature=1.0)
    sessions: list[Session] = [
        engine.submit(Request(f"r{i}", prompt, params, seed=i)) for i, prompt in enumerate(PROMPTS)
    ]
    num_faults = 0
    while engine.has_work:
        try:
            engine.step()
        except (RuntimeError, KeyboardInterrupt):
            num_faults += 1
    return [session.output_ids for session in sessions], num_faults


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("fault", [1, 2, 3, 5])
@pytest.mark.parametrize("side", ["target", "draft"])
def test_decoding_goes_on_after_an_exception(side: str, fault: int, is_late: bool) -> None:
    tables = {"target": TableLM.random(3, 2, seed=1), "draft": TableLM.random(3, 2, seed=2)}
    expected, _ = _outputs(TableDecoder(tables["target"]), TableDecoder(tables["draft"]))
    decoders = {name: TableDecoder(table) for name, table in tables.items()}
    decoders[side] = _Faulty(tables[side], fault, is_late)
    outputs, num_faults = _outputs(decoders["target"], decoders["draft"])
    assert outputs == expected
    assert num_faults == 1 or (is_late and fault == 1)  # the first pass is prefill, which has no late fault


@pytest.mark.parametrize("place", range(4, 14))
def test_an_interrupt_in_the_middle_of_a_commit_leaves_the_accepted_path(place: int) -> None:
    """What was committed of a tree before a stop check was interrupted stands in the cache, and nothing else does."""
    table = TableLM.random(4, order=2, seed=41)
    is_interrupted = False

    def interrupt(token_ids: Sequence[int]) -> bool:
        nonlocal is_interrupted
        if len(token_ids) == place and not is_interrupted:
            is_interrupted = True
            raise KeyboardInterrupt
        return False

    def item(name: str, *checks: Any) -> Request:
        return Request(name, (1, 2), SamplingParams(max_new_tokens=14, temperature=1.0), ord(name), stop_checks=checks)

    drafter = TreeDrafter(ModelDrafter(TableDecoder(table), 4), random_shape(2))
    controller = FixedController(FixedConfig(4, 12))
    engine = Engine(Target(TableDecoder(table)), CoupledVerifier(), drafter, controller)
    sessions = [engine.submit(item("a")), engine.submit(item("b", interrupt)), engine.submit(item("c"))]
    while engine.has_work:
        try:
            engine.step()
        except KeyboardInterrupt:
            for session in sessions:
                if session.is_finished:
                    continue
                assert engine.target.decoder.length(session.slot) == session.num_cached
    assert is_interrupted
    wanted = [coupled_tokens(table, lambda name=name: item(name)) for name in "abc"]
    assert [session.output_ids for session in sessions] == wanted
    assert engine.metrics.num_accepted_tokens > 10
