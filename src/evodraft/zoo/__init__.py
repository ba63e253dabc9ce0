"""Published drafts and the targets they can draft for. The data is registry.toml, the page docs/zoo.md."""

from evodraft.zoo.registry import Pair, parse_registry, read_registry, registered_drafts

__all__ = ["Pair", "parse_registry", "read_registry", "registered_drafts"]
