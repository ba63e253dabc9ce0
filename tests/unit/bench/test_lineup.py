"""Who takes part: methods by name or options, peers by name."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from evodraft.assemble import LoadedTarget
from evodraft.bench import lineup
from evodraft.bench.lineup import methods_of, start_peers
from evodraft.bench.plan import Order
from evodraft.bench.suites import Suite, load_suite
from evodraft.errors import BenchError, ConfigError, UnknownOptionError
from evodraft.testing.pairs import tiny_pair


@pytest.fixture
def suite() -> Suite:
    return load_suite(
        "domains", methods={"auto": {"drafter": "auto"}, "five": {"controller": "fixed:5"}, "n": {"drafter": "ngram"}}
    )


def test_no_method_named_means_all_of_the_suite(suite: Suite) -> None:
    assert methods_of([], suite) == {name: dict(options) for name, options in suite.methods.items()}


def test_methods_are_chosen_by_name_or_by_options(suite: Suite) -> None:
    spec = "drafter=ngram, controller=fixed:4"
    assert methods_of(["n", "plain", spec, "drafter=none"], suite) == {
        "n": {"drafter": "ngram"},
        spec: {"drafter": "ngram", "controller": "fixed:4"},
        "drafter=none": {"drafter": None},
    }


def test_places_of_drafts_are_not_part_of_a_methods_name(suite: Suite) -> None:
    found = methods_of(["drafter=model:/models/my-draft,controller=fixed:3", "drafter=model:owner/other"], suite)
    assert list(found) == ["drafter=model:my-draft,controller=fixed:3", "drafter=model:other"]
    assert found["drafter=model:other"] == {"drafter": "model:owner/other"}


def test_a_draft_takes_the_place_of_auto_alone(suite: Suite) -> None:
    draft = {"name": "model", "model": "some/draft"}
    assert methods_of([], suite, "some/draft") == {
        "auto": {"drafter": draft},
        "five": {"controller": "fixed:5", "drafter": draft},
        "n": {"drafter": "ngram"},
    }


def test_what_is_neither_is_named_with_what_there_is(suite: Suite) -> None:
    with pytest.raises(ConfigError, match=r"method 'fiv' is neither one of suite domains \(plain, auto, five, n\) nor"):
        methods_of(["fiv"], suite)


def start(specs: list[str], model: str, folder: Path) -> None:
    pair = tiny_pair()
    order = Order(load_suite("domains"), (), LoadedTarget(pair.target, pair.tokenizer), model=model)
    with ExitStack() as stack:
        start_peers(specs, folder, order, None, threads=1, stack=stack)


def test_peers_that_do_not_exist_or_are_not_installed_are_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownOptionError, match="unknown peer 'transfomers'; did you mean 'transformers'"):
        start(["transfomers/plain"], "demo", tmp_path)
    with pytest.raises(UnknownOptionError, match="did you mean 'plain'"):
        start(["transformers/plane"], "demo", tmp_path)
    with pytest.raises(BenchError, match="evodraft bench peers --install transformers"):
        start(["transformers/plain"], "demo", tmp_path)


def test_peers_need_the_weights_as_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="peers need the weights of owner/model as a folder"):
        start(["transformers/plain"], "owner/model", tmp_path)


class Started(NamedTuple):
    """What a peer is started with."""

    positional: tuple[Any, ...]
    named: dict[str, Any]

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """Peers that were started, none of which runs."""
    made: list[Started] = []

    def make(*positional: Any, **named: Any) -> Started:
        made.append(Started(positional, named))
        return made[-1]

    monkeypatch.setattr(lineup, "PeerContestant", make)
    return made


@pytest.mark.parametrize("draft", [None, "other"])
def test_peers_of_the_demo_get_its_folders(
    bundle: Path, tmp_path: Path, started: list[Started], draft: str | None
) -> None:
    place = None if draft is None else str(shutil.copytree(bundle / "draft", tmp_path / draft))
    pair = tiny_pair()
    order = Order(load_suite("domains"), (), LoadedTarget(pair.target, pair.tokenizer))
    with ExitStack() as stack:
        start_peers(["transformers/plain", "transformers/plain"], tmp_path, order, place, threads=1, stack=stack)
    [peer] = started
    folders = (tmp_path, bundle / "target", bundle / "draft" if draft is None else tmp_path / draft)
    assert peer.positional[2:] == folders


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_peers_get_the_orders_folder_stop_ids_and_sizes(
    tmp_path: Path, started: list[Started], ignore_eos: bool
) -> None:
    suite = load_suite("batch", ignore_eos=ignore_eos, max_new_tokens=4)
    pair = tiny_pair()
    target = LoadedTarget(pair.target, pair.tokenizer)
    order = Order(suite, (), target, model="random:tiny", folder=tmp_path / "weights", synthetic="random weights")
    with ExitStack() as stack:
        start_peers(["vllm/plain"], tmp_path, order, None, threads=3, stack=stack)
    [peer] = started
    assert [path for path in peer.positional[2:] if path is not None] == [tmp_path, tmp_path / "weights"]
    assert peer.named == {
        "dtype": "float32",
        "threads": 3,
        "eos_token_ids": [] if ignore_eos else sorted(target.eos_token_ids),
        "max_model_len": order.max_length,
        "max_batch": 8,
        "synthetic": "random weights",
    }
    assert target.eos_token_ids


def test_no_peers_need_nothing(tmp_path: Path) -> None:
    start([], "owner/model", tmp_path)


def test_two_methods_of_one_name_are_refused(suite: Suite) -> None:
    assert list(methods_of(["n", "n"], suite)) == ["n"]
    with pytest.raises(ConfigError, match="'drafter=model:/a/x' and 'drafter=model:/b/x' would both be called"):
        methods_of(["drafter=model:/a/x", "drafter=model:/b/x"], suite)
