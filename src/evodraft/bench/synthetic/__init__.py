"""Costs at real scale without real models: random weights of real shapes, and acceptance by decree.

Nothing here says anything about what a model says: whoever shows such figures shows the note that comes with them.
Lives in the benchmark only; no part of the library can be told to use it by name.
"""

from evodraft.bench.synthetic.costs import ForcedCost, HeadCost, forced_costs, head_costs
from evodraft.bench.synthetic.depth import FullDepth, full_depth
from evodraft.bench.synthetic.folder import StoredPair, stored_pair
from evodraft.bench.synthetic.forced import ForcedAcceptance, mean_acceptance_length
from evodraft.bench.synthetic.pair import RandomPair, random_pair
from evodraft.bench.synthetic.plain import PlainCost, peak_gb_per_s, plain_costs
from evodraft.bench.synthetic.shapes import SHAPES, Shape
from evodraft.bench.synthetic.workload import Workload

__all__ = [
    "SHAPES",
    "ForcedAcceptance",
    "ForcedCost",
    "FullDepth",
    "HeadCost",
    "PlainCost",
    "RandomPair",
    "Shape",
    "StoredPair",
    "Workload",
    "forced_costs",
    "full_depth",
    "head_costs",
    "mean_acceptance_length",
    "peak_gb_per_s",
    "plain_costs",
    "random_pair",
    "stored_pair",
]
