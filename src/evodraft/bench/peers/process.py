"""A peer as a contestant: what is asked becomes requests to its worker, replies become answers. Knows no engine.

The protocol is that of `workers/worker.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from evodraft.bench.contestants import Answer, Ask, Memory, Outcome, Profile
from evodraft.bench.peers.base import Mode, Peer
from evodraft.bench.peers.install import environment_of, installed, python_of
from evodraft.bench.peers.worker_process import WorkerProcess
from evodraft.errors import BenchError
from evodraft.types import GenerationStats

REPLY_LIMIT_S: Final = 1800.0  # loading may convert and compile
_WORKERS: Final = Path(__file__).parent / "workers"
_COUNTS: Final = ("num_target_passes", "num_rounds", "num_draft_tokens", "num_accepted_tokens")


class PeerContestant:
    """Answers prompts through another engine.

    `mode` is one of `peer.modes`; `folder` holds the pins and environments of peers; `target` and `draft` are folders
    of models; `synthetic` says why no figure is one of a real model. Raises BenchError if the environment or a needed
    draft is missing, or if the peer cannot load the models.
    """

    def __init__(
        self,
        peer: Peer,
        mode: Mode,
        folder: Path,
        target: Path,
        draft: Path | None = None,
        *,
        dtype: str,
        threads: int,
        eos_token_ids: Sequence[int],
        max_model_len: int,
        max_batch: int = 1,
        synthetic: str | None = None,
        reply_limit_s: float = REPLY_LIMIT_S,
    ) -> None:
        mode_name = next(name for name, known in peer.modes.items() if known is mode)
        name = f"{peer.name}/{mode_name}"
        if mode.needs_draft and draft is None:
            raise BenchError(f"peer {name} needs a draft model with the target's tokens, and there is none; name one")
        check_installed(peer, folder)
        self._mode = mode
        self._worker = WorkerProcess(name, python_of(peer, folder), _WORKERS / peer.worker, threads, reply_limit_s)
        loaded = self._worker.demand(
            {
                "op": "load",
                "target": str(target),
                "draft": str(draft) if mode.needs_draft else None,
                "mode": mode_name,
                "dtype": dtype,
                "threads": threads,
                "eos_token_ids": list(eos_token_ids),
                "max_model_len": max_model_len,
                "max_batch": min(max_batch, mode.max_batch),
                "options": dict(mode.options),
            }
        )
        about = (loaded.get("versions", {}), mode.is_exact, synthetic, loaded.get("label", ""), mode.max_batch)
        self.profile = Profile(name, "peer", mode.options, *about)

    def reset(self) -> None:
        """Forgets everything that was learnt from earlier prompts."""
        self._worker.demand({"op": "reset"})

    def generate(self, asks: Sequence[Ask]) -> Outcome:
        """Answers one batch; what the peer could not do stands in the answers. Raises BenchError if it is gone."""
        if len(asks) > self._mode.max_batch:
            raise BenchError(
                f"peer {self.profile.name} decodes at most {self._mode.max_batch} prompts together, "
                f"and {len(asks)} were asked; leave it out of this batch size"
            )
        started = time.perf_counter()
        reply = self._worker.ask({"op": "generate", "asks": [asdict(ask) for ask in asks]})
        if "error" in reply:
            failed = Answer((), error=str(reply["error"]))
            return Outcome((failed,) * len(asks), time.perf_counter() - started)
        try:
            answers = tuple(_answer(ask, told) for ask, told in zip(asks, reply["answers"], strict=True))
            return Outcome(answers, float(reply["request_s"]), reply["decode_s"])
        except (KeyError, TypeError, ValueError) as error:
            self._worker.fail(f"its reply does not keep the protocol: {error!r}")

    def memory(self) -> Memory:
        """Peak of the peer's processes, seen from outside."""
        return Memory(resident_bytes=self._worker.demand({"op": "memory"}).get("resident_bytes"))

    def close(self) -> None:
        """Ends the process; closing twice is fine."""
        self._worker.close()


def check_installed(peer: Peer, folder: Path) -> None:
    """Raises BenchError unless the peer's environment in `folder` is complete."""
    if not installed(peer, folder):
        raise BenchError(
            f"peer {peer.name}: {environment_of(peer, folder)} is missing or not made from the pins of today; "
            f"make it with 'evodraft bench peers --install {peer.name}', or name where it is with --peers-folder"
        )


def _answer(ask: Ask, told: Mapping[str, Any]) -> Answer:
    if told.get("error") is not None:
        return Answer((), error=str(told["error"]))
    return Answer(tuple(map(int, told["token_ids"])), _stats(ask, told))


def _stats(ask: Ask, told: Mapping[str, Any]) -> GenerationStats | None:
    """None unless the peer tells passes, rounds, proposed and accepted tokens. Its times stand in the outcome."""
    counts = [int(told[name]) for name in _COUNTS if told.get(name) is not None]
    if len(counts) < len(_COUNTS):
        return None
    num_passes, num_rounds, num_drafted, num_accepted = counts
    num_tokens = len(told["token_ids"])
    return GenerationStats(
        num_prompt_tokens=len(ask.token_ids),
        num_tokens=num_tokens,
        num_target_passes=num_passes,
        num_rounds=num_rounds,
        num_draft_tokens=num_drafted,
        num_accepted_tokens=num_accepted,
        num_round_tokens=num_tokens - (num_passes - num_rounds),  # a pass without a draft commits one token
        accepted_per_position=tuple(told.get("accepted_per_position") or ()),
    )
