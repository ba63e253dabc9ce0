"""The command line. Translates flags, shows results; no decoding logic.

Errors of the tree are shown as one line without a stack trace; the exit code is then 2.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from evodraft.errors import EvodraftError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Faster generation, same output.")


@app.callback()
def _root() -> None:
    """evodraft: language models generate faster without changing what they say."""


@app.command()
def demo(
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer.")] = 96,
    prompts_per_domain: Annotated[int, typer.Option(min=1, help="Prompts of each of the five domains.")] = 2,
    temperature: Annotated[list[float] | None, typer.Option(help="May be repeated; default 0 and 0.7.")] = None,
    drafter: Annotated[str, typer.Option(help="auto, model, ngram.")] = "auto",
    controller: Annotated[str, typer.Option(help="auto, fixed:5, confidence, ...")] = "auto",
    verifier: Annotated[str, typer.Option(help="auto, rejection, coupled.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the random choices.")] = 7,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Answers prompts from five domains plainly and speculatively, and says what it gained."""
    import transformers

    from evodraft.demo import Comparison, compare, read_prompts, report, summarise
    from evodraft.display import answer_panel, figures, identity
    from evodraft.llm import LLM

    transformers.utils.logging.disable_progress_bar()
    console = Console()
    temperatures = temperature or [0.0, 0.7]
    prompts = read_prompts(prompts_per_domain)
    llm = LLM.from_pretrained("demo", drafter=drafter, controller=controller, verifier=verifier, dtype=dtype)
    comparisons: list[Comparison] = []
    with console.status("") as status:
        for done in compare(llm, prompts, temperatures, max_new_tokens, seed):
            comparisons.append(done)
            status.update(f"{len(comparisons)} of {len(prompts) * len(temperatures)} comparisons")
            if done.temperature == temperatures[0]:
                console.print(answer_panel(done))
    domains = list(dict.fromkeys(prompt.domain for prompt in prompts))
    rows = [summarise(comparisons, domain, t) for t in temperatures for domain in [*domains, "all"]]
    console.print(figures(rows))
    console.print(identity(comparisons))
    if json_path is not None:
        settings = {"drafter": drafter, "controller": controller, "verifier": verifier, "dtype": dtype, "seed": seed}
        document = report(rows, comparisons, settings | {"max_new_tokens": max_new_tokens})
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        console.print(f"figures written to {json_path}")


def main() -> None:
    """Entry point: one line for a user's mistake, a stack trace for ours."""
    try:
        app()
    except EvodraftError as error:
        Console(stderr=True).print(Text.assemble((f"{type(error).__name__}: ", "bold red"), str(error)))
        sys.exit(2)
