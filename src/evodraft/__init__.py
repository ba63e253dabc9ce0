"""evodraft: faster generation for Hugging Face causal language models, without changing what they say."""
