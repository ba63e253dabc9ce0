"""The order of turns, resets, the warm-up, and what becomes of faults."""

from __future__ import annotations

from collections.abc import Sequence

from evodraft.bench.contestants import Answer, Ask, Memory, Outcome, Profile
from evodraft.bench.measure import Batch, measure


class Scripted:
    """Answers with its own number; writes down what it is told."""

    def __init__(self, name: str, log: list[str], kind: str = "method", fails_at: int | None = None) -> None:
        self.profile = Profile(name, kind)  # type: ignore[arg-type]  # one of the two
        self._log = log
        self._fails_at = fails_at

    def reset(self) -> None:
        self._log.append(f"{self.profile.name} reset")

    def generate(self, asks: Sequence[Ask]) -> Outcome:
        self._log.append(f"{self.profile.name} {asks[0].token_ids[0]}:{asks[0].max_new_tokens}")
        if asks[0].token_ids[0] == self._fails_at:
            raise RuntimeError("broken")
        return Outcome(tuple(Answer((1, 2)) for _ in asks), 1.0)

    def memory(self) -> Memory:
        return Memory()

    def close(self) -> None:
        """Nothing is open."""


def batches(count: int) -> list[Batch]:
    return [Batch(number, "law", (Ask((number,), 50, seed=1000 * number),)) for number in range(count)]


def test_contestants_take_turns_prompt_by_prompt_after_a_warm_up_and_a_reset() -> None:
    log: list[str] = []
    turns = list(measure([Scripted(name, log) for name in ("plain", "a", "b")], batches(2), repeats=2))
    assert log[:3] == ["plain 0:8", "a 0:8", "b 0:8"]  # the warm-up is short
    assert log[3:6] == ["plain reset", "a reset", "b reset"]
    assert log[6:12] == ["plain 0:50", "a 0:50", "b 0:50", "plain 1:50", "b 1:50", "a 1:50"]
    assert log[12:15] == ["plain reset", "a reset", "b reset"]
    assert len(turns) == 2 * 2 * 3
    assert [turn.contestant for turn in turns[::3]] == ["plain"] * 4


def test_repeats_have_seeds_of_their_own_and_contestants_share_them() -> None:
    turns = list(measure([Scripted(name, []) for name in ("plain", "a")], batches(2), repeats=3))
    seeds = {(turn.batch.number, turn.repeat): turn.asks[0].seed for turn in turns if turn.contestant == "plain"}
    assert len(set(seeds.values())) == 6
    assert all(turn.asks[0].seed == seeds[turn.batch.number, turn.repeat] for turn in turns)


def test_a_fault_is_noted_and_the_others_go_on() -> None:
    log: list[str] = []
    turns = list(measure([Scripted("plain", log), Scripted("a", log, fails_at=1)], batches(3), repeats=1))
    assert [(turn.contestant, turn.error) for turn in turns if turn.error] == [("a", "RuntimeError: broken")]
    assert len(turns) == 6
    assert log[log.index("a 1:50") + 1] == "a reset"  # nothing half done is left over


def test_the_cores_settle_after_a_peers_turn() -> None:
    slept: list[float] = []
    peer = Scripted("peer", [], kind="peer")
    list(measure([Scripted("plain", []), peer], batches(2), repeats=1, sleep=slept.append))
    assert len(slept) == 2
    assert min(slept) > 0
