"""The sign of life: what the library logs of its work is seen on a terminal, and nowhere printed by itself."""

from __future__ import annotations

import logging

import pytest
from rich.progress import Progress
from rich.status import Status

from evodraft.cli.bench_progress import progress
from evodraft.cli.loading import sign_of_life

LOGGER = logging.getLogger("evodraft")
MESSAGE = "compiling the native runtime (once)"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the line on the terminal became."""
    lines: list[str] = []
    monkeypatch.setattr(Status, "update", lambda self, status: lines.append(str(status)))
    return lines


def test_what_is_logged_becomes_the_line(
    shown: list[str], model_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with sign_of_life(model_folder):
        LOGGER.info(MESSAGE)
    LOGGER.info("afterwards")
    assert shown == [MESSAGE]
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("downloaded")
def test_beside_downloads_it_is_a_line_of_its_own(shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with sign_of_life("owner/model"):
        LOGGER.info(MESSAGE)
    assert (shown, capsys.readouterr().err.strip()) == ([], MESSAGE)


def test_a_bar_says_it_in_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(Progress, "update", lambda self, task, *, description, **options: said.append(description))
    with progress():
        LOGGER.info(MESSAGE)
    assert said == [MESSAGE]


def test_the_logger_is_left_as_it_was(model_folder: str) -> None:
    before = LOGGER.level, list(LOGGER.handlers)
    with pytest.raises(KeyError), sign_of_life(model_folder):
        raise KeyError
    assert (LOGGER.level, list(LOGGER.handlers)) == before
