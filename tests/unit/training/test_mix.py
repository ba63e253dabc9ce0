"""Mixes: proportions, and what is refused."""

from __future__ import annotations

import pytest

from evodraft.errors import TrainingError
from evodraft.training.mix import DEMO_MIX, Mix, Source


def test_shares_are_normalised_weights_and_domains_keep_their_order(mix):
    assert mix.shares == {"farm.text.books": 0.75, "sums.chat.school": 0.25}
    assert mix.late_shares == {"farm.text.books": 0.5, "sums.chat.school": 0.5}
    assert mix.domains == ("farm", "sums")


def test_a_source_keeps_what_its_marks_allow():
    source = Source("a", "text", "x", 1.0, skip=("bad",), only=("good", "fine"))
    assert [source.keeps(text) for text in ("good", "so fine", "good and bad", "neither")] == [True, True, False, False]
    assert Source("a", "text", "x", 1.0).keeps("anything")


def test_measured_sources_last_to_the_end_and_count_each_document_once():
    whole, dropped = Source("a", "text", "x", 1.0), Source("a", "text", "y", 1.0, 0.0)
    part = Source("a", "text", "x", 0.0, 1.0, only=("z",), is_subset=True)
    assert Mix("m", (whole, dropped, part)).measured == (whole.slug,)
    assert part.slug != whole.slug


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ((), "no sources"),
        ((Source("a", "text", "x", 1.0), Source("a", "text", "x", 2.0)), "more than once"),
        ((Source("a", "text", "x", 0.0),), "not positive"),
        ((Source("a", "text", "x", -1.0, 1.0),), "not positive"),
        ((Source("a", "text", "x", 1.0, 0.0),), "only zero weights"),
    ],
)
def test_a_mix_that_cannot_be_sampled_is_refused(sources, complaint):
    with pytest.raises(TrainingError, match=complaint):
        Mix("wrong", sources)


def test_the_demo_mix_covers_five_domains_with_text_and_chat_and_has_mini_tasks():
    assert set(DEMO_MIX.domains) == {"general", "code", "law", "medicine", "math", "tasks"}
    for domain in set(DEMO_MIX.domains) - {"tasks"}:
        assert {source.kind for source in DEMO_MIX.sources if source.domain == domain} == {"text", "chat"}
    assert sum(DEMO_MIX.shares.values()) == pytest.approx(1.0)
    assert sum(DEMO_MIX.late_shares.values()) == pytest.approx(1.0)
    for shares in (DEMO_MIX.shares, DEMO_MIX.late_shares):
        assert sum(share for slug, share in shares.items() if slug.startswith("tasks.")) == pytest.approx(
            0.05, abs=2e-3
        )
