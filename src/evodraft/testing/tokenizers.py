"""A tokenizer for tests: one token per byte, no files. Does not know models."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

NUM_BYTES = 256
EOS = "<|end|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """256 byte tokens and an end token with id 256.

    >>> byte_tokenizer()("ab")["input_ids"] == byte_tokenizer()("a")["input_ids"] + byte_tokenizer()("b")["input_ids"]
    True
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)} | {EOS: NUM_BYTES}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS)
