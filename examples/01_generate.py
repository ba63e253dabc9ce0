"""Complete a prompt, plainly and speculatively, and see what drafting gained.

In float32 the tokens are the same; in bfloat16, as the demo weights are stored, a wider pass may round a near-tie the
other way, and speculative decoding gains more.

Run: python examples/01_generate.py
"""

from evodraft import LLM

with LLM.from_pretrained("demo", dtype="float32") as llm:
    question = [{"role": "user", "content": "What are the symptoms of asthma?"}]
    answer = llm.chat(question, max_new_tokens=64)
    plain = llm.chat(question, max_new_tokens=64, speculative=False)

    print(answer.text.strip())
    print(f"finish reason: {answer.finish_reason}, exact: {answer.exact}")
    print(f"tokens per round: {answer.stats.mean_acceptance_length:.2f}")
    print(f"tokens/s: {plain.stats.tokens_per_second:.0f} plain, {answer.stats.tokens_per_second:.0f} speculative")
    print(f"same tokens: {answer.token_ids == plain.token_ids}")
