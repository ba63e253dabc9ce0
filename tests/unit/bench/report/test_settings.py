"""What a report says of model, machine and noise."""

from __future__ import annotations

from dataclasses import replace

from evodraft.bench.report import settings
from evodraft.bench.result import ALL, ConditionRecord, Result


def test_settings_name_what_a_figure_stands_on(domains: Result) -> None:
    said = dict(settings.listed(domains))
    assert said["suite"] == "domains, file abababababab"
    assert said["model"] == "demo, 12.3M parameters, bfloat16"
    assert said["weights"] == "manifest efefefefefef"
    assert said["machine"] == "AMD EPYC, avx2 avx512_bf16"
    assert said["threads"] == "2 (2 cores, 15.6 GiB of memory)"
    assert said["asked"] == "40 prompts, 3 repeats, up to 128 new tokens, seed 7"
    assert said["seeds"] == "7, 8, 9"
    assert said["date"] == "2026-11-21, took 2 min 34 s"
    assert said["command"] == "evodraft bench run domains --json domains.json"
    assert said["commit"] == "1e33f5ad1eca56d3e25a09d653f704ed54d33322"


def test_what_is_not_known_or_not_usual_is_said(domains: Result) -> None:
    rows = tuple(
        replace(row, num_prompts=39) if row.group == ALL and row.contestant == "auto" else row for row in domains.rows
    )
    first, *others = domains.conditions
    result = replace(
        domains,
        commit=None,
        rows=rows,
        suite=replace(domains.suite, is_quick=True),
        model=replace(domains.model, sha256=None, synthetic="random weights", num_parameters=8_030_000_000),
        conditions=(replace(first, seeds=(1, 2)), *others),
        notes=("no network",),
        command=(),
    )
    said = dict(settings.listed(result))
    assert said["commit"] == "not known"
    assert said["suite"] == "domains (quick: fewer prompts), file abababababab"
    assert said["weights"] == "no manifest"
    assert said["model"] == "demo, 8.0B parameters, bfloat16, random weights"
    assert said["asked"].startswith("39 to 40 prompts, 3 repeats")
    assert said["seeds"].startswith("sampled: 1, 2; coupled: 7, 8, 9")
    assert said["note"] == "no network"
    assert "command" not in said


def test_a_condition_says_what_is_not_usual() -> None:
    condition = ConditionRecord("x", 1.0, 1.0, 4, "rejection", 1952, (7,))
    assert settings.described(condition) == "temperature 1, rejection, batch of 4, prompts of 1,952 tokens"


def test_a_contestant_is_introduced(domains: Result) -> None:
    said = {contestant.name: settings.introduced(contestant) for contestant in domains.contestants}
    assert said["auto"] == "drafter = auto"
    assert said["llama_cpp/draft"] == "llama_cpp 5.23.0, torch 2.13.0; third-party build"
    assert said["forced:0.8"].endswith("; synthetic: accepts 4 of 5 draft tokens, whatever they are")
    assert settings.introduced(replace(domains.contestants[0], options={}, is_exact=False)) == "inexact"


def test_noise_is_quiet_loud_or_unknown(domains: Result, shift: Result, batch: Result) -> None:
    assert settings.noise(domains)[0]
    is_quiet, text = settings.noise(shift)
    assert not is_quiet
    assert text.startswith("machine too noisy: plain against itself (sampled): 1.04x [0.97, 1.09]")
    assert settings.noise(batch) == (False, "not measured: what a difference is worth on this machine is not known")


def test_everything_synthetic_is_named(domains: Result) -> None:
    random = replace(domains, model=replace(domains.model, synthetic="random weights"))
    assert settings.synthetic(random) == [
        "model: random weights",
        "forced:0.8: accepts 4 of 5 draft tokens, whatever they are",
    ]
