"""What `auto` takes, and that it always takes something."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from evodraft.drafters import DRAFTERS, ModelDrafter, NgramDrafter, RegisteredDraft
from evodraft.drafters.auto import RUNNABLE_METHODS, auto_candidates
from evodraft.drafters.base import Drafter, DrafterContext
from evodraft.drafters.model import ModelConfig
from evodraft.errors import WeightsError
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer

COMMIT: Final = "a" * 40
SMALL: Final = RegisteredDraft("owner/small", "model", COMMIT, "MIT")
HEAD: Final = RegisteredDraft("owner/head", "eagle3", "main", "unknown")


def context(**changes: Any) -> DrafterContext:
    values = {
        "tokenizer": byte_tokenizer(),
        "vocab_size": 264,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        **changes,
    }
    return DrafterContext(**values)


def chosen(**changes: Any) -> Drafter:
    entry = DRAFTERS["auto"]
    return entry.build(entry.config(), context(**changes)).make(1, 10, None)


def test_methods_name_drafters() -> None:
    assert set(RUNNABLE_METHODS.values()) <= set(DRAFTERS)


def test_the_order() -> None:
    bundled = Path("draft")
    assert [(c.drafter, c.registered) for c in auto_candidates(bundled, [HEAD, SMALL])] == [
        ("model", None),
        ("model", SMALL),
        ("ngram", None),
    ]
    assert auto_candidates(None, [SMALL])[0].config == ModelConfig("owner/small", COMMIT)


def test_prompt_lookup_where_nothing_is_known() -> None:
    assert isinstance(chosen(), NgramDrafter)


def test_methods_without_a_drafter_are_skipped_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(chosen(registered_drafts=(HEAD,)), NgramDrafter)
    assert caplog.records == []


def test_the_bundled_draft(tmp_path: Path) -> None:
    tiny_model("llama", vocab_size=264).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert isinstance(chosen(bundled_draft=tmp_path, registered_drafts=(SMALL,)), ModelDrafter)


def test_a_bundled_draft_that_is_broken_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        chosen(bundled_draft=tmp_path / "nowhere")


def test_a_registered_draft_is_loaded_at_its_revision(
    downloaded: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "evodraft")
    model = tiny_model("llama", vocab_size=264, num_hidden_layers=3)
    downloaded("owner/small", model, COMMIT)
    downloaded("owner/small", tiny_model("llama", vocab_size=264, num_hidden_layers=1), "b" * 40)  # main
    drafter = chosen(registered_drafts=(HEAD, SMALL))
    assert isinstance(drafter, ModelDrafter)
    assert drafter.decoder.num_layers == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"drafter='auto' loads owner/small at revision {COMMIT} (licence MIT), registered for this target"
    ]


@pytest.fixture
def downloaded_nothing(downloaded: Callable[..., Path]) -> None:
    """An empty cache and no network."""


@pytest.mark.usefixtures("downloaded_nothing")
def test_without_the_files_there_is_one_warning_and_prompt_lookup(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(chosen(registered_drafts=(SMALL,)), NgramDrafter)
    [warning] = caplog.records
    assert warning.levelname == "WARNING"
    assert warning.getMessage().startswith(f"the registered draft owner/small at revision {COMMIT} is not used: ")
    assert "check the name, the revision and the network" in warning.getMessage()
    assert "drafter='ngram'" in warning.getMessage()


def test_a_draft_that_speaks_other_tokens_is_passed_over(
    downloaded: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    downloaded("owner/small", tiny_model("llama", vocab_size=100), COMMIT)
    assert isinstance(chosen(registered_drafts=(SMALL,)), NgramDrafter)
    assert "has no row in the draft model's embedding of 100 rows" in caplog.text


def test_a_local_folder_does_not_stand_in(
    downloaded: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A name of the registry is a hub id, whatever lies in the folder that one happens to be in."""
    downloaded("owner/small", tiny_model("llama", vocab_size=264), COMMIT)
    tiny_model("llama", vocab_size=264).save_pretrained(tmp_path / "here" / "owner" / "small")
    monkeypatch.chdir(tmp_path / "here")
    assert isinstance(chosen(registered_drafts=(SMALL,)), NgramDrafter)
    assert "the local owner/small hides the published draft of that name" in caplog.text


def test_trust_in_the_target_is_no_trust_in_the_draft(
    downloaded: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = downloaded("owner/small", tiny_model("llama", vocab_size=264), COMMIT)
    config = (folder / "config.json").read_text(encoding="utf-8")
    own_code = '{"auto_map": {"AutoConfig": "code.Config"}, "model_type": "own", '
    config = config.replace('"model_type": "llama"', '"unused": 0').replace("{", own_code, 1)
    (folder / "config.json").write_text(config, encoding="utf-8")
    (folder / "code.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    assert isinstance(chosen(registered_drafts=(SMALL,), trust_remote_code=True), NgramDrafter)
    assert "needs trust_remote_code" in caplog.text
