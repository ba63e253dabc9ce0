"""Methods as contestants."""

from __future__ import annotations

import pytest

from evodraft.assemble import LoadedTarget, LoadOptions
from evodraft.bench.contestants import Ask
from evodraft.bench.own import Method, Stage
from evodraft.config import EngineConfig
from evodraft.drafters.vocabulary import Vocabulary
from evodraft.errors import BenchError, UnknownOptionError
from evodraft.testing.pairs import tiny_pair
from evodraft.testing.tiny import tiny_model
from evodraft.types import Plan

PAIR = tiny_pair()
EOS = 256


def stage(max_batch: int = 1, verifier: object = "coupled", synthetic: str | None = None) -> Stage:
    target = LoadedTarget(PAIR.target, PAIR.tokenizer)
    return Stage(target, LoadOptions(), EngineConfig(max_batch=max_batch), verifier, synthetic)


def method(drafter: object, **options: object) -> Method:
    return Method("m", {"drafter": drafter, **options}, stage())


def asks(count: int, length: int = 24) -> list[Ask]:
    return [Ask((10 + number, 20, 30), length, 0.7, seed=number, stop_token_ids=(EOS,)) for number in range(count)]


def test_plain_and_drafting_methods_say_the_same_under_coupled_noise() -> None:
    draft = {"name": "model", "model": PAIR.draft}
    said = [[m.generate([ask]).answers[0].token_ids for ask in asks(4)] for m in (method(None), method(draft))]
    assert said[0] == said[1]
    assert all(len(text) == 24 for text in said[0])


def test_time_and_rounds_are_those_of_the_batch() -> None:
    contestant = Method("m", {"drafter": {"name": "model", "model": PAIR.draft}, "controller": "fixed:3"}, stage(4))
    first, second = contestant.generate(asks(4)), contestant.generate(asks(2))
    for outcome, size in ((first, 4), (second, 2)):
        stats = [answer.stats for answer in outcome.answers]
        assert len(outcome.rounds) == sum(s.num_target_passes for s in stats if s)
        assert sum(r.num_drafted for r in outcome.rounds) == sum(s.num_draft_tokens for s in stats if s)
        assert sum(r.num_accepted for r in outcome.rounds) == sum(s.num_accepted_tokens for s in stats if s)
        assert outcome.rounds[0].batch_size == size
        assert outcome.decode_s is not None
        assert 0 < sum((r.draft_s + r.score_s) / r.batch_size for r in outcome.rounds) < outcome.decode_s
        assert outcome.decode_s < outcome.request_s
        assert outcome.learn_s > 0


def test_the_stop_token_is_part_of_the_answer() -> None:
    [text] = [answer.token_ids for answer in method(None).generate(asks(1)).answers]
    ask = Ask(asks(1)[0].token_ids, 24, 0.7, seed=0, stop_token_ids=(text[5],))
    [answer] = method(None).generate([ask]).answers
    assert answer.token_ids == text[: text.index(text[5]) + 1]


def test_a_refused_prompt_is_an_error_of_its_answer_alone() -> None:
    good, bad = asks(1)[0], Ask((999,), 4)
    contestant = Method("m", {"drafter": None}, stage(2))
    first, second = contestant.generate([bad, good]).answers
    assert first.error is not None
    assert "token id 999 is outside the vocabulary" in first.error
    assert second.error is None
    assert len(second.token_ids) == 24


def test_reset_builds_everything_anew_and_close_ends_it() -> None:
    contestant = method("ngram")
    engine = contestant.engine
    before = contestant.generate(asks(1))
    contestant.reset()
    assert contestant.engine is not engine
    after = contestant.generate(asks(1))
    assert after.answers[0].token_ids == before.answers[0].token_ids
    contestant.close()
    contestant.close()
    with pytest.raises(BenchError, match="is closed"):
        contestant.generate(asks(1))


def test_a_new_engine_repeats_the_beginning_of_the_first_answer_and_nobody_learns_from_it() -> None:
    contestant = method("ngram")
    contestant.reset()
    assert contestant.engine.metrics.num_tokens == 0  # nothing was asked yet
    [told] = contestant.generate(asks(1)).answers
    contestant.generate(asks(2)[1:])
    contestant.reset()
    assert contestant.engine.metrics.num_tokens == 8
    assert contestant.generate(asks(1)).answers[0].token_ids == told.token_ids
    stats = contestant.generate(asks(1)).answers[0].stats
    assert stats is not None
    assert len(contestant.generate(asks(1)).rounds) == stats.num_target_passes


def test_what_fails_while_it_warms_up_leaves_nothing_behind() -> None:
    class Moody:
        """A controller that raises after it was told to."""

        needs_signals = False
        is_broken = False

        def start(self, request_id: str) -> None:
            if self.is_broken:
                raise RuntimeError("not today")

        def plan(self, request_id: str) -> Plan:
            return Plan(0)

        def more(self, rows: object) -> list[bool]:
            return []

        def observe(self, feedback: object) -> None:
            """Nothing is learnt."""

        def finish(self, request_id: str) -> None:
            """Nothing was kept."""

    controller = Moody()
    contestant = method("ngram", controller=controller)
    before = contestant.generate(asks(1)).answers[0].token_ids
    controller.is_broken = True
    contestant.reset()
    controller.is_broken = False
    assert not contestant.engine.has_work
    assert contestant.generate(asks(1)).answers[0].token_ids == before


def test_a_slice_of_the_draft_counts_as_a_copy() -> None:
    draft = {"name": "model", "model": PAIR.draft}
    ids = Vocabulary((3, 30, 256), "test")
    whole, sliced = (method(draft, vocabulary=part).memory().weights_bytes for part in (None, ids))
    assert sliced - whole == 3 * PAIR.draft.config.hidden_size * 4


def test_memory_counts_target_and_draft() -> None:
    plain, drafting = method(None), method({"name": "model", "model": PAIR.draft})
    size = sum(parameter.nbytes for parameter in PAIR.target.parameters())
    buffers = sum(buffer.nbytes for buffer in PAIR.target.buffers())
    assert plain.memory().weights_bytes == size + buffers
    assert drafting.memory().weights_bytes == 2 * (size + buffers)
    assert plain.memory().cache_bytes == 0
    plain.generate(asks(1))
    grown = plain.memory().cache_bytes
    assert grown is not None
    assert grown > 0


def test_profiles_say_what_a_method_claims() -> None:
    contestant = Method("m", {"drafter": "ngram"}, stage(synthetic="random weights"))
    assert contestant.profile.is_exact
    assert contestant.profile.synthetic == "random weights"
    assert contestant.profile.options == {"drafter": "ngram"}


@pytest.mark.parametrize("runtime", ["eager", "transformers"])
def test_a_method_may_have_a_runtime_of_its_own_and_says_which(runtime: str) -> None:
    contestant = method(None, runtime=runtime, numerics="fast")
    assert contestant.profile.label == f"runtime {runtime}, fast numerics"
    assert contestant.generate(asks(1)).answers[0].token_ids == method(None).generate(asks(1)).answers[0].token_ids


def test_copies_of_weights_that_a_runtime_makes_are_counted() -> None:
    own, copying = (method(None, runtime=name).memory().weights_bytes for name in ("transformers", "eager"))
    assert own is not None
    assert copying is not None
    assert copying > own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drafer": "ngram"}, "unknown method option 'drafer'; did you mean 'drafter'"),
        ({"drafter": "ngrm"}, "unknown drafter 'ngrm'"),
        ({"runtime": "eeger"}, "unknown runtime 'eeger'; did you mean 'eager'"),
        ({"numerics": "slow"}, "unknown numerics mode 'slow'"),
        ({"vocabulary": "sttic"}, "unknown vocabulary 'sttic'; did you mean 'static'"),
        ({"learners": ["parameters"]}, "unknown learner"),
    ],
)
def test_options_that_nobody_knows_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UnknownOptionError, match=message):
        Method("m", options, stage())


def test_tensors_that_draft_and_target_share_are_counted_once() -> None:
    alone = method(None).memory().weights_bytes
    assert method({"name": "model", "model": PAIR.target}).memory().weights_bytes == alone


def test_the_runtime_of_a_draft_is_named_where_it_is_another_one() -> None:
    same = method({"name": "model", "model": PAIR.draft}, numerics="fast")
    assert same.profile.label == "runtime native, fast numerics"
    other = method(
        {"name": "model", "model": tiny_model("gemma", vocab_size=PAIR.target.config.vocab_size)}, numerics="fast"
    )
    assert other.profile.label == "runtime native, fast numerics, draft's runtime transformers"
