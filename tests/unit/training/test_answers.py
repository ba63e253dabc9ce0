"""Prompts and the file of answers to them."""

from __future__ import annotations

import json

import pytest

from evodraft.errors import TrainingError
from evodraft.training.answers import ANY_DOMAIN, TEXT_TOKENS, Prompt, read_prompts, write_answers
from evodraft.training.tokenizer import ASSISTANT

PROMPTS = [Prompt("law", [number, number + 1]) for number in range(7)]


class Echo:
    """Answers with the prompt and remembers the temperatures."""

    def __init__(self) -> None:
        self.temperatures: list[float] = []

    def __call__(self, prompts: list[list[int]], temperature: float) -> list[list[int]]:
        self.temperatures.append(temperature)
        return prompts


def lines(path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_questions_take_the_chat_form_and_texts_their_beginning(tmp_path, tokenizer) -> None:
    path = tmp_path / "prompts.jsonl"
    records = [{"prompt": "What is 2?", "domain": "sums"}, {"text": "The red cat " * 40}]
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    question, text = read_prompts(path, tokenizer)
    assert question.domain == "sums"
    assert question.ids[-1] == tokenizer.convert_tokens_to_ids(ASSISTANT)
    assert (text.domain, len(text.ids)) == (ANY_DOMAIN, TEXT_TOKENS)


def test_a_tokenizer_without_a_chat_form_reads_the_question_as_it_is(tmp_path, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "What is 2?"}\n')
    assert read_prompts(path, tokenizer)[0].ids == tokenizer("What is 2?")["input_ids"]


@pytest.mark.parametrize("content", ["", "{}\n", "[1]\n", "{\n", '{"text": ""}\n'])
def test_files_without_prompts_are_named(tmp_path, tokenizer, content) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    with pytest.raises(TrainingError, match=r"prompts\.jsonl"):
        read_prompts(path, tokenizer)


def test_temperatures_take_turns_by_batch(tmp_path) -> None:
    path, echo, seen = tmp_path / "new" / "answers.jsonl", Echo(), []
    write_answers(PROMPTS, echo, path, temperatures=(0.0, 1.0), batch=2, report=seen.append)
    assert echo.temperatures == [0.0, 1.0, 0.0, 1.0]
    assert seen == [2, 4, 6, 7]
    assert [line["response"] for line in lines(path)] == [prompt.ids for prompt in PROMPTS]
    assert {"domain", "prompt", "response", "temperature"} == set(lines(path)[0])


@pytest.mark.parametrize(("num_lines", "num_asked"), [(0, 4), (1, 4), (4, 2), (5, 2), (7, 0)])
def test_an_interrupted_file_is_gone_on_with(tmp_path, num_lines, num_asked) -> None:
    path, whole = tmp_path / "answers.jsonl", tmp_path / "whole.jsonl"
    write_answers(PROMPTS, Echo(), whole, batch=2)
    kept = whole.read_text().splitlines(keepends=True)
    path.write_text("".join(kept[:num_lines]) + ("" if num_lines == 7 else kept[num_lines][:9]))
    echo = Echo()
    write_answers(PROMPTS, echo, path, batch=2)
    assert len(echo.temperatures) == num_asked
    assert path.read_text() == whole.read_text()


def test_answers_to_other_prompts_are_refused(tmp_path) -> None:
    path = tmp_path / "answers.jsonl"
    write_answers(PROMPTS, Echo(), path)
    for others in (PROMPTS[::-1], PROMPTS[:3]):
        with pytest.raises(TrainingError, match="other prompts"):
            write_answers(others, Echo(), path)


def test_a_wrong_number_of_answers_is_refused(tmp_path) -> None:
    with pytest.raises(TrainingError, match="0 answers came back to 7"):
        write_answers(PROMPTS, lambda prompts, temperature: [], tmp_path / "answers.jsonl")
