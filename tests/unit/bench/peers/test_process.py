"""PeerContestant against a worker that really runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evodraft.bench.contestants import Ask, Contestant
from evodraft.bench.peers.base import Peer
from evodraft.bench.peers.process import PeerContestant
from evodraft.errors import BenchError

ERROR, CRASH, NONSENSE, FAULT = 1, 2, 5, 6  # first token ids, as in the fake worker


def contestant(peer: Peer, folder: Path, mode: str = "plain", **changes: Any) -> PeerContestant:
    options = {"dtype": "float32", "threads": 3, "eos_token_ids": [0], "max_model_len": 64, "max_batch": 8}
    models = {"target": Path("target"), "draft": None}
    return PeerContestant(peer, peer.modes[mode], folder, **{**models, **options, **changes})


@pytest.fixture
def running(fake_peer: Callable[..., Peer], tmp_path: Path) -> Iterator[PeerContestant]:
    made = contestant(fake_peer(), tmp_path)
    yield made
    made.close()


def ask(first: int = 9, temperature: float = 0.7) -> Ask:
    return Ask((first, 8), max_new_tokens=4, temperature=temperature, seed=7, stop_token_ids=(0,))


def test_profile_says_who_answers(running: PeerContestant) -> None:
    checked: Contestant = running
    assert checked.profile.name == "fake/plain"
    assert checked.profile.kind == "peer"
    assert checked.profile.label == "fake"
    assert checked.profile.options == {"speed": 1}
    assert checked.profile.is_exact
    assert checked.profile.synthetic is None


def test_profile_says_that_weights_are_none_of_a_real_model(fake_peer: Callable[..., Peer], tmp_path: Path) -> None:
    made = contestant(fake_peer(), tmp_path, synthetic="random weights")
    made.close()
    assert made.profile.synthetic == "random weights"


def test_worker_gets_threads_and_its_own_environment(
    fake_peer: Callable[..., Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/this/python")
    made = contestant(fake_peer(), tmp_path)
    made.close()
    seen = made.profile.versions
    assert (seen["OMP_NUM_THREADS"], seen["MKL_NUM_THREADS"], seen["HF_HUB_OFFLINE"]) == ("3", "3", "1")
    assert seen["PYTHONPATH"] == ""
    assert seen["PATH"].split(os.pathsep)[0] == str(tmp_path / ".venv-fake" / "bin")


def test_answers_carry_ids_times_and_counts(running: PeerContestant) -> None:
    outcome = running.generate([ask(), ask()])
    assert (outcome.request_s, outcome.decode_s, len(outcome.answers)) == (0.5, 0.25, 2)
    assert outcome.answers[0].token_ids == (0, 2, 0, 7)  # resets, batch cut to the mode's, stop id, seed
    stats = outcome.answers[0].stats
    assert stats is not None
    assert (stats.num_tokens, stats.num_prompt_tokens, stats.num_target_passes) == (4, 2, 3)
    assert (stats.num_rounds, stats.num_draft_tokens, stats.num_accepted_tokens) == (2, 4, 2)
    assert stats.num_round_tokens == 3  # four tokens in three passes, one of which carried no draft
    assert stats.accepted_per_position == (2,)


def test_without_all_counts_there_are_no_stats(running: PeerContestant) -> None:
    assert running.generate([ask(temperature=0.0)]).answers[0].stats is None


def test_reset_and_memory_reach_the_worker(running: PeerContestant) -> None:
    running.reset()
    assert running.generate([ask()]).answers[0].token_ids[0] == 1
    resident = running.memory().resident_bytes
    assert resident is not None
    assert resident > 1 << 20


def test_an_error_reply_stands_in_the_answers(running: PeerContestant) -> None:
    outcome = running.generate([ask(ERROR), ask()])
    assert [answer.error for answer in outcome.answers] == ["ValueError: this batch cannot be"] * 2
    assert outcome.decode_s is None
    assert running.generate([ask()]).answers[0].error is None  # it lives on


def test_a_fault_of_one_prompt_stands_in_its_answer(running: PeerContestant) -> None:
    answer = running.generate([ask(FAULT)]).answers[0]
    assert (answer.error, answer.token_ids, answer.stats) == ("too long", (), None)


def test_a_crash_is_a_bench_error_and_stays_one(running: PeerContestant) -> None:
    with pytest.raises(BenchError, match="fake/plain: the worker ended with exit code 3") as caught:
        running.generate([ask(CRASH)])
    assert "last words" in str(caught.value)
    with pytest.raises(BenchError, match="is closed since it failed: the worker ended with exit code 3"):
        running.generate([ask()])


def test_a_reply_against_the_protocol_is_a_bench_error(running: PeerContestant) -> None:
    with pytest.raises(BenchError, match="does not keep the protocol: KeyError.'answers'"):
        running.generate([ask(NONSENSE)])


def test_too_large_a_batch_is_refused_before_it_is_sent(running: PeerContestant) -> None:
    with pytest.raises(BenchError, match="at most 2 prompts together, and 3 were asked"):
        running.generate([ask()] * 3)
    assert running.generate([ask()]).answers[0].error is None


def test_models_that_do_not_load_are_a_bench_error(fake_peer: Callable[..., Peer], tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="load: FileNotFoundError: no such model"):
        contestant(fake_peer(), tmp_path, target=Path("missing"))


def test_missing_environment_names_the_command_that_makes_it(fake_peer: Callable[..., Peer], tmp_path: Path) -> None:
    peer = fake_peer()
    (tmp_path / "fake.txt").write_text("numpy==2.0.0\n", encoding="utf-8")  # the pins have changed
    with pytest.raises(BenchError, match="evodraft bench peers --install fake") as caught:
        contestant(peer, tmp_path)
    assert str(tmp_path / ".venv-fake") in str(caught.value)


def test_missing_draft_is_named(fake_peer: Callable[..., Peer], tmp_path: Path) -> None:
    peer = fake_peer()
    with pytest.raises(BenchError, match="fake/draft needs a draft model"):
        contestant(peer, tmp_path, mode="draft")
    made = contestant(peer, tmp_path, mode="draft", draft=Path("draft"))
    made.close()
    assert not made.profile.is_exact
