"""Which sources a model is trained on, and in which proportions.

Does not know: how a source is read, formatted or tokenised (`data.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from evodraft.errors import TrainingError
from evodraft.training.tasks import TASKS

Kind = Literal["text", "chat", "task"]


@dataclass(frozen=True, slots=True)
class Source:
    """One origin of documents inside one domain.

    `prefix` is matched against the beginning of each document's `source` field; of kind "task" it names a generator of
    `tasks.py`. `weight` is the share of training
    rows before normalisation, `late_weight` the one in the last, narrower part of a run (None: the same). Documents
    containing any string of `skip`, or none of a non-empty `only`, are dropped. `is_subset` marks a source whose
    documents belong to another source of the mix too, and are measured there.
    """

    domain: str
    kind: Kind
    prefix: str
    weight: float
    late_weight: float | None = None
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    is_subset: bool = False

    @property
    def slug(self) -> str:
        """A file-name-safe name, unique within a mix."""
        name = "".join(c if c.isalnum() else "-" for c in self.prefix)
        return f"{self.domain}.{self.kind}.{name}{'.subset' * self.is_subset}"

    def keeps(self, document: str) -> bool:
        """Whether `skip` and `only` let a document through."""
        if any(mark in document for mark in self.skip):
            return False
        return not self.only or any(mark in document for mark in self.only)


@dataclass(frozen=True, slots=True)
class Mix:
    """Sources with weights. Raises `TrainingError` when one is repeated or negative, or when all are zero."""

    name: str
    sources: tuple[Source, ...]

    def __post_init__(self) -> None:
        if not self.sources:
            raise TrainingError(f"mix {self.name!r} has no sources; give at least one")
        slugs = [source.slug for source in self.sources]
        repeated = sorted({slug for slug in slugs if slugs.count(slug) > 1})
        if repeated:
            raise TrainingError(f"mix {self.name!r} names {repeated} more than once; merge them")
        wrong = [source.slug for source in self.sources if min(_weights(source)) < 0 or max(_weights(source)) <= 0]
        if wrong:
            raise TrainingError(f"mix {self.name!r}: the weights of {wrong} are not positive; drop them or raise them")
        for late in (0, 1):
            if not any(_weights(source)[late] for source in self.sources):
                raise TrainingError(f"mix {self.name!r} has only zero weights; raise one")

    @property
    def domains(self) -> tuple[str, ...]:
        """Domain names in the order of first use."""
        return tuple(dict.fromkeys(source.domain for source in self.sources))

    @property
    def shares(self) -> dict[str, float]:
        """Slug -> share of training rows; sums to one."""
        return self._normalised(0)

    @property
    def late_shares(self) -> dict[str, float]:
        """Slug -> share of training rows in the late part of a run; sums to one."""
        return self._normalised(1)

    @property
    def measured(self) -> tuple[str, ...]:
        """Slugs whose held-out losses count: sources used to the end, each document once."""
        return tuple(source.slug for source in self.sources if _weights(source)[1] > 0 and not source.is_subset)

    def _normalised(self, late: int) -> dict[str, float]:
        weights = {source.slug: _weights(source)[late] for source in self.sources}
        total = sum(weights.values())
        return {slug: weight / total for slug, weight in weights.items()}


def _weights(source: Source) -> tuple[float, float]:
    return source.weight, source.weight if source.late_weight is None else source.late_weight


_OPENSTAX: Final = "openstax/osbooks-"
_COMMON_CLAUSES: Final = (
    "Counterparts", "Entire Agreement", "Severability", "Notices", "Compliance with Laws", "Insurance",
    "Use of Proceeds", "Indemnification", "Litigation", "Governing Law", "Liens", "Remedies",
    "Waiver of Jury Trial", "Confidentiality", "Further Assurances", "Survival", "Headings", "Assignment",
    "Binding Effect", "Successors and Assigns", "No Waiver", "Amendments", "Amendments and Waivers", "Notice",
    "Inspection", "Payment of Obligations", "Waiver", "Taxes", "Execution in Counterparts", "No Default",
    "Dividends", "Expenses", "Books and Records", "Termination",
)  # fmt: skip

_TASK_WEIGHT: Final = 1.3  # with the four tasks, 5 % of the rows

DEMO_MIX: Final = Mix(
    name="demo",
    sources=(
        Source("general", "text", "google-research-datasets/Synthetic-Persona-Chat", 5.0, 12.0, skip=("[user",)),
        Source("general", "text", "google-research-datasets/dstc8-schema-guided-dialogue", 4.5, 6.0),
        Source("general", "text", "google-research-datasets/Taskmaster", 0.8, 1.0),
        Source("general", "chat", "Open-Assistant/oasst-model-eval", 6.0, 0.0),
        Source("general", "chat", "LAION-AI/Open-Assistant", 0.5),
        Source("general", "text", _OPENSTAX + "us-history", 2.0, 0.0),
        Source("general", "text", _OPENSTAX + "psychology", 1.5, 0.0),
        Source("general", "chat", _OPENSTAX + "us-history", 0.4, 0.2),
        Source("general", "chat", _OPENSTAX + "psychology", 0.5),
        Source("general", "chat", _OPENSTAX + "introduction-sociology", 0.3),
        Source("code", "text", "TheAlgorithms/Python", 5.0, 3.5),
        Source("code", "text", "keon/algorithms", 1.5, 3.5),
        Source("code", "text", "kamyu104/LeetCode-Solutions", 3.0, 5.0),
        Source("code", "chat", "tldr-pages/tldr", 6.0, 2.0),
        Source("code", "chat", "TheAlgorithms/Python", 1.0, 1.5),
        Source("code", "chat", "keon/algorithms", 0.5, 1.0),
        Source("code", "chat", "google-research/mbpp", 0.6, 1.0),
        Source("code", "chat", "30-seconds/30-seconds-of-code", 0.6, 0.0),
        Source("code", "chat", "exercism/python", 0.6, 0.0),
        Source("law", "chat", "LexPredict/lexpredict-contraxsuite-samples", 7.0, 8.0),
        Source("law", "chat", "justicecanada/laws-lois-xml", 6.0, 6.0),
        Source("law", "text", _OPENSTAX + "american-government", 3.0, 0.0),
        Source("law", "chat", _OPENSTAX + "american-government", 0.5),
        Source("law", "text", "github/site-policy", 2.0, 1.0),
        Source("medicine", "chat", "abachaa/MedQuAD", 13.0, 10.0),
        Source("medicine", "text", _OPENSTAX + "anatomy-physiology", 3.0, 0.0),
        Source("medicine", "chat", _OPENSTAX + "anatomy-physiology", 1.5),
        Source("medicine", "chat", _OPENSTAX + "nursing-external-bundle", 0.7),
        Source("math", "chat", "openai/grade-school-math", 7.0, 8.0),
        Source("math", "chat", "synthetic", 6.0),
        Source("math", "text", _OPENSTAX + "prealgebra-bundle", 2.5, 0.5),
        Source("math", "chat", _OPENSTAX + "prealgebra-bundle", 1.5, 1.0),
        Source("math", "chat", "arkilpatel/SVAMP", 1.5, 3.0),
        Source("code", "chat", "tldr-pages/tldr@08e345f426:pages/common", 0.0, 4.0, is_subset=True),
        Source(
            "law",
            "chat",
            "LexPredict/lexpredict-contraxsuite-samples",
            0.0,
            3.0,
            only=tuple(f'"{title}"' for title in _COMMON_CLAUSES),
            is_subset=True,
        ),
        Source("medicine", "chat", "abachaa/MedQuAD@577bd37b96:3_GHR_QA", 0.0, 7.0, is_subset=True),
        *(Source("tasks", "task", name, _TASK_WEIGHT) for name in TASKS),
    ),
)
