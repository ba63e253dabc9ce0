"""Prompts are chosen once each and the same every time; token ids have the length that a condition wants."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from evodraft.assemble import demo_folder
from evodraft.bench.prompts import Prompt, collect, encode, overrides_for
from evodraft.bench.suites import Condition, Source, Suite, load_suite, suite_names
from evodraft.errors import BenchError
from evodraft.testing.tokenizers import byte_tokenizer

CONTEXT: Final = 2048  # of the demo target
TASKS: Final = (
    *("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"),
    *("translation", "summarization", "qa", "math_reasoning", "rag"),
)
AS_THEY_ARE: Final = Condition("as they are")


@pytest.fixture(scope="module")
def demo_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(demo_folder() / "target")
    return tokenizer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with twenty prompts for every domain and for every task of Spec-Bench."""
    folder = tmp_path_factory.mktemp("data")
    bench = [
        {"bench": f"spec_bench/{task}", "domain": "general", "turns": [f"The {task} question, number {number}", "More"]}
        for task in TASKS
        for number in range(20)
    ]
    domains = load_suite("domains").groups
    bench += [
        {"bench": "exam", "domain": domain, "turns": [f"The {domain} exam, number {number}"]}
        for domain in domains
        for number in range(40)
    ]
    save(folder / "bench" / "prompts.jsonl.xz", bench)
    for domain in domains:
        chats = [{"prompt": f"A chat about {domain}, number {number}", "source": "book"} for number in range(40)]
        save(folder / "corpus" / f"{domain}.chat.valid.jsonl.xz", chats)
    return folder


def save(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(lzma.compress("".join(json.dumps(record) + "\n" for record in records).encode()))


def suite_of(*sources: Source, **changes: Any) -> Suite:
    small = load_suite("domains", groups=["law"], conditions=["T=0.7"], prompts_per_group=2)
    return replace(small, sources=sources or (Source("own"),), **changes)


def file_source(folder: Path, *texts: str, name: str = "mine.jsonl", group: str = "law") -> Source:
    (folder / name).write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")
    return Source("jsonl", {"path": str(folder / name), "group": group})


# --- the suites that ship -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", suite_names())
@pytest.mark.parametrize("is_quick", [False, True])
@pytest.mark.parametrize("has_data", [False, True])
def test_a_suite_finds_and_encodes_its_prompts(
    name: str, is_quick: bool, has_data: bool, data: Path, demo_tokenizer: PreTrainedTokenizerFast
) -> None:
    suite = load_suite(name, is_quick=is_quick, has_data=has_data)
    prompts = collect(suite, data if has_data or name == "spec_bench" else None)
    assert Counter(prompt.group for prompt in prompts) == {group: suite.num_prompts(group) for group in suite.groups}
    assert len({prompt.token_ids or prompt.text for prompt in prompts}) == len(prompts)
    limit = CONTEXT - suite.max_new_tokens
    for condition in suite.conditions:
        ids = encode(prompts, demo_tokenizer, condition, len(demo_tokenizer), limit)
        assert len(set(ids)) == len(prompts)
        if condition.prompt_tokens is not None:
            assert {len(own) for own in ids} == {condition.prompt_tokens}


def test_spec_bench_says_that_it_needs_a_data_folder() -> None:
    with pytest.raises(BenchError, match="bench_file needs a data folder; give one with --data FOLDER"):
        collect(load_suite("spec_bench"))


def test_with_a_data_folder_the_domains_take_from_both_of_its_parts(data: Path) -> None:
    prompts = collect(load_suite("domains", has_data=True), data)
    assert Counter(prompt.text.split()[0] for prompt in prompts) == {"The": 60, "A": 60}


# --- choosing -----------------------------------------------------------------------------------------------------


def test_the_seed_decides() -> None:
    first, again, other = (collect(suite_of(seed=seed)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_a_smaller_suite_asks_a_part_of_the_larger_ones_prompts() -> None:
    assert collect(suite_of(prompts_per_group=2)) == collect(suite_of(prompts_per_group=5))[:2]


def test_groups_come_one_after_the_other() -> None:
    prompts = collect(load_suite("domains", prompts_per_group=2))
    assert [prompt.group for prompt in prompts[::2]] == [prompt.group for prompt in prompts[1::2]]
    assert tuple(prompt.group for prompt in prompts[::2]) == load_suite("domains").groups


def test_a_stream_comes_phase_by_phase() -> None:
    suite = load_suite("shift", prompts_per_group=3)
    prompts = collect(suite)
    assert tuple(prompt.group for prompt in prompts[::3]) == suite.phases
    assert tuple(prompt.group for prompt in prompts[2::3]) == suite.phases


def test_sources_take_turns_until_one_is_empty(tmp_path: Path) -> None:
    sources = [file_source(tmp_path, "a1", name="a.jsonl"), file_source(tmp_path, "b1", "b2", "b3", name="b.jsonl")]
    prompts = collect(suite_of(*sources, prompts_per_group=4))
    assert [prompt.text[0] for prompt in prompts] == ["a", "b", "b", "b"]


def test_no_text_comes_twice(tmp_path: Path) -> None:
    sources = [
        file_source(tmp_path, "one  question", "another"),
        file_source(tmp_path, "one question\n", name="b.jsonl"),
    ]
    assert len(collect(suite_of(*sources, prompts_per_group=2))) == 2
    with pytest.raises(BenchError) as refused:
        collect(suite_of(*sources, prompts_per_group=3))
    assert str(refused.value) == (
        "suite domains: group 'law' has 2 different prompts in jsonl(path=mine.jsonl, group=law), "
        "jsonl(path=b.jsonl, group=law), but 3 are wanted; lower prompts_per_group, or name a source that has more"
    )


def test_a_text_of_two_groups_belongs_to_the_first(tmp_path: Path) -> None:
    sources = [file_source(tmp_path, "shared"), file_source(tmp_path, "shared", "alone", name="b.jsonl", group="code")]
    prompts = collect(suite_of(*sources, groups=("law", "code"), prompts_per_group=1))
    assert [prompt.text for prompt in prompts] == ["shared", "alone"]


# --- a file instead of the suite's sources ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "a"}, ({"text": "prompt", "group": "prompts"}, ("prompts",))),
        ({"turns": ["a"], "category": "art"}, ({"text": "turns", "group_field": "category"}, ("art",))),
        ({"text": "a", "group": "x", "domain": "y"}, ({"text": "text", "group_field": "group"}, ("x",))),
    ],
)
def test_fields_of_a_file_are_found(tmp_path: Path, record: dict[str, Any], expected: tuple[Any, Any]) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    options, groups = expected
    found = overrides_for(path)
    source = {"kind": "jsonl", "path": str(path), **options}
    assert found == {"sources": [source], "groups": groups, "phases": (), "prompts_per_group": 1}
    suite = load_suite("shift", **found)
    assert [prompt.text for prompt in collect(suite)] == ["a"]


@pytest.mark.parametrize("content", ["", '{"question": "a"}\n'])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BenchError, match="mine.jsonl has none of the fields prompt, text, turns in its first record"):
        overrides_for(path)


# --- token ids ----------------------------------------------------------------------------------------------------


def test_chats_go_through_the_template_and_texts_do_not(demo_tokenizer: PreTrainedTokenizerFast) -> None:
    chat, text = encode(
        [Prompt("law", "Why?"), Prompt("law", "Why?", is_chat=False)], demo_tokenizer, AS_THEY_ARE, 8192, 99
    )
    messages = [{"role": "user", "content": "Why?"}]
    template = demo_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert demo_tokenizer.decode(chat) == template
    assert text == tuple(demo_tokenizer("Why?")["input_ids"])


def test_without_a_template_chats_are_texts() -> None:
    tokenizer = byte_tokenizer()
    assert encode([Prompt("law", "Why?")], tokenizer, AS_THEY_ARE, 257, 99) == [tuple(tokenizer("Why?")["input_ids"])]


@pytest.mark.parametrize("is_chat", [True, False])
def test_a_longer_prompt_ends_earlier(demo_tokenizer: PreTrainedTokenizerFast, is_chat: bool) -> None:
    prompt = Prompt("law", "One two three four five six seven eight nine ten.", is_chat)
    [whole] = encode([prompt], demo_tokenizer, AS_THEY_ARE, 8192, 99)
    [cut] = encode([prompt], demo_tokenizer, Condition("cut", prompt_tokens=9), 8192, 99)
    num_head, num_tail = (2, 2) if is_chat else (1, 0)
    num_tail += demo_tokenizer("x")["input_ids"][-1] == demo_tokenizer("0")["input_ids"][-1]
    assert len(cut) == 9
    assert cut[: 9 - num_tail] == whole[: 9 - num_tail]
    assert cut[9 - num_tail :] == whole[len(whole) - num_tail :]
    assert cut[:num_head] == whole[:num_head]


@pytest.mark.parametrize("is_chat", [True, False])
def test_a_shorter_prompt_gets_other_text_in_front(demo_tokenizer: PreTrainedTokenizerFast, is_chat: bool) -> None:
    prompt = Prompt("law", "Who pays?", is_chat, before="The lessee pays the rent on the first of the month.\n\n")
    [whole] = encode([prompt], demo_tokenizer, AS_THEY_ARE, 8192, 99)
    [filled] = encode([prompt], demo_tokenizer, Condition("filled", prompt_tokens=len(whole) + 6), 8192, 99)
    shown = demo_tokenizer.decode(filled)
    assert len(filled) == len(whole) + 6
    assert "of the month.\n\nWho pays?" in shown
    assert "The lessee" not in shown
    assert shown.endswith("<|assistant|>") is is_chat


def test_filled_prompts_take_other_texts_of_their_group(demo_tokenizer: PreTrainedTokenizerFast) -> None:
    suite = load_suite("context")
    prompts = collect(suite)
    asked = [prompt.text for prompt in prompts]
    assert not [text for prompt in prompts for text in asked if text in prompt.before]
    assert all(len(prompt.before) > 6000 for prompt in prompts)
    starts = [prompt.before[:40] for prompt in prompts]
    assert all(first != second for first, second in pairwise(starts))
    [longest] = [condition for condition in suite.conditions if condition.name == "1952 tokens"]
    for prompt, ids in zip(prompts, encode(prompts, demo_tokenizer, longest, 8192, 1952), strict=True):
        assert prompt.text in demo_tokenizer.decode(ids)


def test_random_ids_are_folded_into_the_vocabulary(demo_tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = collect(suite_of(Source("random_ids", {"num_tokens": 500, "group": "law"}), prompts_per_group=4))
    ids = {token_id for own in encode(prompts, demo_tokenizer, AS_THEY_ARE, 64, 500) for token_id in own}
    assert ids == set(range(64)) - set(demo_tokenizer.all_special_ids)
    bare = encode(prompts, None, Condition("cut", prompt_tokens=400), 64, 500)
    assert {len(own) for own in bare} == {400}
    assert {token_id for own in bare for token_id in own} == set(range(64))
    with pytest.raises(
        BenchError, match=r"has 500 tokens and 0 of other text of its group to fill it up with, but 501"
    ):
        encode(prompts, None, Condition("long", prompt_tokens=501), 64, 600)


@pytest.mark.parametrize(
    ("prompt", "changes", "message"),
    [
        (Prompt("law", "Why?"), {"limit": 3}, "prompt 1 .group 'law', condition 'c'. has 4 tokens, but 3 fit into"),
        (
            Prompt("law", "Why?"),
            {"vocab_size": 50},
            "has the token id [0-9]+, but the target knows 0 .. 49; take the tok",
        ),
        (
            Prompt("law", "Why?"),
            {"tokenizer": None},
            "these prompts are text, but the target has no tokenizer; ask them",
        ),
        (Prompt("law", ""), {}, "prompt 1 .group 'law', condition 'c'. has no tokens; leave it out"),
        (
            Prompt("law", "Why?", before="Rent."),
            {"condition": Condition("c", prompt_tokens=10)},
            "has 4 tokens and 5 of other text of its group to fill it up with, but 10 are wanted; name a source with",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(prompt: Prompt, changes: dict[str, Any], message: str) -> None:
    options = {"tokenizer": byte_tokenizer(), "condition": Condition("c"), "vocab_size": 257, "limit": 99}
    with pytest.raises(BenchError, match=message):
        encode([prompt], **{**options, **changes})


def test_a_template_needs_room(demo_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(BenchError, match="prompt_tokens=3 leave no room in the chat template; raise them"):
        encode([Prompt("law", "Why?")], demo_tokenizer, Condition("c", prompt_tokens=3), 8192, 99)


def test_prompts_that_become_the_same_are_refused() -> None:
    prompts = [Prompt("law", "same end"), Prompt("law", "other"), Prompt("law", "same start")]
    with pytest.raises(
        BenchError, match="prompts 1 and 3 are the same tokens under condition 'c'; raise prompt_tokens"
    ):
        encode(prompts, byte_tokenizer(), Condition("c", prompt_tokens=5), 257, 99)
