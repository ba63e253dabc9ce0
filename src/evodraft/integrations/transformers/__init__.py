"""Speculative decoding inside transformers' own `model.generate`.

    import evodraft.integrations.transformers

    llm = LLM.from_pretrained((model, tokenizer))
    output = model.generate(
        **inputs, max_new_tokens=64, custom_generate=evodraft.integrations.transformers.generate, speculation=llm
    )

transformers prepares prompts, processors and stopping criteria as for its own loops, and gets back what its own loops
return. Streamers and stop strings go through `llm.with_options(streamer=..., stop=[...])`, because transformers drops
`streamer=` and `tokenizer=` before a callable sees them. See docs/coming_from_transformers.md.
"""

from evodraft.integrations.transformers.drop_in import generate
from evodraft.integrations.transformers.output import SpeculativeOutput

__all__ = ["SpeculativeOutput", "generate"]
