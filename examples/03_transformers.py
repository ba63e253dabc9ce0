"""Keep `model.generate` and let evodraft decode for it: in float32 the same tokens, in fewer passes of the model.

Run: python examples/03_transformers.py
"""

from importlib.resources import files

from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

import evodraft.integrations.transformers
from evodraft import LLM

bundle = files("evodraft_demo")
model = AutoModelForCausalLM.from_pretrained(str(bundle / "target"), dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(str(bundle / "target"), padding_side="left")
prompts = ["The symptoms of asthma are", "def add(a, b):"]
inputs = tokenizer(prompts, return_tensors="pt", padding=True)
greedy = {"max_new_tokens": 48, "do_sample": False}

with LLM.from_pretrained((model, tokenizer), assistant_model=str(bundle / "draft"), num_assistant_tokens=4) as llm:
    drop_in = {"custom_generate": evodraft.integrations.transformers.generate, "speculation": llm}
    output = model.generate(**inputs, **greedy, **drop_in, return_dict_in_generate=True)
    print(f"same tokens: {output.sequences.equal(model.generate(**inputs, **greedy))}")
    for prompt, stats in zip(prompts, output.speculation, strict=True):
        print(f"{prompt!r}: {stats.num_tokens} tokens in {stats.num_target_passes} passes")

    # transformers keeps streamer= and tokenizer= from callables: streamers and stop strings go through the LLM.
    drop_in["speculation"] = llm.with_options(streamer=TextStreamer(tokenizer), stop=["\n\n"])
    model.generate(**tokenizer(prompts[0], return_tensors="pt"), **greedy, **drop_in)
