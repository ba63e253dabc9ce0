"""What a machine could do at best for a model: bytes a token reads, over the fastest reading that was measured here.

`measure_roofline` measures, `render` shows it on a terminal, `document` makes it JSON. Does not know suites or peers.
"""

from evodraft.bench.roofline.measure import measure_roofline
from evodraft.bench.roofline.record import (
    SCHEMA,
    KernelSpeed,
    Limit,
    PassCost,
    ReadBytes,
    Roofline,
    Speculation,
    document,
)
from evodraft.bench.roofline.view import render

__all__ = [
    "SCHEMA",
    "KernelSpeed",
    "Limit",
    "PassCost",
    "ReadBytes",
    "Roofline",
    "Speculation",
    "document",
    "measure_roofline",
    "render",
]
