"""Who would draft, why, and whether the pair fits: the same answer that loading gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from evodraft.assemble import LoadOptions, TargetSource, find_target
from evodraft.drafters import RegisteredDraft
from evodraft.drafters.eagle.files import save_head
from evodraft.errors import ConfigError, UnknownOptionError, WeightsError
from evodraft.inspection.drafter import DrafterFindings, InspectedTarget, read_drafter
from evodraft.inspection.model import read_model
from evodraft.testing.head_files import PUBLISHED
from evodraft.testing.heads import tiny_head
from evodraft.testing.tiny import tiny_model
from evodraft.testing.tokenizers import byte_tokenizer

COMMIT: Final = "a" * 40
SMALL: Final = RegisteredDraft("owner/small", "model", COMMIT, "MIT")
HEAD: Final = RegisteredDraft("owner/head", "eagle3", COMMIT, "MIT")
OTHER: Final = RegisteredDraft("owner/other", "medusa", COMMIT, "MIT")


def saved(folder: Path, **sizes: int) -> Path:
    tiny_model("llama", vocab_size=264, **sizes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path / "target", num_hidden_layers=16)


def look(
    spec: str | None,
    folder: Path,
    registered: tuple[RegisteredDraft, ...] = (),
    bundled: Path | None = None,
    heads: Mapping[str, Path] | None = None,
) -> DrafterFindings:
    source = TargetSource(str(folder), bundled, registered, bundled_heads=heads or {})
    return read_drafter(spec, InspectedTarget(source, read_model(str(folder), "auto"), LoadOptions()))


def test_plain_decoding(folder: Path) -> None:
    found = look(None, folder)
    assert (found.report.name, found.report.why) == (None, "you asked for plain decoding")
    assert found.draft is None


def test_prompt_lookup(folder: Path) -> None:
    assert look("ngram:6", folder).report.name == "ngram"
    report = look("auto", folder).report
    assert (report.name, report.why) == ("ngram", "needs no draft model and fits every target")


def test_a_small_model_of_the_same_family(folder: Path, tmp_path: Path) -> None:
    draft = saved(tmp_path / "draft", num_hidden_layers=1)
    found = look(f"model:{draft}", folder)
    assert (found.problems, found.warnings) == ((), ())
    report = found.report
    assert report.model is not None
    assert (report.name, report.model.num_layers, report.model.name) == ("model", 1, str(draft))
    assert report.tokens is not None
    assert report.tokens.name == "same"
    assert report.cost_ratio is not None
    assert 0 < report.cost_ratio < 0.5
    assert report.best_speed_up is not None
    assert report.best_speed_up > 1.1


def test_the_shapes_of_qwen3(shaped: Callable[..., Path]) -> None:
    """0.6B drafts for 4B: a seventh of the bytes, which makes 2.1x at best."""
    target, draft = shaped("qwen3-4b"), shaped("qwen3-0.6b")
    found = look(f"model:{draft}", target)
    assert found.report.model is not None
    assert found.report.model.num_parameters == 596_049_920
    assert found.report.cost_ratio == pytest.approx(0.148, abs=0.001)
    assert found.report.best_speed_up == pytest.approx(2.1, abs=0.1)
    assert found.problems == (f"{draft} holds no weights; copy or download them",)
    assert found.warnings == ()


def test_a_draft_as_large_as_its_target_cannot_help(folder: Path) -> None:
    found = look(f"model:{folder}", folder)
    [warning] = found.warnings
    assert "is too large to help: it has 1.00 of the target's bytes, and if time goes with bytes" in warning
    assert "80% of accepted tokens give 0.90x at best" in warning


def test_a_draft_that_sees_less(folder: Path, tmp_path: Path) -> None:
    draft = saved(tmp_path / "draft", num_hidden_layers=1, max_position_embeddings=100)
    [warning] = look(f"model:{draft}", folder).warnings
    assert "context of 100 tokens is shorter than the target's" in warning


def test_other_tokens_are_a_problem(folder: Path, tmp_path: Path) -> None:
    draft = saved(tmp_path / "draft", num_hidden_layers=1)
    path = draft / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content), encoding="utf-8")
    found = look(f"model:{draft}", folder)
    assert found.report.tokens is not None
    assert found.report.tokens.name == "different"
    [problem] = found.problems
    assert "2 of 257 token ids differ between target and draft" in problem


def test_tokens_are_not_compared_where_a_tokenizer_is_missing(folder: Path, tmp_path: Path) -> None:
    draft = saved(tmp_path / "draft", num_hidden_layers=1)
    (draft / "tokenizer.json").unlink()
    found = look(f"model:{draft}", folder)
    assert found.report.tokens is not None
    assert found.report.tokens.name == "unknown"
    said, _, why = found.report.tokens.why.partition("; now: ")
    assert said == "compared when both are loaded"
    assert found.problems == (why,), "a folder is loaded with its tokenizer or not at all"


def test_the_draft_takes_the_dtype_of_the_target(tmp_path: Path) -> None:
    target, draft = saved(tmp_path / "target"), saved(tmp_path / "draft", num_hidden_layers=1)
    tiny_model("llama", vocab_size=264).bfloat16().save_pretrained(target)
    report = look(f"model:{draft}", target).report
    assert report.model is not None
    assert report.model.dtype == "bfloat16"


def test_the_bundled_draft(folder: Path, tmp_path: Path) -> None:
    draft = saved(tmp_path / "draft", num_hidden_layers=1)
    report = look("auto", folder, (SMALL,), bundled=draft).report
    assert (report.name, report.why) == ("model", "its draft comes with the target")
    assert look("model", folder, bundled=draft).report.why == "you asked for the draft that comes with the target"


def test_no_draft_is_named_and_none_is_bundled(folder: Path) -> None:
    with pytest.raises(ConfigError, match="write drafter='model:PATH-OR-HUB-ID'"):
        look("model", folder)


def test_names_that_nobody_knows(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownOptionError, match="did you mean 'ngram'"):
        look("ngrm", folder)
    with pytest.raises(WeightsError, match="the folder .* does not exist"):
        look(f"model:{tmp_path / 'nowhere'}", folder)


def test_a_drafter_that_this_does_not_know(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new drafter works before `inspect` learns about it, and then `inspect` says so."""
    monkeypatch.setattr("evodraft.inspection.drafter.parse_part", lambda kind, spec, table: (None, object()))
    with pytest.raises(ConfigError, match="drafter='new' cannot be inspected before it is loaded"):
        look("new", folder)


# --- heads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def head(folder: Path, tmp_path: Path) -> Path:
    target = tiny_model("llama", vocab_size=264, num_hidden_layers=16)
    save_head(tiny_head(target, taps=(2, 8, 13)), tmp_path / "eagle", target=target)
    return tmp_path / "eagle"


def test_a_named_head(folder: Path, head: Path) -> None:
    found = look(f"eagle:{head}", folder)
    report = found.report
    assert (found.problems, found.warnings) == ((), ())
    assert (report.name, report.why) == ("eagle", "you asked for it")
    assert report.model is not None
    assert (report.model.num_layers, report.model.vocab_size, report.model.name) == (1, 264, str(head))
    assert report.model.num_file_bytes is not None
    assert report.model.cache_bytes_per_token == 2 * 2 * 8 * 4
    assert report.tokens is not None
    assert report.tokens.name == "same"
    assert report.cost_ratio is not None
    assert 0 < report.cost_ratio < 0.25


def test_the_bundled_head(folder: Path, head: Path, tmp_path: Path) -> None:
    draft = saved(tmp_path / "draft", num_hidden_layers=1)
    heads = {"eagle": head, "eagle_general": head}
    report = look("auto", folder, (SMALL,), bundled=draft, heads=heads).report
    assert (report.name, report.why) == ("eagle", "its head comes with the target")
    assert look("eagle", folder, heads=heads).report.why == "you asked for the head that comes with the target"
    assert look("eagle:general", folder, heads=heads).report.why == "you asked for it"
    with pytest.raises(ConfigError, match="needs a head and this target has none bundled"):
        look("eagle", folder)


def test_a_head_of_another_target_is_a_problem(head: Path, tmp_path: Path) -> None:
    [problem] = look(f"eagle:{head}", saved(tmp_path / "other", num_hidden_layers=8)).problems
    assert "and the target has 8 layers" in problem


def test_a_head_that_proves_nothing(folder: Path, tmp_path: Path) -> None:
    reduced = tiny_head(tiny_model("llama", vocab_size=264, num_hidden_layers=16), taps=(2, 8, 13), token_ids=range(99))
    PUBLISHED["safeailab"](reduced, tmp_path / "head")
    found = look(f"eagle:{tmp_path / 'head'}", folder)
    assert found.report.model is not None
    assert found.report.model.vocab_size == 99
    [warning] = found.warnings
    assert warning.startswith(f"nothing in the head {tmp_path / 'head'} proves for which target it was trained")


def test_a_head_that_is_narrower_and_whose_weights_are_not_here(folder: Path, tmp_path: Path) -> None:
    target = tiny_model("llama", vocab_size=264, num_hidden_layers=16)
    own = {"hidden_size": 16, "has_own_embedding": True, "token_ids": range(264)}
    save_head(tiny_head(target, taps=(2, 8, 13), **own), tmp_path / "head", target=target)
    (tmp_path / "head" / "model.safetensors").unlink()
    report = look(f"eagle:{tmp_path / 'head'}", folder).report.model
    assert report is not None
    assert report.num_file_bytes is None
    assert report.num_parameters > 2 * 264 * 16, "matrices of its own are counted"


def test_a_registered_head(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    target = tiny_model("llama", vocab_size=264, num_hidden_layers=16)
    place = tmp_path / "models--owner--head" / "snapshots" / COMMIT
    PUBLISHED["speculators"](tiny_head(target, taps=(2, 8, 13)), place)
    (place / "model.safetensors").unlink()
    found = look("auto", folder, (HEAD,))
    assert (found.report.name, found.report.revision, found.report.license) == ("eagle", COMMIT, "MIT")
    assert [warning.partition(";")[0] for warning in found.warnings] == [
        "the draft owner/head is not in the local cache",
        "nothing in the head owner/head proves for which target it was trained (its config names owner/target)",
    ]
    config = (place / "config.json").read_text(encoding="utf-8")
    (place / "config.json").write_text(config.replace('"eagle3"', '"peagle"'), encoding="utf-8")
    [over] = look("auto", folder, (HEAD,)).report.passed_over
    assert "is a speculator of type 'peagle'" in over.why


# --- registered drafts --------------------------------------------------------------------------------------------


def test_a_registered_draft_that_is_here(folder: Path, downloaded: Callable[..., Path]) -> None:
    downloaded("owner/small", tiny_model("llama", vocab_size=264, num_hidden_layers=1), COMMIT)
    found = look("auto", folder, (OTHER, SMALL))
    report = found.report
    assert report.model is not None
    assert (report.name, report.why, report.model.name) == ("model", "registered for this target", "owner/small")
    assert (report.revision, report.license, report.is_verified) == (COMMIT, "MIT", False)
    assert report.tokens is not None
    assert report.tokens.name == "same"
    [other] = report.passed_over
    assert (other.name, other.why) == ("owner/other", "this version has no drafter for method 'medusa'")
    assert found.warnings == ()


def test_a_registered_draft_that_would_be_downloaded(folder: Path, downloaded: Callable[..., Path]) -> None:
    draft = downloaded("owner/small", tiny_model("llama", vocab_size=264, num_hidden_layers=1), COMMIT)
    (draft / "model.safetensors").unlink()
    found = look("auto", folder, (replace(SMALL, note="mind the gap"),))
    assert found.report.name == "model"
    assert [warning.partition(";")[0] for warning in found.warnings] == [
        "the draft owner/small is not in the local cache",
        "owner/small: mind the gap",
    ]


def test_a_registered_draft_that_nobody_vouches_for(folder: Path) -> None:
    found = look("auto", folder, (replace(HEAD, revision="main", license="unknown"),))
    assert (found.report.name, found.warnings) == ("ngram", ())
    [over] = found.report.passed_over
    assert over.why.startswith("it is not pinned to a commit and has no known licence in the registry")


def test_a_registered_draft_that_cannot_be_had(folder: Path, downloaded: Callable[..., Path]) -> None:
    downloaded("owner/other", tiny_model("llama", vocab_size=264), COMMIT)
    found = look("auto", folder, (SMALL,))
    assert found.report.name == "ngram"
    [over] = found.report.passed_over
    assert over.name == "owner/small"
    [warning] = found.warnings
    assert warning.startswith("the registered draft owner/small is passed over: cannot read the config.json")


def test_a_registered_draft_that_does_not_fit(folder: Path, downloaded: Callable[..., Path]) -> None:
    downloaded("owner/small", tiny_model("llama", vocab_size=100), COMMIT)
    found = look("auto", folder, (SMALL,))
    assert (found.report.name, found.problems) == ("ngram", ())
    assert "has no row in the draft model's embedding of 100 rows" in found.warnings[0]


def test_a_target_of_the_registry(downloaded: Callable[..., Path]) -> None:
    name = "Qwen/Qwen3-8B"
    downloaded(name, tiny_model("llama", vocab_size=264))
    target = InspectedTarget(find_target(name), read_model(name, "auto"), LoadOptions())
    report = read_drafter("auto", target).report
    assert report.name == "ngram"
    assert [over.name for over in report.passed_over] == ["RedHatAI/Qwen3-8B-speculator.eagle3", "Qwen/Qwen3-0.6B"]
