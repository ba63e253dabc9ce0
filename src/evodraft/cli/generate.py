"""`evodraft generate`: one prompt in, its completion out. Does not know how either is decoded."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evodraft.cli import options
from evodraft.cli.loading import load_llm
from evodraft.cli.terminal import decoded, note, write
from evodraft.display import summary
from evodraft.params import SamplingParams
from evodraft.text import encoded

if TYPE_CHECKING:
    from evodraft.llm import LLM
    from evodraft.types import Completion

_MAX_BATCH = 8  # samples decoded at once; more wait in line
_SEPARATOR = "\n---\n"  # between the samples of one prompt
_FIELDS = ("text", "token_ids", "finish_reason", "exact", "seed")
_RATIOS = ("mean_acceptance_length", "acceptance_rate", "tokens_per_target_pass", "tokens_per_second")


def generate(
    prompt: Annotated[str | None, typer.Argument(help="Text to continue; '-' or none: standard input.")] = None,
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
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    min_p: options.MinP = 0.0,
    stop: options.Stop = None,
    seed: options.Seed = None,
    n: options.NumSamples = 1,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the chat template.")] = False,
    stream: Annotated[bool, typer.Option(help="Write the text as it comes.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object instead of text.")] = False,
) -> None:
    """Continue a prompt: the text to standard output, its figures to standard error."""
    params = SamplingParams(max_new_tokens, temperature, top_p, top_k, min_p, stop=stop or (), seed=seed, n=n)
    text = _text(prompt)
    parts = {"drafter": drafter, "controller": controller, "verifier": verifier, "vocabulary": vocabulary}
    how = {"dtype": dtype, "device": device, "runtime": runtime, "numerics": numerics}
    where = {"revision": revision, "trust_remote_code": trust_remote_code}
    llm = load_llm(model, max_batch=min(n, _MAX_BATCH), **parts, **how, **where)
    assert llm.tokenizer is not None  # a model that is named is loaded with its tokenizer
    token_ids = llm.chat_token_ids([{"role": "user", "content": text}]) if chat else encoded(llm.tokenizer, text)
    is_streamed = stream and n == 1 and not as_json
    answer = (_streamed if is_streamed else _whole)(llm, token_ids, params, speculative)
    if as_json:
        write(json.dumps(_document(answer)) + "\n")
    else:
        _say(answer, is_streamed)


def _text(prompt: str | None) -> str:
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise typer.BadParameter("give a prompt, or pipe one in", param_hint="PROMPT")
    return decoded(sys.stdin.buffer.read())


def _streamed(llm: LLM, token_ids: list[int], params: SamplingParams, speculative: bool) -> Completion:
    for piece in llm.stream(prompt_token_ids=token_ids, params=params, speculative=speculative):
        write(piece.text)
    assert piece.completion is not None
    return piece.completion


def _whole(llm: LLM, token_ids: list[int], params: SamplingParams, speculative: bool) -> Completion:
    [answer] = llm.generate(prompt_token_ids=[token_ids], params=params, speculative=speculative)
    for sample in answer.samples:
        sample.raise_for_error()
    return answer.raise_for_error()


def _say(answer: Completion, is_streamed: bool) -> None:
    """All samples, or the end of a text that was written as it came; and the figures."""
    samples = answer.samples or (answer,)
    write("\n" if is_streamed else _SEPARATOR.join(sample.text for sample in samples) + "\n")
    for sample in samples:
        note(summary(sample))


def _document(answer: Completion) -> dict[str, Any]:
    """What `--json` writes; `samples` is there if several were asked for."""
    stats = asdict(answer.stats) | {name: getattr(answer.stats, name) for name in _RATIOS}
    document = {name: getattr(answer, name) for name in _FIELDS} | {"stats": stats}
    return document | ({"samples": [_document(sample) for sample in answer.samples]} if answer.samples else {})
