"""Flags that several commands share. Ranges are checked by `SamplingParams` and the parts, not here.

Does not know who uses them.
"""

from __future__ import annotations

from typing import Annotated

import typer

_PARTS = "Model and parts"
_SAMPLING = "Sampling and stopping"

Model = Annotated[str, typer.Option("--model", "-m", help="demo, a folder, or a hub id.", rich_help_panel=_PARTS)]
Drafter = Annotated[str, typer.Option(help="auto, model, model:PATH, ngram.", rich_help_panel=_PARTS)]
Controller = Annotated[str, typer.Option(help="auto, fixed:5, confidence, ...", rich_help_panel=_PARTS)]
Verifier = Annotated[str, typer.Option(help="auto, rejection, coupled.", rich_help_panel=_PARTS)]
Vocabulary = Annotated[
    str | None, typer.Option(help="Ids to draft among: static, static:FILE; default: all.", rich_help_panel=_PARTS)
]
Dtype = Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16, float16.", rich_help_panel=_PARTS)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", rich_help_panel=_PARTS)]
Runtime = Annotated[
    str, typer.Option(help="auto, native, packed, eager, transformers: `inspect` says which.", rich_help_panel=_PARTS)
]
Numerics = Annotated[
    str, typer.Option(help="auto, invariant (the same bits in any pass, or an error), fast.", rich_help_panel=_PARTS)
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.", rich_help_panel=_PARTS)]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a hub model.", rich_help_panel=_PARTS)
]
Speculative = Annotated[bool, typer.Option(help="Off: decode plainly, in the same runtime.", rich_help_panel=_PARTS)]
MaxNewTokens = Annotated[int, typer.Option(help="Tokens per answer at most.", rich_help_panel=_SAMPLING)]
Temperature = Annotated[float, typer.Option(help="0 = always the most likely token.", rich_help_panel=_SAMPLING)]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens up to this mass.", rich_help_panel=_SAMPLING)]
TopK = Annotated[int, typer.Option(help="Keep this many of the likeliest tokens; 0 = all.", rich_help_panel=_SAMPLING)]
MinP = Annotated[
    float, typer.Option(help="Keep tokens this likely, relative to the likeliest.", rich_help_panel=_SAMPLING)
]
Stop = Annotated[
    list[str] | None, typer.Option(help="End before this text; may be repeated.", rich_help_panel=_SAMPLING)
]
Seed = Annotated[
    int | None, typer.Option(help="Makes the answer reproducible; default: a fresh one.", rich_help_panel=_SAMPLING)
]
NumSamples = Annotated[int, typer.Option("--n", help="Samples of the prompt.", rich_help_panel=_SAMPLING)]
