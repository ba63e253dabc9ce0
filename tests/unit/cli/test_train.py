"""`evodraft train` is the recipes' own command line."""

from __future__ import annotations

import pytest
import typer

from evodraft.errors import TrainingError


def _recipes() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True)

    @app.command()
    def target(steps: int = 3) -> None:
        """Make a target."""
        typer.echo(f"{steps} steps")
        if steps == 0:
            raise TrainingError("0 steps teach nothing; take at least 1")
        raise typer.Exit(3 if steps < 0 else 0)

    app.command()(lambda: None)
    return app


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evodraft.training.__main__.build_app", _recipes)


def test_the_real_recipes_are_listed(command) -> None:
    for flag in ("--help", "-h"):
        ended = command("train", flag)
        assert ended.code == 0
        assert all(step in ended.out for step in ("tokenizer", "target", "draft", "bundle"))
        assert "evodraft train" in ended.out


@pytest.mark.usefixtures("recipes")
def test_arguments_are_handed_on(command) -> None:
    assert command("train", "target", "--steps", "5") == (0, "5 steps\n", "")
    assert command("train", "target", "--steps", "-1") == (3, "-1 steps\n", "")


@pytest.mark.usefixtures("recipes")
def test_errors_end_as_everywhere(command) -> None:
    ended = command("train", "target", "--steps", "0")
    assert (ended.code, ended.one_line) == (2, "TrainingError: 0 steps teach nothing; take at least 1")
    for wrong in (["targt"], ["target", "--stepz", "1"]):
        ended = command("train", *wrong)
        assert ended.code == 2
        assert "Traceback" not in ended.err
