"""A small model folder to name on a command line, and a command line to name it on."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pytest
import transformers

from evodraft.cli import main
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer


class Ended(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def one_line(self) -> str:
        """The only line on standard error."""
        [line] = self.err.splitlines()
        return line


Command = Callable[..., Ended]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model that speaks bytes and knows a chat template."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['role'] }}={{ message['content'] }};{% endfor %}"
    tiny_model("llama", vocab_size=257).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def talkative_transformers() -> Iterator[None]:
    """Commands silence transformers, which is theirs to do in a process of their own only."""
    verbosity = transformers.utils.logging.get_verbosity()
    has_bars = transformers.utils.logging.is_progress_bar_enabled()
    yield
    transformers.utils.logging.set_verbosity(verbosity)
    if has_bars:
        transformers.utils.logging.enable_progress_bar()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process.

    `command("generate", "hi", stdin=b"...")` has pipes; with `typed` both ends are a terminal at which somebody types
    these lines, or does what raises these exceptions, and then Ctrl-D.
    """

    def run(*arguments: str, stdin: bytes = b"", typed: Iterable[str | type[BaseException]] | None = None) -> Ended:
        capsys.readouterr()
        terminal = _Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["evodraft", *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
            if typed is not None:
                lines = iter([*typed, EOFError])
                patch.setenv("TERM", "xterm")
                patch.setattr(sys, "stdin", terminal)
                patch.setattr(sys, "stdout", terminal)
                patch.setattr("builtins.input", lambda prompt: _type(next(lines), terminal, prompt))
            with pytest.raises(SystemExit) as exit_info:
                main()
        written = capsys.readouterr()
        return Ended(int(exit_info.value.code or 0), terminal.getvalue() or written.out, written.err)

    return run


def _type(line: str | type[BaseException], terminal: _Terminal, prompt: str) -> str:
    terminal.write(prompt)
    if isinstance(line, str):
        return line
    raise line
