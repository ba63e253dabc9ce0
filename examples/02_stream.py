"""Show text as it is committed: each piece is one round, and says how much of it came from the draft.

Run: python examples/02_stream.py
"""

from evodraft import LLM

with LLM.from_pretrained("demo") as llm:
    prompt_ids = llm.chat_token_ids([{"role": "user", "content": "Write a function that adds two numbers."}])
    for piece in llm.stream(prompt_token_ids=prompt_ids, max_new_tokens=64, temperature=0.7, seed=7):
        print(piece.text, end="", flush=True)
        if piece.completion is not None:
            print(f"\n[{piece.completion.finish_reason}, {piece.completion.stats.num_rounds} rounds]")
