"""Reading a prompt is over when it returns, on devices that work on behind the caller's back."""

from __future__ import annotations

import pytest
import torch

from evodraft.assemble import LoadedTarget, LoadOptions
from evodraft.bench import own
from evodraft.bench.contestants import Ask
from evodraft.bench.own import Method, Stage
from evodraft.bench.settled import SettledTarget, settled
from evodraft.config import EngineConfig
from evodraft.target import Target
from evodraft.testing.pairs import tiny_pair

PAIR = tiny_pair()


def method() -> Method:
    return Method(
        "m", {"drafter": None}, Stage(LoadedTarget(PAIR.target, None), LoadOptions(), EngineConfig(1, prefill_budget=4))
    )


def test_it_waits_after_every_chunk_of_a_prompt_and_never_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    def noted(target: Target, device: torch.device) -> Target:
        forward = target.decoder.forward

        def passes(*arguments: object, **options: object) -> object:
            log.append("reads" if options["want_logits"] is False else "scores")
            return forward(*arguments, **options)  # type: ignore[arg-type]  # as they came

        monkeypatch.setattr(target.decoder, "forward", passes)
        return SettledTarget(target, lambda: log.append("waits"))

    monkeypatch.setattr(own, "settled", noted)
    outcome = method().generate([Ask(tuple(range(1, 9)), 3)])
    assert log == ["reads", "waits", "reads", "waits", *["scores"] * 3]
    assert outcome.decode_s is not None


def test_a_processor_has_nothing_to_wait_for() -> None:
    target = method().engine.target
    assert settled(target, torch.device("cpu")) is target
    waiting = settled(target, torch.device("cuda"))
    assert isinstance(waiting, SettledTarget)
    assert (waiting.decoder, waiting.vocab_size, waiting.taps) == (target.decoder, target.vocab_size, target.taps)


def test_the_device_is_the_one_that_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    target = settled(method().engine.target, torch.device("cuda", 1))
    assert target.prefill.__func__ is SettledTarget.prefill  # type: ignore[attr-defined]  # it is a method
    target._wait()  # type: ignore[attr-defined]  # of SettledTarget
    assert waited == [torch.device("cuda", 1)]
