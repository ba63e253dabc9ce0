"""`evodraft bench`: what goes in, what is shown, how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evodraft.bench import start as start_module
from evodraft.bench.result import Check, Interval, Noise, Result
from evodraft.bench.run import Step
from evodraft.bench.schema import read
from evodraft.bench.start import start
from evodraft.cli.bench_progress import progress

SUITE = """
about = "tiny"
groups = ["random"]
prompts_per_group = 2
max_new_tokens = 6

[[sources]]
kind = "random_ids"
group = "random"
num_tokens = 8

[[conditions]]
name = "T=0.7"

[methods.ngram]
drafter = "ngram"
"""
Ended = Any


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(SUITE, encoding="utf-8")
    return str(path)


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Decides whether the machine was quiet, which no test can know."""

    def decide(is_quiet: bool) -> None:
        def measured(*arguments: Any) -> Result:
            found = Noise("T=0.7", Interval(1.0, 0.99, 1.01) if is_quiet else Interval(1.1, 1.0, 1.3), is_quiet)
            return replace(start(*arguments), noise=found)

        monkeypatch.setattr(start_module, "start", measured)

    return decide


def test_a_run_shows_a_table_and_writes_its_result(command, model_folder, suite, noise, tmp_path: Path) -> None:
    noise(True)
    path = tmp_path / "new" / "result.json"
    path.parent.mkdir()
    ended = command("bench", "run", suite, "-m", model_folder, "--json", str(path))
    assert ended.code == 0, ended.err
    assert "ngram" in ended.out
    assert "plain" in ended.out
    result = read(path)
    assert {row.contestant for row in result.rows} == {"plain", "control", "ngram"}
    assert result.command[:2] == ("bench", "run")
    assert not any("/" in part for part in result.command)  # no place on this machine


def test_a_noisy_machine_is_named_and_ends_with_3(command, model_folder, suite, noise, tmp_path: Path) -> None:
    noise(False)
    path = tmp_path / "result.json"
    ended = command("bench", "run", suite, "-m", model_folder, "--json", str(path))
    assert ended.code == 3
    assert "machine too noisy" in ended.err
    assert not read(path).noise.is_quiet  # type: ignore[union-attr]  # it is there


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"error": "1 of 6 answers failed; the first: oh"}, "rows that failed: 1"),
        ({"check": Check("equality", is_passed=False)}, "rows whose check failed: 1"),
    ],
)
def test_failed_rows_and_failed_checks_end_with_3(
    command, model_folder, suite, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    def measured(*arguments: Any) -> Result:
        found = start(*arguments)
        noise = Noise("T=0.7", Interval(1.0, 0.99, 1.01), is_quiet=True)
        return replace(found, noise=noise, rows=(replace(found.rows[0], **change), *found.rows[1:]))

    monkeypatch.setattr(start_module, "start", measured)
    ended = command("bench", "run", suite, "-m", model_folder)
    assert ended.code == 3
    assert said in ended.err


@pytest.mark.parametrize(
    ("num_tokens", "message"),
    [
        (249, "8 tokens, but 7 fit into the context beside the answer"),
        (256, "max_new_tokens=256 leaves no room for a prompt in the target's context of 256 tokens; use"),
        (1_000_000, "max_new_tokens=1000000 leaves no room for a prompt in the target's context of 256 tokens; use"),
    ],
)
def test_what_does_not_fit_the_context_is_refused(command, model_folder, suite, num_tokens: int, message: str) -> None:
    ended = command("bench", "run", suite, "-m", model_folder, "--max-new-tokens", str(num_tokens))
    assert ended.code == 2
    assert message in ended.one_line


@pytest.mark.parametrize(("model", "asked"), [("random:tiny", "demo"), ("owner/name", "owner/name")])
def test_random_weights_show_no_progress_of_a_download(
    command, suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, asked: str
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("evodraft.cli.bench.quieten", seen.append)
    command("bench", "run", suite, "-m", model, "--peer", "vllm/plain", "--peers-folder", str(tmp_path))
    assert seen == [asked]


def test_a_wrong_shape_lists_those_there_are(command, suite) -> None:
    line = command("bench", "run", suite, "-m", "random:llama-10m").one_line
    assert "unknown shape 'llama-10m'; did you mean 'llama-100m'? Known: llama-100m, llama-3.1-8b, llama-350m" in line


def test_plain_decoding_alone_is_a_run(command, model_folder, suite, noise, tmp_path: Path) -> None:
    noise(True)
    path = tmp_path / "result.json"
    ended = command("bench", "run", suite, "-m", model_folder, "--method", "plain", "--json", str(path))
    assert ended.code == 0, ended.err
    assert [record.name for record in read(path).contestants] == ["plain", "control"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["domain"], "unknown suite 'domain'; did you mean 'domains'"),
        (["nothing.toml"], "cannot read suite nothing.toml"),
        (
            ["domains", "--method", "atuo"],
            "method 'atuo' is neither one of suite domains (plain, auto, fixed 5, ngram)",
        ),
        (["domains", "--condition", "T=1"], "unknown condition"),
        (["domains", "--repeats", "2"], "repeats=2 is not a whole number from 3 to 1000"),
        (["domains", "--baseline", "aut"], "unknown baseline 'aut'; did you mean 'auto'"),
        (["domains", "--peer", "vlm/plain"], "unknown peer 'vlm'"),
        (["domains", "--peer", "transformers/plain", "--peers-folder", "nowhere"], "evodraft bench peers --install"),
        (["spec_bench"], "--data"),
        (["domains", "--data", "nowhere"], "nowhere"),
        (["domains", "--prompts", "nowhere.jsonl"], "cannot read nowhere.jsonl"),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy(
    command, model_folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVODRAFT_BENCH_DATA", raising=False)
    ended = command("bench", "run", *arguments, "-m", model_folder)
    assert ended.code == 2
    assert message in ended.one_line


@pytest.fixture
def result_file(command, model_folder, suite, noise, tmp_path: Path) -> Path:
    noise(True)
    path = tmp_path / "result.json"
    command("bench", "run", suite, "-m", model_folder, "--json", str(path))
    return path


def test_reports_are_tables_markdown_and_pages(command, result_file: Path, tmp_path: Path) -> None:
    table = command("bench", "report", str(result_file))
    assert table.code == 0
    assert "ngram" in table.out
    text = command("bench", "report", str(result_file), "--markdown")
    assert "| ngram |" in text.out
    page = tmp_path / "page.html"
    ended = command("bench", "report", str(result_file), str(result_file), "--html", str(page))
    assert (ended.code, ended.out) == (0, "")
    assert "<svg" in page.read_text(encoding="utf-8")


def test_broken_results_are_named(command, result_file: Path, tmp_path: Path) -> None:
    result_file.write_text(result_file.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert "not JSON" in command("bench", "report", str(result_file)).one_line
    result_file.write_text(json.dumps({"schema": "evodraft.demo/1"}), encoding="utf-8")
    ended = command("bench", "report", str(result_file))
    assert (ended.code, "evodraft.demo/1" in ended.one_line) == (2, True)
    assert command("bench", "report", str(tmp_path / "none.json")).code == 2


def test_a_page_that_cannot_be_written_is_an_error(command, result_file: Path) -> None:
    ended = command("bench", "report", str(result_file), "--html", str(result_file / "page.html"))
    assert ended.code == 2
    assert "cannot write" in ended.one_line


def test_peers_are_listed_with_their_modes(command, tmp_path: Path) -> None:
    ended = command("bench", "peers", "--peers-folder", str(tmp_path))
    assert ended.code == 0
    assert "transformers (not installed)" in ended.out
    assert "transformers/prompt-lookup" in ended.out
    wrong = command("bench", "peers", "--install", "transfomers", "--peers-folder", str(tmp_path))
    assert (wrong.code, "did you mean 'transformers'" in wrong.one_line) == (2, True)


def test_installing_is_left_to_the_peers(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("evodraft.bench.peers.install.install", lambda peer, folder, say: made.append(peer.name))
    assert command("bench", "peers", "--install", "transformers", "--peers-folder", str(tmp_path)).code == 0
    assert made == ["transformers"]


def test_verify_says_what_is_missing_and_writes_what_it_found(command, model_folder: str, tmp_path: Path) -> None:
    path = tmp_path / "verification.json"
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"abcabc {n}"}) for n in range(2)), encoding="utf-8")
    ended = command(
        "bench", "verify", model_folder, "--drafter", "ngram", "--quick", "--prompts", str(prompts), "--json", str(path)
    )
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["reference"]["num_identical"] == 2
    assert ended.code == (0 if document["is_verified"] else 3)
    assert ("not verified" in ended.out) == (not document["is_verified"])
    assert "plain greedy outputs equal to transformers' own in float32: 2 of 2" in ended.out


@pytest.mark.parametrize("flag", ["--json", "--html"])
def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(
    command, model_folder, suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flag: str
) -> None:
    def never(*arguments: Any) -> Result:
        raise AssertionError("it was measured")

    monkeypatch.setattr(start_module, "start", never)
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path, tmp_path / "file" / "result"):
        ended = command("bench", "run", suite, "-m", model_folder, flag, str(place))
        assert ended.code == 2
        assert "cannot write" in ended.one_line
    for other in (["bench", "verify", model_folder], ["bench", "roofline", model_folder]):
        assert "cannot write" in command(*other, "--json", str(tmp_path)).one_line


def test_a_page_without_matplotlib_is_refused_before_anything_is_measured(
    command, model_folder, suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = command("bench", "run", suite, "-m", model_folder, "--html", str(tmp_path / "page.html"))
    assert ended.code == 2
    assert "evodraft[bench]" in ended.one_line
    assert not (tmp_path / "page.html").exists()


def test_names_of_conditions_are_shown_literally_while_it_measures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("evodraft.cli.bench_progress.Console", lambda **_: Console(stderr=True, force_terminal=True))
    with progress() as show:
        show(Step("[/red]\x1b]0;x\x07", 1, 2))
    shown = capsys.readouterr().err
    assert "[/red]" in shown
    assert "\x1b]0;" not in shown
