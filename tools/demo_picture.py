"""Draw docs/images/demo.svg: one prompt of the demo, both streams as they stood when the faster one was done.

    python tools/demo_picture.py [DOMAIN] [FILE]

A real run on this machine, in bfloat16 at temperature 0, after a warm-up; what the picture shows is the recording.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from evodraft import LLM
from evodraft.demo import Comparison, compare, read_prompts
from evodraft.display import legend, streams

WIDTH = 110


def main(domain: str = "law", file: str = "docs/images/demo.svg") -> None:
    """Measure one prompt of `domain` and write the picture."""
    prompts = [prompt for prompt in read_prompts(1) if prompt.domain == domain]
    [comparison] = compare(LLM.from_pretrained("demo"), prompts, [0.0], max_new_tokens=128, seed=7)
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(picture(comparison), encoding="utf-8")


def picture(comparison: Comparison) -> str:
    """The SVG of both streams at the moment when the speculative one ended; names no font on another server."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(legend())
    console.print(streams(comparison, comparison.speculative.completion.stats.decode_s))
    drawn = console.export_svg(title="evodraft demo")
    return re.sub(r"@font-face \{.*?\}\n|[ \t]+$", "", drawn, flags=re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    main(*sys.argv[1:])
