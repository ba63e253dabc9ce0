"""Environments of peers: order of steps, what counts as installed, and what a failure leaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from evodraft.bench.peers import install as installing
from evodraft.bench.peers.base import Mode, Peer
from evodraft.bench.peers.install import environment_of, install, installed, python_of
from evodraft.errors import BenchError


def peer(finish: Callable[[Path, Callable[[str], None]], None] | None = None) -> Peer:
    return Peer("fake", "a peer", "fake.txt", "fake_worker.py", {"plain": Mode("plain")}, finish)


class Steps:
    """Stands in for what runs commands: keeps them, makes the environment's folder, says what torch came."""

    def __init__(self, failing: str | None = None) -> None:
        self.commands: list[list[str]] = []
        self._failing = failing

    def __call__(self, peer: Peer, command: Sequence[str], say: Callable[[str], None]) -> Sequence[str]:
        self.commands.append(list(command))
        if command[1:3] == ["-m", "venv"]:
            (Path(command[3]) / "bin").mkdir(parents=True)
        if self._failing is not None and self._failing in command:
            raise BenchError("step failed")
        return ["torch==2.13.0+cpu"]

    def arguments(self, number: int) -> list[str]:
        return self.commands[number][len(installing._PIP) + 1 :]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    made = Steps()
    monkeypatch.setattr(installing, "_run", made)
    monkeypatch.delenv(installing.TORCH_INDEX_URL, raising=False)
    return made


def test_torch_comes_first_and_holds_the_rest(steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(installing.TORCH_INDEX_URL, "https://example.org/cpu")
    (tmp_path / "fake.txt").write_text("# comment\nnumpy==2.0.0\ntorch==2.13.0  # large\n", encoding="utf-8")
    said: list[str] = []
    install(peer(), tmp_path, said.append)
    assert steps.commands[0] == [sys.executable, "-m", "venv", str(tmp_path / ".venv-fake")]
    assert steps.arguments(1) == ["--index-url", "https://example.org/cpu", "torch==2.13.0"]
    constraints = tmp_path / ".venv-fake" / "torch.txt"
    assert steps.arguments(3) == ["--requirement", str(tmp_path / "fake.txt"), "--constraint", str(constraints)]
    assert constraints.read_text(encoding="utf-8") == "torch==2.13.0+cpu\n"
    assert any("torch==2.13.0 from https://example.org/cpu" in line for line in said)
    assert all(command[0] == str(python_of(peer(), tmp_path)) for command in steps.commands[1:])


def test_without_torch_only_the_pins_are_installed(steps: Steps, tmp_path: Path) -> None:
    (tmp_path / "fake.txt").write_text("torchmetrics==1.0.0\n", encoding="utf-8")
    install(peer(), tmp_path, lambda line: None)
    assert len(steps.commands) == 2
    assert steps.arguments(1) == ["--requirement", str(tmp_path / "fake.txt")]


def test_it_counts_as_installed_until_the_pins_change(steps: Steps, tmp_path: Path) -> None:
    pins = tmp_path / "fake.txt"
    pins.write_text("numpy==2.0.0\n", encoding="utf-8")
    assert not installed(peer(), tmp_path)
    said: list[str] = []
    install(peer(), tmp_path, said.append)
    assert installed(peer(), tmp_path)
    install(peer(), tmp_path, said.append)
    assert said[-1].startswith("fake: already installed in ")
    assert len(steps.commands) == 2
    pins.write_text("numpy==2.0.1\n", encoding="utf-8")
    assert not installed(peer(), tmp_path)
    (environment_of(peer(), tmp_path) / "left over").touch()
    install(peer(), tmp_path, said.append)
    assert installed(peer(), tmp_path)
    assert not (environment_of(peer(), tmp_path) / "left over").exists()


def test_a_failed_step_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tmp_path / "fake.txt"
    pins.write_text("numpy==2.0.0\n", encoding="utf-8")
    monkeypatch.setattr(installing, "_run", Steps())
    install(peer(), tmp_path, lambda line: None)
    pins.write_text("numpy==0.0.0\n", encoding="utf-8")
    monkeypatch.setattr(installing, "_run", Steps(failing="--requirement"))
    with pytest.raises(BenchError, match="step failed"):
        install(peer(), tmp_path, lambda line: None)
    pins.write_text("numpy==2.0.0\n", encoding="utf-8")  # not even with the old pins: their environment is gone
    assert not installed(peer(), tmp_path)


def test_finish_comes_last_and_may_fail(steps: Steps, tmp_path: Path) -> None:
    (tmp_path / "fake.txt").write_text("", encoding="utf-8")
    finished: list[tuple[Path, int]] = []

    def finish(environment: Path, say: Callable[[str], None]) -> None:
        finished.append((environment, len(steps.commands)))
        say("built")

    said: list[str] = []
    install(peer(finish), tmp_path, said.append)
    assert finished == [(tmp_path / ".venv-fake", 2)]
    assert "built" in said

    def fail(environment: Path, say: Callable[[str], None]) -> None:
        raise subprocess.CalledProcessError(2, ["cmake"])

    (tmp_path / "fake.txt").write_text("# new\n", encoding="utf-8")
    with pytest.raises(BenchError, match="fake: its last step of installation failed: .*cmake"):
        install(peer(fail), tmp_path, lambda line: None)
    assert not installed(peer(fail), tmp_path)


def test_missing_pins_are_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="name the folder that holds fake.txt") as caught:
        install(peer(), tmp_path, lambda line: None)
    assert str(tmp_path) in str(caught.value)


def test_a_failing_command_shows_its_last_lines_alone() -> None:
    script = "for i in range(40): print('line', i)\nimport sys; sys.exit('no such version')"
    with pytest.raises(BenchError, match="exit code 1") as caught:
        installing._run(peer(), [sys.executable, "-c", script], lambda line: None)
    assert "line 39" in str(caught.value)
    assert "no such version" in str(caught.value)
    assert "line 20\n" not in str(caught.value)


def test_progress_is_told_while_it_runs() -> None:
    said: list[str] = []
    script = "print('Collecting numpy')\nprint('Requirement already satisfied')"
    installing._run(peer(), [sys.executable, "-c", script], said.append)
    assert said == ["  Collecting numpy"]


@pytest.mark.slow
def test_a_real_environment_without_packages(tmp_path: Path) -> None:
    (tmp_path / "fake.txt").write_text("# nothing\n", encoding="utf-8")
    install(peer(), tmp_path, lambda line: None)
    asked = [str(python_of(peer(), tmp_path)), "-c", "import sys; print(sys.prefix)"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == str(
        environment_of(peer(), tmp_path)
    )
