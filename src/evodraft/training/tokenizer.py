"""Train the byte-level BPE tokenizer and save it as a transformers folder.

Digits are split one by one, decoding is lossless, and the chat format lives in the tokenizer's `chat_template`.
Does not know: where the text comes from (any iterable of strings) nor what is trained with the tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evodraft.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 8192
SEPARATOR, PAD, USER, ASSISTANT, END = "<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (SEPARATOR, PAD, USER, ASSISTANT, END)
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{% else %}"
    "{{ '<|user|>' + message['content'] + '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids of the special tokens; `separator` begins and ends every document."""

    separator: int
    pad: int
    user: int
    assistant: int
    end: int


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of exactly `vocabulary_size` entries, special tokens included.

    Raises `TrainingError` when the text is too small to yield that many entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    if tokenizer.get_vocab_size() != vocabulary_size:
        raise TrainingError(
            f"the text yields {tokenizer.get_vocab_size()} vocabulary entries, {vocabulary_size} were asked for; "
            "give more text or a smaller vocabulary"
        )
    return _wrap(tokenizer)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write `tokenizer` to `folder` (made if missing) so that `AutoTokenizer` loads it offline."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only"):  # how this object was loaded is not part of the tokenizer
        config.pop(name, None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read the tokenizer in `folder`. Raises `TrainingError` when there is none."""
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise TrainingError(f"no tokenizer.json in {folder}; run `python -m evodraft.training tokenizer` first")
    loaded: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return loaded


def special_ids(tokenizer: PreTrainedTokenizerFast) -> SpecialIds:
    """The ids of the five special tokens. Raises `TrainingError` when one is missing from the vocabulary."""
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise TrainingError(f"the tokenizer lacks the special tokens {missing}; train it with this module")
    return SpecialIds(*(vocabulary[token] for token in SPECIAL_TOKENS))


def _wrap(tokenizer: object) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SEPARATOR,
        eos_token=SEPARATOR,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT, END],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
