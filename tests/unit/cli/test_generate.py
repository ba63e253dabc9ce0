"""`evodraft generate`: what goes in, what comes out, and where."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from evodraft import LLM, NumericsError, Piece, SamplingParams, WeightsError
from evodraft.runtime.choose import RUNTIMES

STATS = {
    *("num_prompt_tokens", "num_tokens", "num_target_passes", "num_rounds", "num_draft_tokens", "num_accepted_tokens"),
    *("num_round_tokens", "accepted_per_position", "num_fallbacks", "prefill_s", "decode_s"),
    *("mean_acceptance_length", "acceptance_rate", "tokens_per_target_pass", "tokens_per_second"),
}
CYCLE = "abcabcabcabc"


@pytest.fixture(scope="module")
def llm(model_folder: str) -> LLM:
    return LLM.from_pretrained(model_folder)


def test_the_text_and_nothing_else_is_on_standard_output(command, model_folder: str, llm: LLM) -> None:
    for extra in ([], ["--no-stream"]):
        ended = command("generate", CYCLE, "-m", model_folder, "--max-new-tokens", "40", *extra)
        assert ended.code == 0
        assert ended.out == llm.generate(CYCLE, max_new_tokens=40).text + "\n"
        assert ended.one_line.startswith("40 tokens in ")
        assert "tokens per round" in ended.one_line


def test_it_streams_unless_told_not_to(command, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("evodraft.cli.generate.write", written.append)
    command("generate", CYCLE, "-m", model_folder, "--max-new-tokens", "40")
    assert len(written) > 2
    streamed = "".join(written)
    written.clear()
    command("generate", CYCLE, "-m", model_folder, "--max-new-tokens", "40", "--no-stream")
    assert written == [streamed]


def test_json_is_one_object_and_nothing_else(command, model_folder: str, llm: LLM) -> None:
    ended = command("generate", CYCLE, "-m", model_folder, "--max-new-tokens", "5", "--seed", "7", "--json")
    document = json.loads(ended.out)
    expected = llm.generate(CYCLE, max_new_tokens=5, seed=7)
    assert set(document) == {"text", "token_ids", "finish_reason", "exact", "stats", "seed"}
    assert set(document["stats"]) == STATS
    assert document["text"] == expected.text
    assert document["token_ids"] == list(expected.token_ids)
    assert (document["finish_reason"], document["exact"], document["seed"]) == ("length", True, 7)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["-"]])
@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_prompt_can_be_piped_in(command, model_folder: str, arguments: list[str], ending: bytes) -> None:
    ended = command(
        "generate",
        *arguments,
        "-m",
        model_folder,
        "--max-new-tokens",
        "1",
        "--json",
        stdin="h\u00e9\n".encode() + ending,
    )
    assert json.loads(ended.out)["stats"]["num_prompt_tokens"] == (3 if ending == b"" else 4)


def test_no_prompt_at_a_terminal_is_wrong_usage(command) -> None:
    ended = command("generate", typed=[])
    assert ended.code == 2
    assert "give a prompt, or pipe one in" in ended.err


@pytest.mark.parametrize(
    ("stdin", "message"),
    [(b"", "PromptError: the prompt has 0 tokens"), (b"\xff", "PromptError: standard input is not UTF-8 at byte 0")],
)
def test_what_is_no_prompt_is_refused(command, model_folder: str, stdin: bytes, message: str) -> None:
    ended = command("generate", "-m", model_folder, "--json", stdin=stdin)
    assert (ended.code, ended.out) == (2, "")
    assert ended.one_line.startswith(message)


def test_markup_in_a_prompt_is_literal(command, model_folder: str, llm: LLM) -> None:
    ended = command("generate", "[red]a[/red]", "-m", model_folder, "--max-new-tokens", "4")
    assert ended.out == llm.generate("[red]a[/red]", max_new_tokens=4).text + "\n"


def test_chat_asks_through_the_template(command, model_folder: str, llm: LLM) -> None:
    arguments = ["generate", "hi", "-m", model_folder, "--max-new-tokens", "6", "--json"]
    raw, asked = (json.loads(command(*arguments, *extra).out) for extra in ([], ["--chat"]))
    assert raw["token_ids"] == list(llm.generate("hi", max_new_tokens=6).token_ids)
    assert asked["token_ids"] == list(llm.chat([{"role": "user", "content": "hi"}], max_new_tokens=6).token_ids)


def test_samples_stand_apart(command, model_folder: str, llm: LLM) -> None:
    options = {"n": 3, "temperature": 0.9, "max_new_tokens": 4, "seed": 3}
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    samples = llm.generate(CYCLE, **options).samples
    ended = command("generate", CYCLE, "-m", model_folder, *flags)
    assert ended.out == "\n---\n".join(sample.text for sample in samples) + "\n"
    assert len(ended.err.splitlines()) == 3
    document = json.loads(command("generate", CYCLE, "-m", model_folder, *flags, "--json").out)
    assert [sample["token_ids"] for sample in document["samples"]] == [list(sample.token_ids) for sample in samples]
    assert document["token_ids"] == document["samples"][0]["token_ids"]


def test_sampling_options_are_the_librarys(command, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[SamplingParams] = []
    generate = LLM.generate

    def spy(self: LLM, *args: object, params: SamplingParams, speculative: bool, **options: object) -> object:
        taken.append(params)
        assert speculative is False
        return generate(self, *args, params=params, speculative=speculative, **options)

    monkeypatch.setattr(LLM, "generate", spy)
    flags = "--no-stream --no-speculative --max-new-tokens 3 --temperature 0.5 --top-p 0.9 --top-k 7 --min-p 0.1"
    command(
        "generate", "hi", "-m", model_folder, *flags.split(), "--stop", "a", "--stop", "b", "--seed", "5", "--n", "2"
    )
    assert taken == [
        SamplingParams(3, temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, stop=["a", "b"], seed=5, n=2),
    ]


def test_parts_and_places_are_the_librarys(command, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[object, dict[str, object]]] = []

    def load(model: str, **options: object) -> None:
        taken.append((model, options))
        raise WeightsError("enough")

    monkeypatch.setattr(LLM, "from_pretrained", load)
    flags = "--drafter ngram --controller fixed:2 --verifier coupled --dtype float32 --device cpu --revision main"
    flags += " --runtime eager --numerics fast --vocabulary static:map.pt"
    ended = command("generate", "hi", "--model", "owner/name", *flags.split(), "--trust-remote-code", "--n", "99")
    assert ended.one_line == "WeightsError: enough"
    [(model, options)] = taken
    assert model == "owner/name"
    assert options == {
        **{"drafter": "ngram", "controller": "fixed:2", "verifier": "coupled", "dtype": "float32", "device": "cpu"},
        **{"revision": "main", "trust_remote_code": True, "max_batch": 8},
        **{"runtime": "eager", "numerics": "fast", "vocabulary": "static:map.pt"},
    }


def test_a_wrong_option_is_named_before_anything_is_loaded(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LLM, "from_pretrained", lambda *args, **options: pytest.fail("loaded"))
    ended = command("generate", "hi", "--temperature", "-1")
    assert ended.code == 2
    assert ended.one_line.startswith("SamplingError: temperature=-1.0 is outside")


def test_a_sample_that_fails_is_an_error(command, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = LLM.generate

    def damaged(self: LLM, *args: object, **options: object) -> object:
        [whole] = generate(self, *args, **options)
        broken = replace(whole.samples[1], error=NumericsError("NaN in row 0"))
        return [replace(whole, samples=(whole.samples[0], broken))]

    monkeypatch.setattr(LLM, "generate", damaged)
    ended = command("generate", "hi", "-m", model_folder, "--n", "2", "--max-new-tokens", "2")
    assert (ended.code, ended.out, ended.one_line) == (2, "", "NumericsError: NaN in row 0")


def test_control_characters_reach_pipes_but_no_terminal(
    command, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(self: LLM, **options: object) -> Iterator[Piece]:
        yield Piece("\x1b[2J", (), completion=self.generate("a", max_new_tokens=1))

    monkeypatch.setattr(LLM, "stream", stream)
    assert command("generate", "hi", "-m", model_folder).out == "\x1b[2J\n"
    assert command("generate", "hi", "-m", model_folder, typed=[]).out == "\ufffd[2J\n"


def test_in_a_shell_pipe_with_the_demo_model() -> None:
    command = [sys.executable, "-m", "evodraft", "generate", "--json", "--max-new-tokens", "4"]
    ended = subprocess.run(command, input=b"The heart\n", capture_output=True, check=True)
    assert len(json.loads(ended.stdout)["token_ids"]) <= 4
    assert ended.stderr == b""


@pytest.mark.parametrize("typed", ["generate hi", "chat", "demo", "bench run domains --quick", "bench verify demo"])
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--runtime",
            "unknown runtime 'nativ'; did you mean 'native'? Known: auto, eager, native, packed, transformers",
        ),
        ("--numerics", "unknown numerics mode 'nativ'. Known: auto, fast, invariant"),
    ],
)
@pytest.mark.usefixtures("bundle")
def test_a_runtime_that_nobody_knows_is_one_line(command, typed: str, flag: str, message: str) -> None:
    ended = command(*typed.split(), flag, "nativ")
    assert (ended.code, ended.one_line) == (2, f"UnknownOptionError: {message}")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_says_the_same(command, model_folder, runtime: str) -> None:
    asked = (
        "generate",
        "hi",
        "--model",
        model_folder,
        "--drafter",
        "ngram",
        "--max-new-tokens",
        "8",
        "--device",
        "cpu",
    )
    ended = command(*asked, "--runtime", runtime)
    assert (ended.code, ended.out) == (0, command(*asked).out)


def test_a_vocabulary_is_named_like_any_part(command, model_folder: str, llm: LLM, tmp_path) -> None:
    path = tmp_path / "map.json"
    path.write_text("[7, 8]")
    draft = ("--drafter", f"model:{model_folder}", "--max-new-tokens", "9", "--json")
    ended = command("generate", CYCLE, "-m", model_folder, *draft, "--vocabulary", f"static:{path}")
    document = json.loads(ended.out)
    assert document["token_ids"] == list(llm.generate(CYCLE, max_new_tokens=9).token_ids)
    assert document["stats"]["acceptance_rate"] < 1.0, "the draft is the target, but may say three ids only"
    assert json.loads(command("generate", CYCLE, "-m", model_folder, *draft).out)["stats"]["acceptance_rate"] == 1.0
    ended = command("generate", CYCLE, "-m", model_folder, *draft, "--vocabulary", "static")
    assert (ended.code, ended.one_line.split(";")[0]) == (
        2,
        "ConfigError: vocabulary 'static' needs a token map and this target has none bundled",
    )
