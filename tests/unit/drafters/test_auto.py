"""What `auto` takes, and that it always takes something."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from evodraft.drafters import DRAFTERS, EagleConfig, EagleDrafter, ModelDrafter, NgramDrafter, RegisteredDraft
from evodraft.drafters.auto import RUNNABLE_METHODS, auto_candidates, not_taken
from evodraft.drafters.base import Drafter, DrafterContext
from evodraft.drafters.eagle.files import save_head
from evodraft.drafters.model import ModelConfig
from evodraft.errors import ModelMismatchError, WeightsError
from evodraft.testing.head_files import PUBLISHED
from evodraft.testing.heads import tiny_head
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer

COMMIT: Final = "a" * 40
SMALL: Final = RegisteredDraft("owner/small", "model", COMMIT, "MIT")
HEAD: Final = RegisteredDraft("owner/head", "eagle3", COMMIT, "MIT")
OTHER: Final = RegisteredDraft("owner/other", "medusa", COMMIT, "MIT")


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
    bundled, heads = Path("draft"), {"eagle": Path("eagle"), "eagle_general": Path("eagle_general")}
    assert [(c.drafter, c.registered) for c in auto_candidates(bundled, [HEAD, OTHER, SMALL], heads)] == [
        ("eagle", None),
        ("model", None),
        ("eagle", HEAD),
        ("model", SMALL),
        ("ngram", None),
    ]
    assert auto_candidates(None, [SMALL])[0].config == ModelConfig("owner/small", COMMIT)
    assert auto_candidates(None, [HEAD])[0].config == EagleConfig("owner/head", COMMIT)
    assert auto_candidates(None, [], {"eagle_general": Path("general")})[0].drafter == "ngram", "it is for experiments"


@pytest.mark.parametrize(
    ("draft", "why"),
    [
        (HEAD, None),
        (SMALL, None),
        (OTHER, "this version has no drafter for method 'medusa'"),
        (
            replace(HEAD, revision="main"),
            "it is not pinned to a commit in the registry; take it with drafter='eagle:owner/head'",
        ),
        (
            replace(SMALL, license="unknown"),
            "it has no known licence in the registry; take it with drafter='model:owner/small'",
        ),
        (
            replace(HEAD, revision="main", license="unknown"),
            "it is not pinned to a commit and has no known licence in the registry",
        ),
    ],
)
def test_what_nobody_vouches_for_is_taken_by_name_only(draft: RegisteredDraft, why: str | None) -> None:
    found = not_taken(draft)
    assert (found is None) == (why is None)
    assert (found or "").startswith(why or "")
    assert len(auto_candidates(None, [draft])) == (2 if why is None else 1)


def test_prompt_lookup_where_nothing_is_known() -> None:
    assert isinstance(chosen(), NgramDrafter)


def test_methods_without_a_drafter_are_skipped_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(chosen(registered_drafts=(OTHER,)), NgramDrafter)
    assert caplog.records == []


def test_the_bundled_draft(tmp_path: Path) -> None:
    tiny_model("llama", vocab_size=264).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert isinstance(chosen(bundled_draft=tmp_path, registered_drafts=(SMALL,)), ModelDrafter)


def test_a_bundled_draft_that_is_broken_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        chosen(bundled_draft=tmp_path / "nowhere")


def test_the_bundled_head(tmp_path: Path) -> None:
    target = tiny_model("llama", vocab_size=264)
    save_head(tiny_head(target), tmp_path / "eagle", target=target)
    heads = {"eagle": tmp_path / "eagle"}
    assert isinstance(chosen(bundled_heads=heads, bundled_draft=tmp_path, target=target), EagleDrafter)
    with pytest.raises(ModelMismatchError, match="was trained for another model"):
        chosen(bundled_heads=heads, target=tiny_model("llama", vocab_size=264, seed=1))


def test_a_registered_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One that does not fit is passed over, like a draft model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    target = tiny_model("llama", vocab_size=264)
    PUBLISHED["speculators"](tiny_head(target), tmp_path / "models--owner--head" / "snapshots" / COMMIT)
    assert isinstance(chosen(registered_drafts=(HEAD,), target=target), EagleDrafter)
    other = tiny_model("llama", vocab_size=264, hidden_size=48)
    assert isinstance(chosen(registered_drafts=(HEAD,), target=other), NgramDrafter)
    assert "hidden states of 32 numbers and the target has 48" in caplog.text
    assert "drafter='eagle:PATH-OR-HUB-ID'" in caplog.text


def test_a_registered_draft_is_loaded_at_its_revision(
    downloaded: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "evodraft")
    model = tiny_model("llama", vocab_size=264, num_hidden_layers=3)
    downloaded("owner/small", model, COMMIT)
    downloaded("owner/small", tiny_model("llama", vocab_size=264, num_hidden_layers=1), "b" * 40)  # main
    drafter = chosen(registered_drafts=(OTHER, SMALL))
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
