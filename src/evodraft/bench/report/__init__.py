"""Results for readers: on a terminal, as Markdown, as a page with pictures. Measures nothing and computes no figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evodraft.bench.report import console, document, page

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evodraft.bench.result import Result


def terminal(result: Result) -> RenderableType:
    """For `Console.print`; takes the width that there is."""
    return console.Report(result)


def markdown(result: Result, *, compact: bool = False, contestant: str | None = None) -> str:
    """Everything, or what a README has room for: one contestant by kind of prompt, everybody over all prompts.

    Args:
        compact: leave out what is synthetic, and show no figure that does not count.
        contestant: whose figures are shown by kind of prompt in the compact form; None = the first method.

    Raises:
        BenchError: the compact form of a synthetic result, or of one without that contestant.
    """
    return document.compact(result, contestant) if compact else document.full(result)


def html(results: Sequence[Result]) -> str:
    """A page that needs no network, with pictures; several results also side by side.

    Raises:
        BenchError: there is no result, or matplotlib is missing.
    """
    return page.page(results)
