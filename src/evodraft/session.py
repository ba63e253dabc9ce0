"""One running request: its tokens, its keys, its counters, and where it stops.

`commit` is the only way tokens enter a sequence; it cuts a verdict at the first stop condition, and everything that
is counted is cut with it (X11). Does not know models, drafters or text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evodraft.errors import EvodraftError, UserCodeError
from evodraft.processors import make_processors
from evodraft.sampling import RequestKeys
from evodraft.types import Commit, Completion, FinishReason, GenerationStats, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from evodraft.types import Draft, Request, StopCheck, Verdict


class Session:
    """State of one request from admission to completion. Owned by the engine; read by controllers and drafters."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.slot = 0  # row of the caches, given at admission
        self.token_ids: list[int] = list(request.token_ids)  # prompt and everything committed
        self.keys = RequestKeys(request.seed, request.sample_index)
        self.processors = make_processors(request)
        self.num_prefilled = 0
        self.finish_reason: FinishReason | None = None
        self.error: EvodraftError | None = None
        self.commits: list[Commit] = []
        self.logprobs: list[TokenLogprob] = []
        self.prefill_s = 0.0
        self._started_s: float | None = None
        self._decode_s = 0.0
        self._num_passes = 0
        self._num_rounds = 0
        self._num_draft_tokens = 0
        self._num_accepted = 0
        self._num_round_tokens = 0
        self._num_fallbacks = 0
        self._accepted_per_position: list[int] = []
        self._ends_with_stop_token = False

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.token_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens committed so far, a final stop token included."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_remaining(self) -> int:
        """Tokens that may still be committed."""
        return self.request.params.max_new_tokens - self.num_tokens

    @property
    def num_to_prefill(self) -> int:
        """Prompt tokens not yet in the target's cache; the last one is fed with the first round."""
        return self.num_prompt_tokens - 1 - self.num_prefilled

    @property
    def num_cached(self) -> int:
        """Tokens that the target's cache holds between rounds: all but the last, which is fed with the next round."""
        return len(self.token_ids) - 1 - self.num_to_prefill

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def output_ids(self) -> tuple[int, ...]:
        """Committed tokens without the stop token that ended them."""
        end = len(self.token_ids) - int(self._ends_with_stop_token)
        return tuple(self.token_ids[self.num_prompt_tokens : end])

    def stops_at(self, token_id: int, num_tokens: int) -> bool:
        """Whether `token_id`, as output token number `num_tokens`, is a stop id that ends the request."""
        return token_id in self.request.stop_token_ids and num_tokens > self.request.params.min_new_tokens

    def begin(self, now_s: float) -> None:
        """Starts the clock of decoding at the first round."""
        if self._started_s is None:
            self._started_s = now_s

    def commit(self, draft: Draft, verdict: Verdict, logits: torch.Tensor, now_s: float) -> Commit:
        """Appends a verdict's tokens up to the first stop condition. `logits` [nodes + 1, vocab] are raw.

        Raises UserCodeError if a stop check of the caller fails; the tokens before it stay committed.
        """
        start = len(self.token_ids)
        try:
            for token_id in verdict.token_ids:
                self.token_ids.append(token_id)
                reason = self._stop_reason(token_id)
                self.finish_reason = self.finish_reason or reason  # a check may have cancelled the request
                if self.is_finished:
                    break
        finally:
            committed = tuple(self.token_ids[start:])
            num_accepted = min(verdict.num_accepted, len(committed))
            self._decode_s = now_s - (self._started_s or 0.0)
            self._count(draft, verdict, len(committed), num_accepted)
            self._note_logprobs(logits, verdict, committed)
            self.commits.append(Commit(committed, num_accepted, self.finish_reason))
        return self.commits[-1]

    def fail(self, error: EvodraftError) -> None:
        """Ends the session with an error."""
        self.error = error
        self.finish_reason = "error"

    def cancel(self) -> None:
        """Ends the session between rounds; what is committed stays."""
        self.finish_reason = "cancelled"

    def complete(self, *, exact: bool, text: str = "") -> Completion:
        """The Completion of a finished session."""
        return Completion(
            request_id=self.request.request_id,
            text=text,
            token_ids=self.output_ids,
            finish_reason=self.finish_reason or "cancelled",
            exact=exact,
            stats=self.stats(),
            seed=self.request.seed,
            prompt_token_ids=self.request.token_ids,
            logprobs=None if self.request.params.logprobs is None else tuple(self.logprobs[: len(self.output_ids)]),
            error=self.error,
        )

    def stats(self) -> GenerationStats:
        """Counters so far."""
        return GenerationStats(
            num_prompt_tokens=self.num_prompt_tokens,
            num_tokens=self.num_tokens,
            num_target_passes=self._num_passes,
            num_rounds=self._num_rounds,
            num_draft_tokens=self._num_draft_tokens,
            num_accepted_tokens=self._num_accepted,
            num_round_tokens=self._num_round_tokens,
            accepted_per_position=tuple(self._accepted_per_position),
            num_fallbacks=self._num_fallbacks,
            prefill_s=self.prefill_s,
            decode_s=self._decode_s,
        )

    def _stop_reason(self, token_id: int) -> FinishReason | None:
        params = self.request.params
        if self.stops_at(token_id, self.num_tokens):
            self._ends_with_stop_token = True
            return "stop"
        # every check sees every token: some of them follow the text
        is_stopped = [_ask(check, self.token_ids) for check in self.request.stop_checks]
        if any(is_stopped) and self.num_tokens >= params.min_new_tokens:
            return "stop"
        return "length" if self.num_remaining <= 0 else None

    def _count(self, draft: Draft, verdict: Verdict, num_committed: int, num_accepted: int) -> None:
        self._num_passes += 1
        self._num_fallbacks += verdict.num_fallbacks
        if draft.num_tokens == 0:
            return
        self._num_rounds += 1
        self._num_draft_tokens += draft.num_tokens
        self._num_accepted += num_accepted
        self._num_round_tokens += num_committed
        missing = num_accepted - len(self._accepted_per_position)
        self._accepted_per_position.extend([0] * missing)
        for position in range(num_accepted):
            self._accepted_per_position[position] += 1

    def _note_logprobs(self, logits: torch.Tensor, verdict: Verdict, committed: Sequence[int]) -> None:
        num_top = self.request.params.logprobs
        if num_top is None:
            return
        rows = [0, *(node + 1 for node in verdict.path)]
        for row, token_id in zip(rows, committed, strict=False):
            law = logits[row].float().log_softmax(dim=-1)
            top = law.topk(min(num_top, law.shape[-1]))
            rivals = dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            self.logprobs.append(TokenLogprob(token_id, law[token_id].item(), rivals))


def _ask(check: StopCheck, token_ids: Sequence[int]) -> bool:
    try:
        return bool(check(token_ids))
    except EvodraftError:
        raise
    except Exception as error:  # foreign code: whatever it raises belongs to this request alone
        name = getattr(check, "__name__", check.__class__.__name__)
        raise UserCodeError(f"stopping criterion {name} raised {error!r}; fix it or leave it out") from error
