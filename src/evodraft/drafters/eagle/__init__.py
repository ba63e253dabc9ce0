"""EAGLE-3 (arXiv 2503.01840): one decoder layer that guesses on from the target's own hidden states."""
