"""What a cut model would take at its full depth, foretold from two depths. A separate number, labelled as such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evodraft.bench.roofline.passes import scoring
from evodraft.bench.roofline.timing import median_ms, timer_for
from evodraft.bench.synthetic.pair import shallower
from evodraft.errors import BenchError
from evodraft.runtime.support import ModelFacts

if TYPE_CHECKING:
    from evodraft.bench.roofline.timing import Timer
    from evodraft.bench.synthetic.pair import RandomPair


@dataclass(frozen=True, slots=True)
class FullDepth:
    """Passes over one token at two depths, and the straight line through them. Not a measurement of the full model."""

    num_layers: tuple[int, int]  # that were measured
    ms: tuple[float, float]
    num_full_layers: int

    @property
    def layer_ms(self) -> float:
        """Of one layer."""
        (few, many), (less_ms, more_ms) = self.num_layers, self.ms
        return (more_ms - less_ms) / (many - few)

    @property
    def rest_ms(self) -> float:
        """Of everything but the layers: head, embedding, norm, the call itself."""
        return self.ms[0] - self.num_layers[0] * self.layer_ms

    @property
    def extrapolated_ms(self) -> float:
        """Of one pass at full depth."""
        return self.rest_ms + self.num_full_layers * self.layer_ms


def full_depth(pair: RandomPair, context: int = 128, repeats: int = 15, timer: Timer | None = None) -> FullDepth:
    """Measures half of the layers that are there, and all of them. Raises BenchError for a pair of one layer."""
    if pair.num_layers < 2:
        raise BenchError("one layer is no depth to extrapolate from; raise max_bytes so that at least 2 layers fit")
    model = pair.target.model
    depths = (pair.num_layers // 2, pair.num_layers)
    actions = {depth: scoring(shallower(model, depth), [1], context)[1] for depth in depths}
    measured = median_ms(actions, timer or timer_for(ModelFacts.of(model).device), repeats)
    return FullDepth(depths, (measured[depths[0]], measured[depths[1]]), pair.num_full_layers)
