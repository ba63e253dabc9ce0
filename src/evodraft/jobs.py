"""One sample of one prompt on its way through the engine: text beside tokens, and what comes back to the caller.

Does not step the engine and does not know models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from evodraft.errors import SamplingError
from evodraft.types import Completion, Piece, Request, StopCheck

if TYPE_CHECKING:
    from evodraft.errors import EvodraftError
    from evodraft.session import Session
    from evodraft.text import TextBuffer


@dataclass(slots=True)
class Job:
    """A request with its text, and its session or the error that kept it out."""

    request: Request
    buffer: TextBuffer | None  # None: there is no tokenizer
    session: Session | None = None
    error: EvodraftError | None = None
    num_streamed_commits: int = 0
    num_streamed_tokens: int = 0

    @property
    def is_finished(self) -> bool:
        return self.session is None or self.session.is_finished

    def next_piece(self) -> Piece | None:
        """What was committed since the last piece; None if nothing was."""
        assert self.session is not None
        if len(self.session.commits) == self.num_streamed_commits:
            return None
        return self._piece("" if self.buffer is None else self.buffer.take())

    def last_piece(self, completion: Completion) -> Piece:
        """All that is left, with the completion."""
        return self._piece("" if self.buffer is None else self.buffer.finish())._replace(completion=completion)

    def completion(self, *, exact: bool) -> Completion:
        """What came of the job; call it when it is finished."""
        if self.session is None:
            return Completion.refused(self.request, self.error)
        if self.buffer is not None:
            self.buffer.flush()
        return self.session.complete(exact=exact, text="" if self.buffer is None else self.buffer.text)

    def _piece(self, text: str) -> Piece:
        assert self.session is not None
        commits = self.session.commits[self.num_streamed_commits :]
        token_ids = self.session.output_ids[self.num_streamed_tokens :]
        self.num_streamed_commits += len(commits)
        self.num_streamed_tokens += len(token_ids)
        return Piece(text, token_ids, min(len(token_ids), sum(commit.num_accepted for commit in commits)))


def callables(name: str, given: Any) -> tuple[Any, ...]:
    """Processors or criteria as a tuple: None is none, one alone is one. Raises SamplingError for anything else."""
    if given is None:
        return ()
    listed = tuple(given) if isinstance(given, Iterable) else (given,)
    for item in listed:
        if not callable(item):
            raise SamplingError(
                f"{name} holds {item!r}, which cannot be called; pass functions or transformers' objects"
            )
    return listed


def stop_check(criterion: Any) -> StopCheck:
    """A transformers StoppingCriteria, or anything called alike, as a stop check."""

    def is_stopped(token_ids: Sequence[int]) -> bool:
        return bool(torch.as_tensor(criterion(torch.tensor([token_ids]), None)).all())

    is_stopped.__name__ = getattr(criterion, "__name__", criterion.__class__.__name__)
    return is_stopped
