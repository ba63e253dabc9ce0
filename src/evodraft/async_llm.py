"""AsyncLLM: many coroutines share one engine, which a thread of its own drives.

    >>> import asyncio
    >>> from evodraft import AsyncLLM
    >>> async def main():
    ...     async with AsyncLLM.from_pretrained("demo") as llm:
    ...         calls = (llm.generate(text, max_new_tokens=4, ignore_eos=True) for text in ("one", "two"))
    ...         return await asyncio.gather(*calls)
    >>> [len(out.token_ids) for out in asyncio.run(main())]
    [4, 4]

Requests of all coroutines run in one batch. All work on the LLM happens on that thread, in the order of arrival;
nothing is locked. Does not decode.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from evodraft.errors import ConfigError
from evodraft.llm import LLM

if TYPE_CHECKING:
    from evodraft.jobs import Job
    from evodraft.types import Completion, Piece


@dataclass(slots=True)
class _Call:
    """One `generate` or `stream`: its jobs on the worker's side, its inbox on the caller's."""

    submit: Callable[[], list[Job]]
    is_stream: bool
    loop: asyncio.AbstractEventLoop
    inbox: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)  # pieces, then completions or an exception
    jobs: list[Job] = field(default_factory=list)

    def deliver(self, item: object) -> None:
        """Called on the worker's thread; a caller whose event loop is gone has nobody to tell."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.inbox.put_nowait, item)


class AsyncLLM:
    """An LLM for asyncio; arguments and results are those of LLM. Also an asynchronous context manager."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._calls: list[_Call] = []
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="evodraft-engine", daemon=True)
        self._thread.start()

    @classmethod
    def from_pretrained(cls, target: object, **options: Any) -> AsyncLLM:
        """As `LLM.from_pretrained`."""
        return cls(LLM.from_pretrained(target, **options))

    async def generate(self, prompt: Any = None, params: Any = None, **options: Any) -> Any:
        """As `LLM.generate`; cancelling the task cancels its requests."""
        call = self._open(lambda: self._llm.submit(prompt, params, **options), is_stream=False)
        try:
            completions: list[Completion] = _raised(await call.inbox.get())
        finally:
            self._send(lambda: self._drop(call))
        return completions[0].raise_for_error() if isinstance(prompt, str) else completions

    async def chat(self, messages: Any, params: Any = None, **options: Any) -> Completion:
        """As `LLM.chat`."""
        ids = [self._llm.chat_token_ids(messages)]
        [completion] = await self.generate(prompt_token_ids=ids, params=params, **options)
        return cast("Completion", completion).raise_for_error()

    async def stream(self, prompt: Any = None, params: Any = None, **options: Any) -> AsyncIterator[Piece]:
        """As `LLM.stream`; closing the iterator cancels the request."""
        call = self._open(lambda: [self._llm.submit_one(prompt, params, **options)], is_stream=True)
        try:
            is_last = False
            while not is_last:
                piece: Piece = _raised(await call.inbox.get())
                is_last = piece.completion is not None
                yield piece
        finally:
            self._send(lambda: self._drop(call))

    async def close(self) -> None:
        """Stops the thread and closes the LLM; requests that still run or wait raise ConfigError."""
        if not self._is_closed:
            self._is_closed = True
            self._commands.put(lambda: None)
            await asyncio.to_thread(self._thread.join)
            self._llm.close()

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _open(self, submit: Callable[[], list[Job]], *, is_stream: bool) -> _Call:
        if self._is_closed:
            raise ConfigError("this AsyncLLM is closed; build a new one with AsyncLLM.from_pretrained")
        call = _Call(submit, is_stream, asyncio.get_running_loop())
        self._send(lambda: self._enter(call))
        return call

    def _send(self, command: Callable[[], None]) -> None:
        self._commands.put(command)

    # --- on the worker's thread -----------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._is_closed:
            self._take_commands()
            if self._calls:
                self._step()
        while not self._commands.empty():  # who asked before the end gets an answer too
            self._commands.get()()
        self._end_all(ConfigError("the AsyncLLM was closed while this request ran; submit it to a new one"))

    def _take_commands(self) -> None:
        """Waits for a command only if there is nothing to decode."""
        while True:
            try:
                command = self._commands.get(block=not self._calls)
            except queue.Empty:
                return
            command()
            if self._is_closed:
                return

    def _enter(self, call: _Call) -> None:
        try:
            call.jobs = call.submit()
        except Exception as error:  # belongs to the caller, whatever it is
            call.deliver(error)
        else:
            self._calls.append(call)

    def _drop(self, call: _Call) -> None:
        self._llm.cancel(call.jobs)
        if call in self._calls:
            self._calls.remove(call)

    def _step(self) -> None:
        try:
            if any(not job.is_finished for call in self._calls for job in call.jobs):
                self._llm.engine.step()
            for call in list(self._calls):
                self._report(call)
        except Exception as error:  # a fault of the engine ends what runs, not the thread
            self._end_all(error)

    def _report(self, call: _Call) -> None:
        is_done = all(job.is_finished for job in call.jobs)
        if call.is_stream and not is_done:
            piece = call.jobs[0].next_piece()
            if piece is not None:
                call.deliver(piece)
        if not is_done:
            return
        self._calls.remove(call)
        completions = self._llm.collect(call.jobs)
        if not call.is_stream:
            call.deliver(completions)
        elif completions[0].error is not None:
            call.deliver(completions[0].error)
        else:
            call.deliver(call.jobs[0].last_piece(completions[0]))

    def _end_all(self, error: Exception) -> None:
        for call in list(self._calls):
            self._drop(call)
            call.deliver(error)


def _raised(item: Any) -> Any:
    if isinstance(item, Exception):
        raise item
    return item
