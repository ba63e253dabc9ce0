"""Models with a key-value cache of slots: the Decoder protocol and what implements it.

Import implementations from their modules (`evodraft.runtime.hf`, `evodraft.runtime.load`): they pull in transformers,
which who only needs the protocol should not pay for.
"""

from evodraft.runtime.base import Decoder, DecoderOutput

__all__ = ["Decoder", "DecoderOutput"]
