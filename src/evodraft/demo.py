"""The demo's measurement: the same prompts once plainly and once speculatively, in the same runtime.

Plain and speculative runs alternate prompt by prompt, after a warm-up, so that the drift of a machine hits both. While
a run is timed nothing else happens: no token becomes text and nothing is drawn. Only the end of each round is noted;
what a display shows growing is that recording, replayed afterwards. Does not print.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import torch

from evodraft.assemble import demo_folder
from evodraft.errors import WeightsError
from evodraft.machine import processor_name, software_versions, source_commit
from evodraft.sampling import RequestKeys, exponential_noise
from evodraft.text import TextBuffer

if TYPE_CHECKING:
    from evodraft.jobs import Job
    from evodraft.llm import LLM
    from evodraft.sampling import NoiseKey
    from evodraft.types import Completion

SCHEMA = "evodraft.demo/1"
_NUM_RIVALS = 64  # of the most likely tokens, among which a difference is looked for


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question of the demo."""

    domain: str
    text: str


class Span(NamedTuple):
    """What one committed token added to the text, and when."""

    at_s: float  # since decoding began: the end of its round
    text: str  # may be empty: a special token, or half of a character
    is_accepted: bool  # came from the draft; False: the target's own token


@dataclass(frozen=True, slots=True)
class Recording:
    """One run: what came out, and how it grew."""

    completion: Completion
    spans: tuple[Span, ...]  # one for each committed token


@dataclass(frozen=True, slots=True)
class Difference:
    """Where plain and speculative output part, and how close the target's choice was there."""

    position: int  # output tokens that agree
    margin_nats: float  # of the target's best token over its second, in what decides: log p, with noise if sampled


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both answers to one prompt under the same parameters and seed."""

    prompt: Prompt
    temperature: float
    plain: Recording
    speculative: Recording
    difference: Difference | None


@dataclass(frozen=True, slots=True)
class Row:
    """Totals over comparisons; definitions in docs/glossary.md."""

    domain: str
    temperature: float
    plain_tokens_per_s: float
    speculative_tokens_per_s: float
    speed_up: float  # of the totals
    median_speed_up: float  # of the prompts' own ratios
    mean_acceptance_length: float
    acceptance_rate: float
    tokens_per_target_pass: float
    pooled_distinct_4: float  # different 4-grams / 4-grams over all outputs of the row: low where text repeats
    num_identical: int
    num_prompts: int


def read_prompts(per_domain: int) -> list[Prompt]:
    """The first `per_domain` prompts of every domain of the demo bundle."""
    path = demo_folder() / "prompts.jsonl"
    if not path.is_file():
        raise WeightsError(f"{path} is missing; install evodraft-demo again")
    prompts: list[Prompt] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if sum(prompt.domain == entry["domain"] for prompt in prompts) < per_domain:
            prompts.append(Prompt(entry["domain"], entry["prompt"]))
    return prompts


def compare(
    llm: LLM, prompts: Sequence[Prompt], temperatures: Sequence[float], max_new_tokens: int, seed: int
) -> Iterator[Comparison]:
    """Answers every prompt at every temperature, plainly and speculatively with the same seed."""
    for speculative in (False, True):  # warm-up, not counted
        _record(llm, prompts[0], temperatures[0], min(16, max_new_tokens), seed, speculative=speculative)
    for temperature in temperatures:
        for prompt in prompts:
            plain = _record(llm, prompt, temperature, max_new_tokens, seed, speculative=False)
            fast = _record(llm, prompt, temperature, max_new_tokens, seed, speculative=True)
            difference = _difference(llm, plain.completion, fast.completion, temperature)
            yield Comparison(prompt, temperature, plain, fast, difference)


def summarise(comparisons: Sequence[Comparison], domain: str, temperature: float) -> Row:
    """Totals of the comparisons of one domain ("all" = every one) at one temperature."""
    chosen = [c for c in comparisons if c.temperature == temperature and domain in ("all", c.prompt.domain)]
    plain = [comparison.plain.completion.stats for comparison in chosen]
    fast = [comparison.speculative.completion.stats for comparison in chosen]
    plain_speed = sum(s.num_tokens for s in plain) / sum(s.decode_s for s in plain)
    fast_speed = sum(s.num_tokens for s in fast) / sum(s.decode_s for s in fast)
    return Row(
        domain=domain,
        temperature=temperature,
        plain_tokens_per_s=plain_speed,
        speculative_tokens_per_s=fast_speed,
        speed_up=fast_speed / plain_speed,
        median_speed_up=median(f.tokens_per_second / p.tokens_per_second for p, f in zip(plain, fast, strict=True)),
        mean_acceptance_length=sum(s.num_round_tokens for s in fast) / max(1, sum(s.num_rounds for s in fast)),
        acceptance_rate=sum(s.num_accepted_tokens for s in fast) / max(1, sum(s.num_draft_tokens for s in fast)),
        tokens_per_target_pass=sum(s.num_tokens for s in fast) / sum(s.num_target_passes for s in fast),
        pooled_distinct_4=_distinct([comparison.speculative.completion.token_ids for comparison in chosen], size=4),
        num_identical=sum(comparison.difference is None for comparison in chosen),
        num_prompts=len(chosen),
    )


def report(rows: Sequence[Row], comparisons: Sequence[Comparison], settings: Mapping[str, object]) -> dict[str, object]:
    """A JSON document: date, commit, settings, machine, versions, rows, and every first difference."""
    differences = [
        {"domain": c.prompt.domain, "temperature": c.temperature, **asdict(c.difference)}
        for c in comparisons
        if c.difference is not None
    ]
    manifest = demo_folder() / "MANIFEST.json"
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": source_commit(),
        "settings": dict(settings),
        "machine": {
            "processor": processor_name(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": software_versions(),
        "bundle": json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else None,
        "rows": [asdict(row) for row in rows],
        "differences": differences,
    }


def _record(
    llm: LLM, prompt: Prompt, temperature: float, max_new_tokens: int, seed: int, *, speculative: bool
) -> Recording:
    """Answers one prompt; between two steps of the engine nothing happens but a look at the clock."""
    job = llm.submit_one(
        prompt_token_ids=llm.chat_token_ids([{"role": "user", "content": prompt.text}]),
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
        speculative=speculative,
    )
    ends = []
    while not job.is_finished:
        llm.engine.step()
        ends.append(time.perf_counter())
    [completion] = llm.collect([job])
    return Recording(completion.raise_for_error(), tuple(_spans(llm, job, ends, completion.stats.decode_s)))


def _spans(llm: LLM, job: Job, ends: Sequence[float], decode_s: float) -> Iterator[Span]:
    """Token by token, from the ends of the engine's steps; the last round ends with the run, after `decode_s`."""
    assert llm.tokenizer is not None and job.session is not None
    ids = list(job.request.token_ids)
    buffer = TextBuffer(llm.tokenizer, ids)
    rounds = job.session.commits
    for end, commit in zip(ends[-len(rounds) :], rounds, strict=True):  # the steps before only read the prompt
        for position, token_id in enumerate(commit.token_ids):
            ids.append(token_id)
            buffer(ids)
            is_last = commit is rounds[-1] and position == len(commit.token_ids) - 1
            text = buffer.finish() if is_last else buffer.take()
            yield Span(decode_s - (ends[-1] - end), text, position < commit.num_accepted)


def _difference(llm: LLM, plain: Completion, fast: Completion, temperature: float) -> Difference | None:
    if plain.token_ids == fast.token_ids:
        return None
    pairs = zip(plain.token_ids, fast.token_ids, strict=False)
    shorter = min(len(plain.token_ids), len(fast.token_ids))
    position = next((i for i, (left, right) in enumerate(pairs) if left != right), shorter)
    prefix = [*plain.prompt_token_ids, *plain.token_ids[:position]]
    [after] = llm.generate(
        prompt_token_ids=[prefix], max_new_tokens=1, logprobs=_NUM_RIVALS, speculative=False, ignore_eos=True
    )
    assert after.logprobs is not None
    key = RequestKeys(plain.seed).coupled(len(prefix))
    return Difference(position, _margin(after.logprobs[0].top, temperature, key))


def _margin(log_law: Mapping[int, float], temperature: float, key: NoiseKey) -> float:
    """How far the two strongest rivals were apart: in log-probability, or as the coupled sample sees them."""
    scores = torch.tensor(list(log_law.values()), dtype=torch.float64)
    if temperature > 0:
        ids = torch.tensor(list(log_law), dtype=torch.int32)
        scores = scores / temperature - exponential_noise([key], len(ids), ids=ids)[0].double().log()
    best, second = scores.topk(2).values.tolist()
    return float(best - second)


def _distinct(outputs: Sequence[Sequence[int]], size: int) -> float:
    grams = [tuple(ids[i : i + size]) for ids in outputs for i in range(len(ids) - size + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
