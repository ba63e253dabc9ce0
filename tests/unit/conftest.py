"""A demo bundle of tiny random models, for tests of what uses the demo; and a hub's local cache, without the hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}: {% endfor %}"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle of tiny random models, found where the real one would be."""
    package = tmp_path / "evodraft_demo"
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    for name, seed in (("target", 0), ("draft", 1)):
        tiny_model("llama", vocab_size=257, seed=seed).save_pretrained(package / name)
        tokenizer.save_pretrained(package / name)
    (package / "__init__.py").write_text('"""Tiny models."""\n', encoding="utf-8")
    prompts = [{"domain": domain, "prompt": f"{domain} {i}"} for domain in ("law", "code") for i in range(2)]
    (package / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)) + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evodraft_demo", raising=False)
    yield package
    sys.modules.pop("evodraft_demo", None)


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a model with the byte tokenizer into an empty hub cache, as if downloaded; there is no network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def put(name: str, model: PreTrainedModel, revision: str = "0" * 40) -> Path:
        root = cache / f"models--{name.replace('/', '--')}"
        folder = root / "snapshots" / revision
        model.save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(revision, encoding="utf-8")
        return folder

    return put
