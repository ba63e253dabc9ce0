"""`evodraft chat`: a conversation, line by line. Does not know how answers are made."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from evodraft.cli import options
from evodraft.cli.loading import load_llm
from evodraft.cli.terminal import complain, decoded, note, write
from evodraft.display import summary
from evodraft.errors import PromptError, RequestError
from evodraft.params import SamplingParams

if TYPE_CHECKING:
    from evodraft.llm import LLM
    from evodraft.types import Completion


def chat(
    model: options.Model = "demo",
    drafter: options.Drafter = "auto",
    controller: options.Controller = "auto",
    verifier: options.Verifier = "auto",
    vocabulary: options.Vocabulary = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    runtime: options.Runtime = "auto",
    numerics: options.Numerics = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    speculative: options.Speculative = True,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    stop: options.Stop = None,
    seed: options.Seed = None,
) -> None:
    """Talk to a model. Every line is a turn; /help lists what else can be typed."""
    params = SamplingParams(max_new_tokens, temperature, top_p, top_k, min_p, stop=stop or (), seed=seed)
    parts = {"drafter": drafter, "controller": controller, "verifier": verifier, "vocabulary": vocabulary}
    how = {"dtype": dtype, "device": device, "runtime": runtime, "numerics": numerics}
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    llm = load_llm(model, max_batch=1, **parts, **how, **where)
    conversation = Conversation(llm, params, speculative, is_interactive)
    for line in _typed() if is_interactive else _piped():
        conversation.hear(line)
        if conversation.is_over:
            break


class Conversation:
    """What was said so far, and what becomes of the next line.

    Args:
        llm: answers.
        params: of every answer; its length is lowered to what the context still holds.
        speculative: False decodes plainly.
        is_interactive: Ctrl-C ends the answer alone, and an answer that cannot be given leaves no trace, so that the
            next line can be tried; otherwise either ends the program.
    """

    def __init__(self, llm: LLM, params: SamplingParams, speculative: bool, is_interactive: bool) -> None:
        self.is_over = False
        self._is_interactive = is_interactive
        self._llm = llm
        self._params = params
        self._speculative = speculative
        self._messages: list[dict[str, str]] = []
        self._last: Completion | None = None

    def hear(self, line: str) -> None:
        """Obeys a command, answers anything else."""
        if line.startswith("/"):
            name = line.strip()
            if name not in _COMMANDS:
                note(f"unknown command {name}; a message that begins with / needs a space before it")
            _COMMANDS.get(name, _COMMANDS["/help"]).obey(self)
        elif line.strip():
            self._answer(line.strip())

    def leave(self) -> None:
        self.is_over = True

    def forget(self) -> None:
        self._messages.clear()
        self._last = None
        note("a new conversation begins")

    def report(self) -> None:
        if self._last is None:
            note("there is no finished answer yet")
            return
        used = len(self._last.prompt_token_ids) + self._last.stats.num_tokens
        note(f"{summary(self._last)}; {used} of {self._limit} tokens of context used")

    def explain(self) -> None:
        for name, command in _COMMANDS.items():
            note(f"{name:8}{command.meaning}")
        note("Ctrl-C  stop the answer; Ctrl-D ends the chat")

    @property
    def _limit(self) -> int:
        return self._llm.engine.target.decoder.max_length

    def _answer(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        try:
            said = self._say(self._llm.chat_token_ids(self._messages))
        except RequestError as error:
            if not self._is_interactive:
                raise
            self._messages.pop()
            complain(error)
        else:
            self._messages.append({"role": "assistant", "content": said})

    def _say(self, token_ids: list[int]) -> str:
        """Streams the answer; where Ctrl-C ends it, what was said until then stands."""
        room = self._limit - len(token_ids)
        if room < 1:
            raise PromptError(
                f"the conversation has {len(token_ids)} tokens, and the context holds {self._limit}; "
                "type /reset to begin a new one"
            )
        length = min(room, self._params.max_new_tokens)
        said: list[str] = []
        self._last = None
        try:
            for piece in self._llm.stream(
                prompt_token_ids=token_ids, params=self._params, max_new_tokens=length, speculative=self._speculative
            ):
                write(piece.text)
                said.append(piece.text)
                self._last = piece.completion
        except KeyboardInterrupt:
            if not self._is_interactive:
                raise
            note(" (stopped)")
        else:
            write("\n")
            self._explain_cut(length, room)
        return "".join(said)

    def _explain_cut(self, length: int, room: int) -> None:
        if self._last is not None and self._last.finish_reason == "length":
            remedy = "/reset begins a new conversation" if length == room else "--max-new-tokens raises the limit"
            note(f"(cut after {length} tokens; {remedy})")


class _Command(NamedTuple):
    obey: Callable[[Conversation], None]
    meaning: str


_COMMANDS: Mapping[str, _Command] = {
    "/exit": _Command(Conversation.leave, "end the chat"),
    "/reset": _Command(Conversation.forget, "forget the conversation"),
    "/stats": _Command(Conversation.report, "figures of the last answer"),
    "/help": _Command(Conversation.explain, "this list"),
}


def _typed() -> Iterator[str]:
    """Lines of a person at a terminal, until Ctrl-D; Ctrl-C only clears the line."""
    with contextlib.suppress(ImportError):  # not on every system
        import readline  # noqa: F401  # input() then has editing and a history
    note("every line is a turn; /help lists commands")
    while True:
        try:
            line = input("> ")
        except KeyboardInterrupt:
            write("\n")
            continue
        except EOFError:
            write("\n")
            return
        yield line


def _piped() -> Iterator[str]:
    for line in sys.stdin.buffer:
        yield decoded(line)
