"""Which pictures a result has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from evodraft.bench.report.pictures import Picture, pictures
from evodraft.bench.result import ALL, Result

Gallery = Mapping[str, Picture]


def gallery(result: Result) -> Gallery:
    """By title, in order."""
    return {picture.title: picture for picture in pictures(result, "1")}


@pytest.fixture(scope="module")
def of_domains(domains: Result) -> Gallery:
    return gallery(domains)


@pytest.fixture(scope="module")
def of_shift(shift: Result) -> Gallery:
    return gallery(shift)


@pytest.fixture(scope="module")
def of_batch(batch: Result) -> Gallery:
    return gallery(batch)


def test_domains(of_domains: Gallery) -> None:
    assert list(of_domains) == [
        "Speed-up by kind of prompt",
        "Speed-up of whole requests by kind of prompt",
        "Speed-up by condition",
        "Speed-up of whole requests by condition",
        "Acceptance by position",
        "Where a round's time goes",
        "Memory of tensors",
        "Memory of processes",
    ]
    assert all(picture.caption.endswith(".") for picture in of_domains.values())


def test_a_shifting_stream(shift: Result, of_shift: Gallery) -> None:
    found = of_shift["Acceptance over a shifting stream"]
    for phase in ("general", "law", "code"):
        assert found.svg.count(f">{phase}</text>") == (1 if phase == "code" else 2)
    assert "> auto</text>" in found.svg
    assert "> plain</text>" not in found.svg  # it drafts nothing
    assert "Acceptance over a shifting stream" not in gallery(replace(shift, items=(), rows=()))


def test_a_series_of_conditions_is_one_line(of_batch: Gallery) -> None:
    assert list(of_batch)[:2] == ["Speed-up over requests at once", "Speed-up of whole requests over requests at once"]
    assert "Speed-up by condition" not in of_batch
    svg = of_batch["Speed-up over requests at once"].svg
    assert all(f">{size}</text>" in svg for size in (1, 2, 4, 8))


def test_prompts_as_they_are_come_first_in_a_series_of_lengths(batch: Result) -> None:
    lengths = (1952, None, 1024)
    conditions = tuple(
        replace(c, batch_size=1, prompt_tokens=length) for c, length in zip(batch.conditions, lengths, strict=False)
    )
    svg = gallery(replace(batch, conditions=conditions))["Speed-up over tokens of the prompt"].svg
    assert svg.index(">as they are</text>") < svg.index(">1,024</text>") < svg.index(">1,952</text>")


def test_two_conditions_are_no_series(batch: Result) -> None:
    assert "Speed-up by condition" in gallery(replace(batch, conditions=batch.conditions[:2]))


def test_the_noise_is_a_band_and_the_caption_says_so(of_domains: Gallery, domains: Result) -> None:
    quiet = replace(
        domains, noise=None, rows=tuple(row for row in domains.rows if row.speed_up), conditions=domains.conditions[:1]
    )
    title = "Speed-up by kind of prompt"
    with_band, without = of_domains[title], gallery(quiet)[title]
    assert "shaded band" in with_band.caption
    assert "fill: var(--shade)" in with_band.svg
    assert "shaded band" not in without.caption
    assert "fill: var(--shade)" not in without.svg


def test_what_is_synthetic_is_marked(of_domains: Gallery, of_shift: Gallery, shift: Result) -> None:
    assert ">partly synthetic</text>" in of_domains["Acceptance by position"].svg
    assert "synthetic" not in of_domains["Memory of processes"].svg
    assert "synthetic" not in "".join(picture.svg for picture in of_shift.values())
    random = replace(shift, model=replace(shift.model, synthetic="random weights"))
    assert all(">synthetic</text>" in picture.svg for picture in gallery(random).values())


@pytest.mark.parametrize(
    "title", ["Speed-up by kind of prompt", "Speed-up of whole requests by condition", "Acceptance by position"]
)
def test_a_contestant_keeps_its_colour(of_domains: Gallery, title: str) -> None:
    svg = of_domains[title].svg
    between = svg[svg.index("> auto</text>") : svg.index("> ngram</text>")]
    assert "var(--series-1)" in between


def test_the_baseline_and_its_control_are_no_rivals(of_domains: Gallery) -> None:
    svg = of_domains["Speed-up by kind of prompt"].svg
    assert "> plain</text>" not in svg
    assert "control" not in svg
    assert ">plain</text>" in of_domains["Where a round's time goes"].svg
    assert ">control</text>" not in of_domains["Where a round's time goes"].svg


def test_without_figures_there_are_no_pictures(domains: Result) -> None:
    bare = replace(
        domains,
        rows=tuple(r for r in domains.rows if r.group == ALL and r.error is None)[:1],
        contestants=tuple(replace(c, memory=None) for c in domains.contestants),
    )
    bare = replace(bare, rows=tuple(replace(row, time_split=None) for row in bare.rows), conditions=bare.conditions[:1])
    assert gallery(bare) == {}
    assert gallery(replace(domains, conditions=())) == {}
