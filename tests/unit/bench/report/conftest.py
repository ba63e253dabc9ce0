"""Results as runs would write them, with everything a report must cope with. No figure in them was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from evodraft.bench.contestants import Memory
from evodraft.bench.result import (
    ALL,
    SCHEMA,
    Check,
    ConditionRecord,
    ContestantRecord,
    Interval,
    Item,
    MachineRecord,
    ModelRecord,
    Noise,
    Result,
    Row,
    SuiteRecord,
    TimeSplit,
)

DOMAINS = ("general", "code", "law", "medicine", "math")
GAINS = {"general": 1.41, "code": 1.62, "law": 1.12, "medicine": 1.33, "math": 1.84, ALL: 1.4}
STRENGTHS = {"plain": 0.0, "control": 0.0, "auto": 1.0, "ngram": 0.25, "fixed:4": 0.9, "forced:0.8": 1.3}
PEERS = {"transformers/assistant-constant": 0.3, "llama_cpp/draft": 0.8, "openvino/plain": 0.0}
MIB = 2**20


def condition(name: str, temperature: float = 0.7, verifier: str = "rejection", **changes: object) -> ConditionRecord:
    return replace(ConditionRecord(name, temperature, 1.0, 1, verifier, None, (7, 8, 9)), **changes)


CONDITIONS = (
    condition("sampled"),
    condition("coupled", verifier="coupled"),
    condition("greedy", 0.0),
    condition("greedy-penalty", 0.0, repetition_penalty=1.1),
)


def contestant(name: str) -> ContestantRecord:
    record = ContestantRecord(name, "method", {"drafter": name}, {}, True, None, "", None)
    if name in PEERS:
        versions = {name.partition("/")[0]: "5.23.0", "torch": "2.13.0"}
        memory = Memory(resident_bytes=610 * MIB)
        return replace(record, kind="peer", options={}, versions=versions, label="third-party build", memory=memory)
    if name.startswith("forced"):
        record = replace(record, synthetic="accepts 4 of 5 draft tokens, whatever they are")
    learner = 9 * MIB if name == "auto" else None
    return replace(record, memory=Memory(31 * MIB, 12 * MIB, learner))


def row(random: Random, name: str, group: str, asked: ConditionRecord) -> Row:
    strength = {**STRENGTHS, **PEERS}[name]
    gain = 1 + (GAINS.get(group, 1.3) - 1) * strength + random.gauss(0, 0.01)
    interval = Interval(gain, gain - 0.04, gain + 0.05)
    is_peer, drafts = name in PEERS, strength > 0
    check = Check("distribution", True, p_value=0.37, num_outputs=24)
    if asked.temperature == 0 or asked.verifier == "coupled":
        check = Check("equality", True, 22, 24, 0.0114, 0.5)
    repetition = 0.41 if (asked.name, group) == ("greedy", "code") else 0.93
    return Row(
        group,
        asked.name,
        name,
        8 * (len(DOMAINS) if group == ALL else 1),
        3,
        num_tokens=9000,
        speed_up=None if is_peer else interval,
        request_speed_up=Interval(gain * 0.97, gain * 0.93, gain * 1.02),
        replayed_speed_up=None if is_peer else gain * 1.01,
        tokens_per_s=None if is_peer else 61.3 * gain,
        request_tokens_per_s=57.8 * gain,
        mean_acceptance_length=1 + 1.4 * strength * GAINS.get(group, 1.3) / 1.5 if drafts else None,
        acceptance_rate=min(0.95, 0.55 * strength * GAINS.get(group, 1.3) / 1.2) if drafts else None,
        tokens_per_target_pass=2.0,
        per_position_rates=tuple(0.8 * strength**0.3 * 0.72**i for i in range(6)) if drafts and not is_peer else (),
        distinct_4=repetition,
        is_counted=(repetition > 0.6 or not drafts) and not name.startswith("forced"),
        check=check,
        time_split=None if is_peer else TimeSplit(2.1 * strength, 9.6, 1.4 + strength, 0.9 * (name == "auto")),
    )


def item(random: Random, number: int, group: str, name: str, asked: ConditionRecord, repeat: int, rate: float) -> Item:
    drafted = 120 + random.randrange(20)
    accepted = round(drafted * min(0.97, max(0.05, random.gauss(rate, 0.06))))
    drafts = {**STRENGTHS, **PEERS}[name] > 0
    counts = (36, drafted, accepted) if drafts else (None, None, None)
    return Item(number, group, asked.name, name, repeat, 36 + accepted, 1.2 + random.random(), 1.1, *counts, None)


def domains_result(seed: int = 1) -> Result:
    """Five domains, four conditions, methods and peers, a failed row, rows that do not count."""
    random, names = Random(seed), [*STRENGTHS, *PEERS]
    rows = [row(random, name, group, asked) for asked in CONDITIONS for name in names for group in (*DOMAINS, ALL)]
    last = rows[-2]
    rows[-2] = Row(last.group, last.condition, last.contestant, 8, 3, error="the process ended with signal 9")
    broken = next(n for n, r in enumerate(rows) if (r.condition, r.contestant, r.group) == ("coupled", "ngram", "law"))
    rows[broken] = replace(rows[broken], is_counted=False, check=Check("equality", False, 3, 24, 4.2, 0.5))
    items = [
        item(random, number, DOMAINS[number // 8], name, CONDITIONS[0], repeat, 0.6)
        for number in range(40)
        for repeat in range(3)
        for name in names
    ]
    return Result(
        SCHEMA,
        "2026-11-21",
        "1e33f5ad1eca56d3e25a09d653f704ed54d33322",
        ("evodraft", "bench", "run", "domains", "--json", "domains.json"),
        154.2,
        SuiteRecord("domains", "ab" * 32, "cd" * 32, ("bundled prompts",), False, 128, ()),
        ModelRecord("demo", "ef" * 32, 12_300_000, "bfloat16", None),
        MachineRecord("AMD EPYC", ("avx2", "avx512_bf16"), 2, 2, None, 15.6),
        {"system": "Linux", "python": "3.11.7", "torch": "2.13.0+cpu", "transformers": "5.23.0"},
        7,
        "plain",
        CONDITIONS,
        tuple(map(contestant, names)),
        tuple(rows),
        tuple(items),
        Noise("sampled", Interval(1.0, 0.985, 1.012), True),
    )


def shift_result(seed: int = 2) -> Result:
    """A stream that goes through three domains and back; one method learns."""
    random, phases, names = Random(seed), ("general", "law", "code", "law", "general"), ["plain", "auto", "fixed:4"]
    items = []
    for number in range(60):
        phase, since = divmod(number, 12)
        rates = {"plain": 0, "fixed:4": (0.62, 0.4, 0.55, 0.4, 0.62)[phase]}
        rates["auto"] = rates["fixed:4"] + 0.22 * (1 - 0.8**since)
        items += [
            item(random, number, phases[phase], name, CONDITIONS[0], repeat, rates[name])
            for repeat in range(3)
            for name in names
        ]
    rows = [row(random, name, group, CONDITIONS[0]) for name in names for group in ("general", "law", "code", ALL)]
    base = domains_result()
    return replace(
        base,
        suite=replace(base.suite, name="shift", phases=phases),
        conditions=CONDITIONS[:1],
        contestants=tuple(map(contestant, names)),
        rows=tuple(rows),
        items=tuple(items),
        noise=replace(base.noise, interval=Interval(1.04, 0.97, 1.09), is_quiet=False) if base.noise else None,
    )


def batch_result(seed: int = 3) -> Result:
    """One series of conditions: 1, 2, 4, 8 at once."""
    random, names = Random(seed), ["plain", "auto", "fixed:4", "llama_cpp/draft"]
    asked = [condition(f"batch-{size}", batch_size=size) for size in (1, 2, 4, 8)]
    rows = []
    for one in asked:
        for name in names:
            found = row(random, name, ALL, one)
            gain = 1 + ((found.request_speed_up or Interval(1, 1, 1)).value - 1) / one.batch_size**0.6
            interval = Interval(gain, gain - 0.05, gain + 0.05)
            rows.append(replace(found, speed_up=found.speed_up and interval, request_speed_up=interval))
    base = domains_result()
    return replace(
        base,
        suite=replace(base.suite, name="batch"),
        conditions=tuple(asked),
        contestants=tuple(map(contestant, names)),
        rows=tuple(rows),
        items=(),
        noise=None,
    )


@pytest.fixture(scope="session")
def domains() -> Result:
    return domains_result()


@pytest.fixture(scope="session")
def shift() -> Result:
    return shift_result()


@pytest.fixture(scope="session")
def batch() -> Result:
    return batch_result()


@pytest.fixture
def renamed() -> Callable[[Result, str], Result]:
    """The result with the same words wherever a file could have put words of its own."""

    def rename(result: Result, words: str) -> Result:
        return replace(
            result,
            date=words,
            commit=words,
            command=(words, words),
            suite=replace(result.suite, name=words, sources=(words,), sha256=words),
            model=replace(result.model, name=words, dtype=words, sha256=words),
            machine=replace(result.machine, processor=words, features=(words,)),
            versions={words: words},
            conditions=tuple(replace(c, verifier=f"{c.verifier} {words}") for c in result.conditions),
            contestants=tuple(
                replace(c, name=f"{c.name}{words}", label=words, options={words: words}, versions={words: words})
                for c in result.contestants
            ),
            rows=tuple(
                replace(
                    r,
                    contestant=f"{r.contestant}{words}",
                    group=r.group if r.group == ALL else f"{r.group}{words}",
                    error=r.error and words,
                )
                for r in result.rows
            ),
            items=tuple(
                i._replace(contestant=f"{i.contestant}{words}", group=f"{i.group}{words}") for i in result.items
            ),
            notes=(words,),
        )

    return rename
