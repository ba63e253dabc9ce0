"""transformers' own `generate` as a contestant."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evodraft.assemble import LoadedTarget, LoadOptions
from evodraft.bench.contestants import Ask, Contestant, Memory
from evodraft.bench.own import Method, Stage
from evodraft.bench.theirs import Generate, generated
from evodraft.config import EngineConfig
from evodraft.errors import BenchError
from evodraft.testing.pairs import tiny_pair

PAIR = tiny_pair()
ASK = Ask((10, 20, 30), 12)


def test_it_says_what_plain_decoding_says_and_how_long_it_took() -> None:
    theirs: Contestant = Generate(PAIR.target, synthetic="random weights")
    plain = Method("plain", {"drafter": None}, Stage(LoadedTarget(PAIR.target, None), LoadOptions(), EngineConfig(1)))
    outcome = theirs.generate([ASK])
    assert outcome.answers[0].token_ids == plain.generate([ASK]).answers[0].token_ids == generated(PAIR.target, ASK)
    assert len(outcome.answers[0].token_ids) == 12
    assert outcome.decode_s is not None
    assert 0 < outcome.decode_s <= outcome.request_s
    assert (theirs.profile.name, theirs.profile.synthetic) == ("generate", "random weights")
    theirs.reset()
    assert theirs.memory() == Memory()
    theirs.close()


def test_it_ends_after_a_stop_token() -> None:
    said = generated(PAIR.target, ASK)
    stop = said[3]
    cut = generated(PAIR.target, replace(ASK, stop_token_ids=(stop,)))
    assert cut == said[: said.index(stop) + 1]


def test_one_token_has_no_time_of_its_own() -> None:
    assert Generate(PAIR.target).generate([replace(ASK, max_new_tokens=1)]).decode_s is None


@pytest.mark.parametrize("asks", [[ASK, ASK], [replace(ASK, temperature=0.7)]])
def test_batches_and_samples_are_refused(asks: list[Ask]) -> None:
    with pytest.raises(BenchError, match="one prompt at temperature 0"):
        Generate(PAIR.target).generate(asks)
