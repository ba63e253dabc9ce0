"""Prompts to tokens, and tokens to text one at a time: what may be shown, and where a stop string ends it.

Does not know sessions or models; a TextBuffer follows one sequence and doubles as its stop check.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evodraft.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUM_CONTEXT = 6  # prompt tokens decoded along, because some tokenizers treat the first token of a text specially
_INCOMPLETE = "\ufffd"  # what decoders show for half of a character


def encoded(tokenizer: PreTrainedTokenizerBase, prompt: object) -> list[int]:
    """Token ids of a text prompt, none for an empty one. Raises PromptError for what is not text."""
    if not isinstance(prompt, str):
        raise PromptError(
            f"the prompt ({kind_of(prompt)}) is not a string; pass token ids as prompt_token_ids=[[1, 2]]"
        )
    _check_encodable(prompt)
    return list(tokenizer(prompt)["input_ids"]) if prompt else []


def encoded_chat(tokenizer: PreTrainedTokenizerBase, messages: object) -> list[int]:
    """Token ids of a conversation. Raises PromptError for what the chat template cannot read."""
    if not tokenizer.chat_template:
        raise ConfigError("this tokenizer has no chat template; use generate with a plain prompt")
    try:
        listed = [dict(message) for message in messages]  # type: ignore[attr-defined]  # tried, not known
        text = tokenizer.apply_chat_template(listed, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates are programs: whatever one raises is about these messages
        own_words = str(error) if str(error) in str(tokenizer.chat_template) else ""  # others may quote the messages
        raise PromptError(
            f"the chat template cannot read these messages ({own_words or type(error).__name__}); "
            "pass a list of {'role': 'user', 'content': TEXT}, which 'assistant' and 'user' messages may follow"
        ) from None
    _check_encodable(str(text))
    return list(tokenizer(str(text), add_special_tokens=False)["input_ids"])


def checked_ids(token_ids: object) -> list[int]:
    """A list, array or tensor of whole numbers as a list. Raises PromptError for anything else."""
    try:
        return [operator.index(token_id) for token_id in token_ids]  # type: ignore[attr-defined]  # tried, not known
    except (TypeError, ValueError):  # ValueError: a tensor of tensors
        raise PromptError(
            f"the prompt ({kind_of(token_ids)}) is not a list of token ids; write [1, 2, 3] for one prompt, and a list "
            "of such lists for generate(prompt_token_ids=...)"
        ) from None


def _check_encodable(prompt: str) -> None:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the prompt has half of a surrogate pair at character {error.start}, which no tokenizer can read; "
            "decode its bytes with errors='replace'"
        ) from None


def kind_of(given: object) -> str:
    """What was given in place of a prompt, by its types only: messages are logged, prompts are not."""
    kind = type(given).__name__
    if not isinstance(given, (list, tuple)):
        return kind
    inner = {type(item).__name__ for item in given}
    return f"{kind} of {' and '.join(sorted(inner)) or 'nothing'}"


class TextBuffer:
    """The text of one sequence's output.

    Called with all token ids (prompt included) after each committed token, it returns True when a stop string is
    complete, even where it spans several tokens. The text then ends before the stop string. A stop string that the
    caller ignores (too early) stays in the text and is not reported again.

    Args:
        tokenizer: decodes; special tokens are skipped.
        prompt_ids: token ids before the output.
        stop: strings that end the output.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids = list(prompt_ids[-_NUM_CONTEXT:])
        self._num_prompt = self._num_seen = len(prompt_ids)
        self._prefix = 0  # ids[prefix:read] is text already decoded, ids[read:] may end within a character
        self._read = len(self._ids)
        self._num_ahead = 0  # characters of ids[read:] that are in the text nevertheless
        self._is_aligned = False  # the prompt may end within a character, which the output completes
        self._text = ""
        self._stop_at: int | None = None
        self._num_taken = 0

    def __call__(self, token_ids: Sequence[int]) -> bool:
        """Follows the sequence to `token_ids`; True if its last token completed a stop string."""
        new_ids = token_ids[self._num_seen :]
        self._num_seen = len(token_ids)
        if not self._stop:  # nobody waits for the text: it is decoded when it is asked for
            self._ids += new_ids
            return False
        for token_id in new_ids:
            self._ids.append(token_id)
            self._decode()
        return self._stop_at is not None

    @property
    def text(self) -> str:
        """All text so far, cut before a stop string."""
        return self._text if self._stop_at is None else self._text[: self._stop_at]

    def take(self) -> str:
        """Text not taken before; what might become a stop string is held back until that is settled."""
        if not self._stop:
            self._decode()
        end = len(self.text)
        if self._stop_at is None:
            end -= self._num_undecided()
        taken, self._num_taken = self.text[self._num_taken : end], max(end, self._num_taken)
        return taken

    def flush(self) -> None:
        """The sequence is over: half a character at its end is shown as what it is, if the output has part of it."""
        if self._stop_at is None and self._num_seen > self._num_prompt:
            self._decode(flush=True)

    def finish(self) -> str:
        """Text not taken before, to the very end."""
        self.flush()
        taken, self._num_taken = self.text[self._num_taken :], len(self.text)
        return taken

    def _decode(self, *, flush: bool = False) -> None:
        """Adds what the new tokens say, except half a character at their end, and looks for stop strings in it."""
        self._align()
        num_before = len(self._text)
        shown = self._decoded(self._ids[self._prefix : self._read])
        longer = self._decoded(self._ids[self._prefix :])
        settled = longer if flush else longer.rstrip(_INCOMPLETE)
        self._text += settled[len(shown) + self._num_ahead :]
        self._num_ahead += len(self._text) - num_before
        if settled == longer and len(longer) > len(shown):
            self._prefix, self._read, self._num_ahead = self._read, len(self._ids), 0
        self._stop_at = self._find_stop(num_before)

    def _align(self) -> None:
        """Moves what counts as decoded back to the last whole character of the prompt, once."""
        while not self._is_aligned and self._read > 0:
            self._is_aligned = not self._decoded(self._ids[: self._read]).endswith(_INCOMPLETE)
            self._read -= not self._is_aligned
        self._is_aligned = True

    def _decoded(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def _find_stop(self, num_before: int) -> int | None:
        """Where the earliest of the stop strings that the text beyond `num_before` completed begins."""
        found = [self._text.find(stop, max(0, num_before - len(stop) + 1)) for stop in self._stop]
        return min((start for start in found if start >= 0), default=None)

    def _num_undecided(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-size:]) for stop in self._stop):
                return size
        return 0
