"""Recipes for small models: tokenizer, target, distilled draft, bundle. Does not know the engine.

Run them with `python -m evodraft.training --help`.
"""
