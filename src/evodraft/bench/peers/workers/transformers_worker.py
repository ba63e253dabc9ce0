"""transformers behind the worker's protocol: one `generate` for each batch. Knows no benchmark.

Run as a script by the Python of the peer's environment. Settings that the models' own folders bring along are dropped,
so that nothing but the request decides how a token is chosen. Two things are noted while `generate` runs, both in
microseconds: a streamer is handed each block of tokens as the target decides it, and a hook reads how wide the target's
pass is, which tells how many tokens were guessed.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final, NamedTuple

_SHARED: Final = ("temperature", "repetition_penalty", "stop_token_ids")  # `generate` takes one value for a whole batch
_WARM_UP: Final[Mapping[str, Any]] = {
    "token_ids": [0, 0],
    "max_new_tokens": 3,
    "temperature": 0.0,
    "repetition_penalty": 1.0,
    "seed": 0,
    "stop_token_ids": [],
}
_ASSISTING: Final = frozenset({"assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit"})
_DTYPES: Final = ("float32", "bfloat16", "float16")


class Block(NamedTuple):
    """Tokens that one target pass decided, of all rows together."""

    num_tokens: int
    at_s: float  # time.perf_counter


class BlockStreamer:
    """A streamer as `generate` wants it: notes when how many tokens came."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.blocks: list[Block] = []
        self._clock = clock
        self._is_prompt = True

    def put(self, token_ids: Any) -> None:
        """Takes ids; the first to come are the prompt."""
        if not self._is_prompt:
            self.blocks.append(Block(token_ids.numel(), self._clock()))
        self._is_prompt = False

    def end(self) -> None:
        """Nothing to do."""


class TransformersRunner:
    """A loaded target, and a draft model in modes that need one."""

    def __init__(self, target: Any, draft: Any | None, options: Mapping[str, Any], max_model_len: int) -> None:
        import torch
        import transformers

        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        self._target, self._draft = target, draft
        self._max_model_len = max_model_len
        self._knobs = transformers.GenerationConfig(**options.get("draft", {}))
        self._arguments = _arguments(target, draft, options, max_model_len)
        self._is_assisted = bool(_ASSISTING & set(self._arguments))
        self.label = _label(self._arguments, draft is not None, self._knobs.assistant_confidence_threshold)
        target.generation_config = transformers.GenerationConfig(pad_token_id=_pad_token_id(target.config))
        self.reset()

    def reset(self) -> None:
        """The heuristic schedule leaves its length in the draft's config; this puts the first one back."""
        if self._draft is not None:
            self._draft.generation_config = copy.deepcopy(self._knobs)

    def generate(self, asks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Answers one batch; what the asks must share is checked."""
        import torch

        self._check(asks)
        first, streamer, widths = asks[0], BlockStreamer(), list[int]()
        hooked = _pass_widths(self._target, widths) if self._is_assisted else nullcontext()
        with torch.random.fork_rng(devices=[]), _kept_depth(self._target.config), hooked:
            torch.manual_seed(first["seed"])
            started = time.perf_counter()
            token_ids, mask = _padded([ask["token_ids"] for ask in asks], self._target.generation_config.pad_token_id)
            output = self._target.generate(
                token_ids,
                attention_mask=mask,
                streamer=streamer,
                max_new_tokens=max(ask["max_new_tokens"] for ask in asks),
                **_sampling(first),
                **self._arguments,
            )
            rows = output[:, token_ids.shape[1] :].tolist()
            request_s = time.perf_counter() - started
        answers = []
        for row, ask in zip(rows, asks, strict=True):
            ids = _cut(row[: ask["max_new_tokens"]], ask["stop_token_ids"])
            counts = _assisted_counts(streamer.blocks, widths, len(ask["token_ids"])) if self._is_assisted else None
            answers.append({"token_ids": ids, "error": None, **(counts or _plain_counts(len(ids)))})
        decode_s = decode_seconds(streamer.blocks, started + request_s, request_s)
        return {"request_s": request_s, "decode_s": decode_s, "answers": answers}

    def resident_bytes(self) -> int:
        """Peak memory of this process."""
        peak: int = importlib.import_module("worker").peak_bytes()
        return peak

    def close(self) -> None:
        """Everything ends with the process."""

    def _check(self, asks: Sequence[Mapping[str, Any]]) -> None:
        different = [name for name in _SHARED if any(ask[name] != asks[0][name] for ask in asks)]
        if different:
            raise ValueError(f"the prompts of one batch differ in {', '.join(different)}; generate() takes one for all")
        for ask in asks:
            length = len(ask["token_ids"]) + ask["max_new_tokens"]
            if not ask["token_ids"] or length > self._max_model_len:
                raise ValueError(
                    f"a prompt of {len(ask['token_ids'])} tokens and {ask['max_new_tokens']} new ones: "
                    f"1 to {self._max_model_len} together fit; raise max_model_len"
                )


def load(request: Mapping[str, Any]) -> TransformersRunner:
    """Loads what the request names, from local folders."""
    import torch
    import transformers

    if request["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {request['dtype']!r} is not one of {', '.join(_DTYPES)}")
    torch.set_num_threads(request["threads"])
    folders = {"target": request["target"], "draft": request["draft"]}
    models = {
        name: transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, request["dtype"]), local_files_only=True
        )
        for name, folder in folders.items()
        if folder is not None
    }
    runner = TransformersRunner(models["target"], models.get("draft"), request["options"], request["max_model_len"])
    if request["options"].get("is_compiled"):
        runner.generate([_WARM_UP])  # compiles, in a minute or so; later prompts of any length take the same graph
    return runner


def decode_seconds(blocks: Sequence[Block], ended_s: float, request_s: float) -> float:
    """Seconds of decoding all tokens, the reading of the prompt excluded.

    The pass that reads the prompt decides the first block too, so only the time after it can be seen. It is scaled
    from the tokens that came in it to all of them. If all came in the first block, the whole request counts: that is
    too long rather than too short.

    >>> decode_seconds([Block(1, 5.0), Block(2, 6.0), Block(2, 7.0)], 7.0, 10.0)
    2.5
    """
    num_tokens = sum(block.num_tokens for block in blocks)
    num_later = num_tokens - blocks[0].num_tokens
    return min(request_s, (ended_s - blocks[0].at_s) * num_tokens / num_later) if num_later else request_s


def _arguments(target: Any, draft: Any | None, options: Mapping[str, Any], max_model_len: int) -> dict[str, Any]:
    """What this mode adds to every call of `generate`."""
    import transformers

    arguments = dict(options.get("generate", {}))
    if draft is not None:
        arguments["assistant_model"] = draft
    if "early_exit_share" in options:
        num_layers = target.config.num_hidden_layers
        arguments["assistant_early_exit"] = max(1, round(num_layers * options["early_exit_share"]))
    if options.get("is_compiled"):
        # one size for all calls, or every longer prompt would be compiled anew
        arguments["max_cache_len"] = max_model_len
        arguments["compile_config"] = transformers.CompileConfig()
        arguments["compile_config"]._compile_all_devices = True  # without it generate() compiles on accelerators only
    return arguments


def _label(arguments: Mapping[str, Any], has_draft: bool, threshold: float | None) -> str:
    if "compile_config" in arguments:
        return "compiled on a CPU by a switch that transformers keeps private"
    has_threshold = has_draft and threshold != 0.0
    if not has_threshold:
        return "early exit of a model as it is" if "assistant_early_exit" in arguments else ""
    if importlib.util.find_spec("sklearn") is None:
        return "without scikit-learn, as pip installs it: the confidence threshold stays as set"
    return "with scikit-learn: the confidence threshold is refitted while it runs"


def _pad_token_id(config: Any) -> int:
    """Any id does: padding is masked, and what follows a stop token is cut off."""
    return config.pad_token_id if isinstance(config.pad_token_id, int) else 0


def _padded(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Any, Any]:
    """Ids and attention mask [batch, longest prompt], padded on the left."""
    import torch

    longest = max(map(len, prompts))
    ids = [[pad_token_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def _sampling(ask: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults cut off all but 50 tokens, so sampling from the whole law must be said."""
    common = {"repetition_penalty": ask["repetition_penalty"], "eos_token_id": list(ask["stop_token_ids"]) or None}
    if ask["temperature"] == 0:
        return {"do_sample": False, **common}
    return {"do_sample": True, "temperature": ask["temperature"], "top_k": 0, "top_p": 1.0, **common}


def _cut(token_ids: list[int], stop_token_ids: list[int]) -> list[int]:
    shown: list[int] = importlib.import_module("worker").cut(token_ids, stop_token_ids)
    return shown


@contextmanager
def _kept_depth(config: Any) -> Iterator[None]:
    """Early exit lowers the target's number of layers while it guesses, and an error there would leave it so."""
    num_layers = config.num_hidden_layers
    try:
        yield
    finally:
        config.num_hidden_layers = num_layers


@contextmanager
def _pass_widths(target: Any, widths: list[int]) -> Iterator[None]:
    """Notes how many tokens each pass of the whole target reads; passes of its first layers alone are guesses."""
    num_layers = target.config.num_hidden_layers

    def note(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if module.config.num_hidden_layers == num_layers:
            widths.append(named["input_ids"].shape[1])

    handle = target.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _plain_counts(num_tokens: int) -> dict[str, Any]:
    return {"num_draft_tokens": 0, "num_accepted_tokens": 0, "num_target_passes": num_tokens, "num_rounds": 0}


def _assisted_counts(blocks: Sequence[Block], widths: Sequence[int], prompt_length: int) -> dict[str, Any]:
    """Counts of one answer. A block is accepted tokens and one more; the first pass reads the prompt beside its draft.

    If a stop token cuts a block, transformers counts one accepted token fewer than there may be, and so does this.
    """
    drafted = [width - (prompt_length if number == 0 else 1) for number, width in enumerate(widths)]
    accepted = [block.num_tokens - 1 for block in blocks]
    assert len(drafted) == len(accepted), "one pass for each block"
    return {
        "num_draft_tokens": sum(drafted),
        "num_accepted_tokens": sum(accepted),
        "num_target_passes": len(blocks),
        "num_rounds": sum(width > 0 for width in drafted),
        "accepted_per_position": [sum(number > i for number in accepted) for i in range(max(accepted, default=0))],
    }


if __name__ == "__main__":
    importlib.import_module("worker").serve(load)
