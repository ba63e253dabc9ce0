"""Every conformance check finds the faults it is there for. That good parts pass is tested beside each part."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from evodraft.controllers import FixedController
from evodraft.drafters import ModelDrafter, NgramDrafter
from evodraft.drafters.base import DraftRow, DraftStep, Grown, Growth, Place
from evodraft.errors import CapacityError, ConfigError
from evodraft.learners import LearnerNeeds
from evodraft.runtime.trees import checked_parents
from evodraft.sampling import RequestKeys
from evodraft.testing import (
    ScriptedDrafter,
    SlicedDrafter,
    SwappingLearner,
    TableDecoder,
    TableLM,
    TreeDrafter,
    check_controller,
    check_decoder,
    check_drafter,
    check_learner,
    check_verifier,
    random_shape,
)
from evodraft.types import Plan, Update, Verdict, Versions
from evodraft.verifiers import CoupledVerifier, RejectionVerifier

TABLE = TableLM.random(4, order=3, seed=1)


# --- drafters -----------------------------------------------------------------------------------------------------


class Good(ModelDrafter):
    def __init__(self) -> None:
        super().__init__(TableDecoder(TABLE), 4)


class NoNeeds(Good):
    needs = None


class NoVersions(Good):
    def __init__(self) -> None:
        super().__init__()
        self.versions = 3


class TooShort(Good):
    def __init__(self) -> None:
        super().__init__()
        self.max_length = 8


class Both(Good):
    def step(self, rows):
        return DraftStep(super().step(rows).logits, (0,) * len(rows))


class Neither(Good):
    def step(self, rows):
        return DraftStep()


class ProbabilitiesOfOneRow(Good):
    def step(self, rows):
        return DraftStep(logits=super().step(rows).logits[:1])


class Integers(Good):
    def step(self, rows):
        return DraftStep(logits=torch.zeros(len(rows), 4, dtype=torch.long))


class OutsideTheVocabulary(NgramDrafter):
    def step(self, rows):
        return DraftStep(token_ids=(4,) * len(rows))


class OneChoice(NgramDrafter):
    def step(self, rows):
        return DraftStep(token_ids=(1,))


class WritesCommitted(Good):
    def step(self, rows):
        step = super().step(rows)
        rows[0].committed[0] = (rows[0].committed[0] + 1) % 4
        return step


class WritesDrafted(Good):
    def step(self, rows):
        step = super().step(rows)
        rows[-1].drafted.append(0)
        return step


class FirstRowOnly(Good):
    def step(self, rows):
        return DraftStep(logits=super().step(rows).logits[:1].expand(len(rows), 4))


class SlotDependent(Good):
    def step(self, rows):
        shift = torch.tensor([[float(row.slot)] for row in rows])
        return DraftStep(logits=super().step(rows).logits * (1 + shift))


class ConfusedByCommits(Good):
    def commit(self, rows):
        for row in rows:
            self.decoder.crop(row.slot, row.num_confirmed - 1)  # one token too many is harmless
        self.is_confused = True

    def step(self, rows):
        logits = super().step(rows).logits
        return DraftStep(logits=logits.roll(1, dims=-1) if hasattr(self, "is_confused") else logits)


class KeepsRejected(Good):
    """Trusts its cache without cutting it."""

    def commit(self, rows):
        pass

    def step(self, rows):
        last = [(row.slot, row.tokens_from(row.length - 1)) for row in rows]
        return DraftStep(logits=self._feed(last, want_logits=True).logits[:, -1])


class NeverReleases(Good):
    def release(self, slot):
        pass

    def step(self, rows):
        for row in rows:
            self.decoder.crop(row.slot, row.length - 1)
        return super().step(rows)


class ForgetsChunks(ScriptedDrafter):
    """Knows only the prompt tokens that it was admitted with last."""

    def __init__(self) -> None:
        super().__init__(lambda context: TABLE.law(context).tolist(), 4)

    def step(self, rows):
        last = {chunk.slot: chunk for chunk in self.chunks}
        starts = [last[row.slot].start if row.slot in last else 0 for row in rows]
        laws = [TABLE.law([*row.committed[s:], *row.drafted]) for row, s in zip(rows, starts, strict=True)]
        return DraftStep(logits=torch.stack(laws).log() + torch.tensor([[float(s)] for s in starts]))


class Draws(Good):
    def step(self, rows):
        return DraftStep(token_ids=tuple(torch.randint(4, (len(rows),)).tolist()))


class DrawsInSilence(Good):
    def step(self, rows):
        torch.rand(1)
        return super().step(rows)


class Counts(NgramDrafter):
    """Every drafter is made with another offset."""

    made = iter(range(10**6))

    def __init__(self) -> None:
        super().__init__()
        self.offset = next(self.made)

    def step(self, rows):
        return DraftStep(token_ids=tuple((row.length + self.offset) % 4 for row in rows))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (NoNeeds, "needs is None"),
        (NoVersions, "versions is 3"),
        (TooShort, "max_length=8 is below 32"),
        (Both, "exactly one of them"),
        (Neither, "exactly one of them"),
        (ProbabilitiesOfOneRow, r"shape \(1, 4\) instead of \[rows, columns\] = \(3, 4\)"),
        (Integers, "not floating point"),
        (OutsideTheVocabulary, "outside the target's vocabulary"),
        (OneChoice, "1 token ids came for 3 rows"),
        (WritesCommitted, "changed the committed tokens"),
        (WritesDrafted, "changed the drafted tokens"),
        (FirstRowOnly, "in a batch of 3 against a fresh drafter: values differ"),
        (SlotDependent, "in a batch of 3 against a fresh drafter: values differ"),
        (ConfusedByCommits, "draft tokens stood against a fresh drafter: values differ"),
        (KeepsRejected, "draft tokens stood against a fresh drafter: values differ"),
        (NeverReleases, "slot used before against a fresh drafter: values differ"),
        (ForgetsChunks, "in three chunks against a fresh drafter: values differ"),
        (Draws, "a fresh drafter offers|global generator"),
        (DrawsInSilence, "draws from torch's global generator"),
        (Counts, "but a fresh drafter offers"),
    ],
)
def test_check_drafter_finds(make, message) -> None:
    with pytest.raises(AssertionError, match=message):
        check_drafter(make, vocab_size=4)


def test_check_drafter_lets_the_good_one_pass() -> None:
    check_drafter(Good, vocab_size=4)


def test_a_drafter_that_feeds_on_taps_gets_them() -> None:
    class Tapped(ScriptedDrafter):
        """Offers a law made of the hidden state of the last confirmed token."""

        def __init__(self) -> None:
            super().__init__(lambda context: 0, 4)
            self.needs = dataclasses.replace(self.needs, taps=(2,))
            self.hidden = {}

        def admit(self, chunks):
            self.hidden.update({chunk.slot: chunk.taps[2][-1] for chunk in chunks})

        def commit(self, rows):
            self.hidden.update({row.slot: row.taps[2][-1] for row in rows})

        def release(self, slot):
            self.hidden.pop(slot, None)

        def step(self, rows):
            return DraftStep(logits=torch.stack([self.hidden.get(row.slot, torch.zeros(4)) for row in rows]))

    check_drafter(Tapped, vocab_size=4, tap_size=4)


# --- controllers --------------------------------------------------------------------------------------------------


class NoSignals(FixedController):
    needs_signals = None


class PlansNumbers(FixedController):
    def plan(self, request_id):
        return 5


class PlansTooMuch(FixedController):
    def plan(self, request_id):
        return Plan(width=-1)


class PlansTooFewNodes(FixedController):
    def plan(self, request_id):
        return Plan(3, 2)


class BeyondThePlan(FixedController):
    def more(self, rows):
        return [row.num_drawn <= row.plan.width for row in rows]


class Mask(FixedController):
    def more(self, rows):
        return [1 for _ in rows]


class ShortMask(FixedController):
    def more(self, rows):
        return super().more(rows)[:1]


class Meddles(FixedController):
    def more(self, rows):
        mask = super().more(rows)
        rows[0].plan = Plan(width=9)
        return mask


class ForgetsTooEarly(FixedController):
    def __init__(self) -> None:
        super().__init__()
        self.known = set()

    def start(self, request_id):
        self.known.add(request_id)

    def finish(self, request_id):
        self.known.remove(request_id)

    def observe(self, feedback):
        assert feedback.request_id in self.known, "late feedback"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (NoSignals, "needs_signals is None"),
        (PlansNumbers, "returned 5 instead of a Plan"),
        (PlansTooMuch, "width=-1; it must be a whole number"),
        (PlansTooFewNodes, "num_nodes=2 for width=3"),
        (BeyondThePlan, "allows draw 6 in a plan of width 5"),
        (Mask, r"returned \[1, 1\] for 2 rows"),
        (ShortMask, "for 2 rows"),
        (Meddles, "may only read"),
        (ForgetsTooEarly, "late feedback"),
    ],
)
def test_check_controller_finds(make, message) -> None:
    with pytest.raises(AssertionError, match=message):
        check_controller(make)


class GoodTrees(TreeDrafter):
    def __init__(self) -> None:
        super().__init__(Good(), lambda context, growth: [-1, -1, *[0, 0, 1] * (growth.depth > 1)][: growth.num_nodes])


class GrowsTooMany(GoodTrees):
    def grow(self, rows, growths, rank, want_signals):
        return super().grow(
            rows, [Growth(growth.depth, growth.num_nodes + 1) for growth in growths], rank, want_signals
        )


class GrowsTooDeep(GoodTrees):
    def grow(self, rows, growths, rank, want_signals):
        grown = Grown((1, 1), (-1, 0), (None, None))
        return [grown if growth.depth == 1 else Grown((), ()) for growth in growths]


class GrowsTreesForChains(GoodTrees):
    def grow(self, rows, growths, rank, want_signals):
        return [Grown((0, 1), (-1, -1), (None, None)) if growth.depth == 3 else Grown((), ()) for growth in growths]


class GrowsStrangeIds(GoodTrees):
    def grow(self, rows, growths, rank, want_signals):
        return [Grown((4,), (-1,), (None,)) for _ in rows]


class GrowsForTheFirstOnly(GoodTrees):
    def grow(self, rows, growths, rank, want_signals):
        return super().grow(rows[:1], growths[:1], rank, want_signals)


class GrowsBySlot(GoodTrees):
    def grow(self, rows, growths, rank, want_signals):
        return [Grown((len(rows),), (-1,), (None,)) for _ in rows]


class SignalsForNobody(GoodTrees):
    def grow(self, rows, growths, rank, want_signals):
        return super().grow(rows, growths, rank, False)


class WritesWhatItGrew(GoodTrees):
    def grow(self, rows, growths, rank, want_signals):
        grown = super().grow(rows, growths, rank, want_signals)
        rows[0].drafted.append(1)
        return grown


class RanksElsewhere(GoodTrees):
    def grow(self, rows, growths, rank, want_signals):
        if rank is not None:
            rank(torch.zeros(2, 4), None, [Place(0, 0)])
        return super().grow(rows, growths, rank, want_signals)


class KeepsItsTree(GoodTrees):
    """The path that it looked at last stays in its cache."""

    def grow(self, rows, growths, rank, want_signals):
        grown = super().grow(rows, growths, rank, want_signals)
        for row in rows:
            self.inner.step([DraftRow(row.slot, row.committed, [1, 1])])
        return grown

    def commit(self, rows):
        pass


class UnsortedSlice(SlicedDrafter):
    def __init__(self) -> None:
        super().__init__(Good(), [2, 1])


class SliceBeyond(SlicedDrafter):
    def __init__(self) -> None:
        super().__init__(Good(), [2, 3])
        self.told = torch.tensor([2, 4])

    def step(self, rows):
        return dataclasses.replace(super().step(rows), ids=self.told)


def test_trees_and_slices_that_keep_the_protocol() -> None:
    check_drafter(GoodTrees, vocab_size=4)
    check_drafter(lambda: SlicedDrafter(Good(), [0, 3]), vocab_size=4)
    check_drafter(lambda: TreeDrafter(SlicedDrafter(Good(), [0, 3]), random_shape()), vocab_size=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (GrowsTooMany, "tokens were grown, the limit was"),
        (GrowsTooDeep, "a tree of depth 2 was grown"),
        (GrowsTreesForChains, "is no chain"),
        (GrowsStrangeIds, "are outside the target's vocabulary"),
        (GrowsForTheFirstOnly, "1 trees were grown for 3 rows"),
        (GrowsBySlot, "in a batch and .* alone"),
        (SignalsForNobody, "0 signals came for"),
        (WritesWhatItGrew, "changed the tokens of a row"),
        (RanksElsewhere, "2 rows of logits were to be ranked at 1 places"),
        (KeepsItsTree, "after a tree of which none stood|draft tokens stood"),
        (UnsortedSlice, "must ascend"),
        (SliceBeyond, "must ascend within"),
    ],
)
def test_check_drafter_finds_in_trees_and_slices(make, message) -> None:
    with pytest.raises(AssertionError, match=message):
        check_drafter(make, vocab_size=4)


# --- verifiers ----------------------------------------------------------------------------------------------------


class Undecided(RejectionVerifier):
    exact = None


class TakesAll(RejectionVerifier):
    def verify(self, case, stream):
        path, node = [], -1
        while children := case.draft.children(node):
            node = children[0]
            path.append(node)
        accepted = tuple(case.draft.token_ids[node] for node in path)
        if node in case.scores.ends:
            return Verdict(tuple(path), accepted)
        law = case.scores.laws.at(node, accepted)
        return Verdict(tuple(path), (*accepted, int(stream.draw(law[None], [case.keys.next("recover")])[0])))


class TakesAllOpenly(TakesAll):
    exact = False


class AsksTwice(RejectionVerifier):
    def verify(self, case, stream):
        case.scores.laws.at(-1, [])
        return super().verify(case, stream)


class AsksWithoutPath(RejectionVerifier):
    def verify(self, case, stream):
        if case.draft.num_tokens:
            case.scores.laws.at(0, [])
        return super().verify(case, stream)


class SaysTooMuch(RejectionVerifier):
    def verify(self, case, stream):
        verdict = super().verify(case, stream)
        return dataclasses.replace(verdict, token_ids=(*verdict.token_ids, 0))


class WrongPath(RejectionVerifier):
    def verify(self, case, stream):
        verdict = super().verify(case, stream)
        return dataclasses.replace(verdict, path=verdict.path[::-1] if len(verdict.path) > 1 else verdict.path)


class OneKey(RejectionVerifier):
    def draft_key(self, request, keys, position):
        return RequestKeys(request.seed).next("draft")


class CoupledToTheDraft(CoupledVerifier):
    """A draft token that the target could have said is taken."""

    def verify(self, case, stream):
        if case.draft.num_tokens and case.scores.laws.at(-1, [])[case.draft.token_ids[0]] > 0:
            return Verdict((), case.draft.token_ids[:1])
        laws = case.scores.laws
        laws.nodes.clear()
        return super().verify(case, stream)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Undecided, "exact is None"),
        (TakesAll, "outputs have a wrong probability"),
        (AsksTwice, "asked for twice"),
        (AsksWithoutPath, "asked for with path"),
        (SaysTooMuch, "do not go with the accepted draft tokens"),
        (WrongPath, "are no path from the root"),
        (OneKey, "without a draft|do not fit"),
        (CoupledToTheDraft, "came, without a draft"),
    ],
)
def test_check_verifier_finds(make, message) -> None:
    with pytest.raises(AssertionError, match=message):
        check_verifier(make)


def test_a_verifier_that_admits_to_be_inexact_is_judged_by_its_form_only() -> None:
    check_verifier(TakesAllOpenly)


def test_frequencies_are_looked_at_where_noise_is_shared() -> None:
    class Favours(CoupledVerifier):
        """A function of seed and position, but not of the law."""

        def verify(self, case, stream):
            token_id = case.request.seed % 2
            path = [node for node in case.draft.children(-1) if case.draft.token_ids[node] == token_id][:1]
            num_tokens = len(path) + case.scores.ends.isdisjoint(path)
            return Verdict(tuple(path), (token_id,) * num_tokens)

    with pytest.raises(AssertionError, match="do not fit the target's law"):
        check_verifier(Favours)


# --- learners -----------------------------------------------------------------------------------------------------


def swapping() -> SwappingLearner:
    return SwappingLearner(lambda feedback: "payload", target_logits=True)


class Undeclared(SwappingLearner):
    def __init__(self) -> None:
        super().__init__(lambda feedback: None)
        self.needs = {"target_logits"}


class Stuck(SwappingLearner):
    def __init__(self) -> None:
        super().__init__(lambda feedback: None)

    def step(self, budget_ms):
        return Update(Versions(1, 0), "again") if self.feedbacks else None


class Backwards(Stuck):
    def step(self, budget_ms):
        return Update(Versions(10 - len(self.feedbacks), len(self.feedbacks)), None) if self.feedbacks else None


class HandsOutAnything(Stuck):
    def step(self, budget_ms):
        return "weights"


class Overwrites(Stuck):
    def __init__(self) -> None:
        super().__init__()
        self.needs = LearnerNeeds(target_logits=True)

    def observe(self, feedback):
        if feedback.logits is not None:
            feedback.logits.zero_()


class OverwritesQ(Stuck):
    def observe(self, feedback):
        if feedback.draft.q is not None:
            feedback.draft.q.mul_(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Undeclared, "instead of LearnerNeeds"),
        (Stuck, "count upwards"),
        (Backwards, "count upwards"),
        (HandsOutAnything, "instead of an Update or None"),
        (Overwrites, "work on a copy"),
        (OverwritesQ, "work on a copy"),
    ],
)
def test_check_learner_finds(make, message) -> None:
    with pytest.raises(AssertionError, match=message):
        check_learner(make)


# --- decoders -----------------------------------------------------------------------------------------------------


class Decoder(TableDecoder):
    def __init__(self, num_slots: int, max_length: int) -> None:
        super().__init__(TABLE, num_slots, max_length)


class FewerSlots(Decoder):
    def __init__(self, num_slots, max_length):
        super().__init__(num_slots - 1, max_length)


class Longer(Decoder):
    def __init__(self, num_slots, max_length):
        super().__init__(num_slots, max_length + 1)


class NoLayers(Decoder):
    num_layers = 0


class NotEmpty(Decoder):
    def __init__(self, num_slots, max_length):
        super().__init__(num_slots, max_length)
        self._tokens[2].append(0)


class AlwaysLogits(Decoder):
    def forward(self, token_ids, widths, slots, *, parents=None, want_logits=True, taps=()):
        return super().forward(token_ids, widths, slots, taps=taps)


class NeverLogits(Decoder):
    def forward(self, token_ids, widths, slots, *, parents=None, want_logits=True, taps=()):
        return super().forward(token_ids, widths, slots, want_logits=False, taps=taps)


class LastColumnOnly(Decoder):
    def forward(self, token_ids, widths, slots, **options):
        output = super().forward(token_ids, widths, slots, **options)
        return dataclasses.replace(output, logits=None if output.logits is None else output.logits[:, -1:])


class PaddingIsText(Decoder):
    def forward(self, token_ids, widths, slots, **options):
        return super().forward(token_ids, [token_ids.shape[1]] * len(widths), slots, **options)


class SwapsRows(Decoder):
    def forward(self, token_ids, widths, slots, **options):
        output = super().forward(token_ids, widths, slots, **options)
        return dataclasses.replace(output, logits=None if output.logits is None else output.logits.flip(0))


class ForgetsBetweenPasses(Decoder):
    def forward(self, token_ids, widths, slots, **options):
        held = [list(tokens) for tokens in self._tokens]
        for slot in slots:
            self._tokens[slot] = []
        output = super().forward(token_ids, widths, slots, **options)
        for slot in slots:
            self._tokens[slot] = [*held[slot], *self._tokens[slot]]
        return output


class NeverCrops(Decoder):
    def crop(self, slot, length, layers=None):
        pass


class CropsOthers(Decoder):
    def crop(self, slot, length, layers=None):
        for tokens in self._tokens:
            del tokens[length:]


class CropGrows(Decoder):
    def crop(self, slot, length, layers=None):
        super().crop(slot, length)
        self._tokens[slot] += [0] * (length - len(self._tokens[slot]))


class CropsTheWrongEnd(Decoder):
    def crop(self, slot, length, layers=None):
        del self._tokens[slot][: max(0, len(self._tokens[slot]) - length)]


class KeepsAfterRelease(Decoder):
    def release(self, slot):
        del self._tokens[slot][1:]


class LeavesTraces(Decoder):
    def __init__(self, num_slots, max_length):
        super().__init__(num_slots, max_length)
        self.num_released = 0

    def release(self, slot):
        super().release(slot)
        self.num_released += 1

    def forward(self, token_ids, widths, slots, **options):
        output = super().forward(token_ids, widths, slots, **options)
        if output.logits is not None and self.num_released:
            output.logits.mul_(2)
        return output


class NoLimit(Decoder):
    def __init__(self, num_slots, max_length):
        super().__init__(num_slots, 10**6)
        self.limit, self.max_length = 10**6, max_length

    def forward(self, token_ids, widths, slots, **options):
        shown, self.max_length = self.max_length, self.limit
        output = super().forward(token_ids, widths, slots, **options)
        self.max_length = shown
        return output


class LateRefusal(Decoder):
    def forward(self, token_ids, widths, slots, **options):
        for row, (width, slot) in enumerate(zip(widths, slots, strict=True)):
            if self.length(slot) + width > self.max_length:
                raise CapacityError("too late")
            self._tokens[slot] += token_ids[row, :width].tolist()
        for width, slot in zip(widths, slots, strict=True):
            del self._tokens[slot][-width:]
        return super().forward(token_ids, widths, slots, **options)


class NoTaps(Decoder):
    def forward(self, token_ids, widths, slots, *, parents=None, want_logits=True, taps=()):
        return super().forward(token_ids, widths, slots, want_logits=want_logits)


class ShortTaps(Decoder):
    def forward(self, token_ids, widths, slots, **options):
        output = super().forward(token_ids, widths, slots, **options)
        return dataclasses.replace(output, taps={layer: hidden[:, :1] for layer, hidden in output.taps.items()})


class TreesAreChains(Decoder):
    def forward(self, token_ids, widths, slots, *, parents=None, **options):
        checked_parents(parents, widths)
        return super().forward(token_ids, widths, slots, **options)


class AnyParents(Decoder):
    def forward(self, token_ids, widths, slots, *, parents=None, **options):
        if parents is not None and len(parents) == 1:
            parents = None
        return super().forward(token_ids, widths, slots, parents=parents, **options)


class AdvancesBeforeParents(Decoder):
    def forward(self, token_ids, widths, slots, *, parents=None, **options):
        try:
            return super().forward(token_ids, widths, slots, parents=parents, **options)
        except ConfigError:
            self._tokens[slots[0]].append(0)
            raise


class AnyPath(Decoder):
    def select(self, slot, start, nodes):
        self.crop(slot, start + len(nodes))


class CutsBeforePath(Decoder):
    def select(self, slot, start, nodes):
        try:
            super().select(slot, start, nodes)
        except ConfigError:
            self.crop(slot, start)
            raise


class SelectsTheFirst(Decoder):
    def select(self, slot, start, nodes):
        super().select(slot, start, nodes)
        self._tokens[slot][start:] = [self._tokens[slot][start]] * len(nodes)


class SelectsTooMany(Decoder):
    def select(self, slot, start, nodes):
        super().select(slot, start, nodes)
        self._tokens[slot].append(0)


class SelectsEverywhere(Decoder):
    def select(self, slot, start, nodes):
        super().select(slot, start, nodes)
        for tokens in self._tokens[:slot]:
            tokens.clear()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (FewerSlots, "num_slots is 2"),
        (Longer, "max_length is 13"),
        (NoLayers, "num_layers is 0"),
        (NotEmpty, r"hold \[0, 0, 1\] tokens instead of none"),
        (AlwaysLogits, "want_logits=False returned logits"),
        (NeverLogits, "want_logits=True returned no logits"),
        (LastColumnOnly, r"have shape \(3, 1, 4\)"),
        (PaddingIsText, "holds 7 of 5 tokens"),
        (SwapsRows, "a row of a ragged batch"),
        (ForgetsBetweenPasses, "token by token against the whole text"),
        (NeverCrops, r"after crop\(0, 3\) slot 0 holds 6 tokens"),
        (CropsOthers, "changed the length of slot 2"),
        (CropGrows, "a crop beyond the end"),
        (CropsTheWrongEnd, "text after a crop"),
        (KeepsAfterRelease, "a released slot holds 1 tokens"),
        (LeavesTraces, "a reused slot against a new one"),
        (NoLimit, "without CapacityError"),
        (LateRefusal, "a refused pass left lengths"),
        (NoTaps, r"taps \[0, 1\] were asked for and \[\] came"),
        (ShortTaps, r"tap 0 has shape \(1, 1, 4\)"),
        (TreesAreChains, r"node 2 of .* against its path as plain text"),
        (AnyParents, r"parents \(-1, 1\) of two tokens are no tree and raised no ConfigError"),
        (AdvancesBeforeParents, "refused parents left a length of 4 instead of 3"),
        (AnyPath, r"nodes \[1, 0\] are no path"),
        (CutsBeforePath, "a refused path left a length of 3 instead of 10"),
        (SelectsTheFirst, "text after a selected path"),
        (SelectsTooMany, "a slot of 3 tokens holds 8"),
        (SelectsEverywhere, "changed the length of slot 0 to 0"),
    ],
)
def test_check_decoder_finds(make, message) -> None:
    with pytest.raises(AssertionError, match=message):
        check_decoder(make)


def test_check_decoder_lets_the_good_one_pass() -> None:
    check_decoder(Decoder)
