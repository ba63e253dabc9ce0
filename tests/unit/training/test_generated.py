"""Documents and the rows that are packed of them."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from evodraft.errors import TrainingError
from evodraft.training.data import BatchSampler
from evodraft.training.generated import HELD_OUT_OF, MixedRows, PackedRows, hash_documents, read_documents

SEPARATOR = 0


def write(path, records) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def record(domain: str, prompt: list[int], response: list[int]) -> dict[str, object]:
    return {"domain": domain, "prompt": prompt, "response": response, "temperature": 0.7}


def make_documents(num: int, generator: torch.Generator) -> list[list[int]]:
    """Each begins with the separator and goes on with its own number."""
    sizes = torch.randint(1, 40, (num,), generator=generator).tolist()
    return [[SEPARATOR] + [number + 1] * size for number, size in enumerate(sizes)]


def test_documents_are_read_in_order_up_to_the_last_whole_line(tmp_path) -> None:
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    write(one, [record("law", [1, 2], [3]), record("code", [4], [5, 6])])
    write(two, [record("law", [7], [8])])
    with two.open("a") as file:
        file.write('{"domain": "law", "pro')
    assert [document.ids for document in read_documents([one, two])] == [[1, 2, 3], [4, 5, 6], [7, 8]]
    assert [document.ids for document in read_documents([one, two], ["law"])] == [[1, 2, 3], [7, 8]]


def test_all_answers_to_a_prompt_are_held_out_together(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, [record("law", [number], [answer]) for number in range(800) for answer in (1, 2)])
    documents = read_documents([path])
    held_out = [document.ids[0] for document in documents if document.is_held_out]
    assert all(held_out.count(prompt) == 2 for prompt in held_out)
    assert 800 / HELD_OUT_OF * 0.4 < len(set(held_out)) < 800 / HELD_OUT_OF * 2.5


@pytest.mark.parametrize("line", ["{", "[]", '{"domain": "law", "prompt": [1]}', '{"prompt": [1], "response": [1]}'])
def test_lines_of_another_kind_are_named(tmp_path, line) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(TrainingError, match=r"a\.jsonl"):
        read_documents([path])


def test_a_missing_file_and_a_missing_domain_are_named(tmp_path) -> None:
    with pytest.raises(TrainingError, match=r"none\.jsonl"):
        read_documents([tmp_path / "none.jsonl"])
    write(tmp_path / "a.jsonl", [record("law", [1], [2])])
    with pytest.raises(TrainingError, match=r"\['math'\].*\['law'\]"):
        read_documents([tmp_path / "a.jsonl"], ["math"])


def test_the_hash_tells_documents_apart(tmp_path) -> None:
    write(tmp_path / "a.jsonl", [record("law", [1], [2]), record("law", [1], [3])])
    documents = read_documents([tmp_path / "a.jsonl"])
    assert hash_documents(documents) == hash_documents(list(documents))
    assert hash_documents(documents) != hash_documents(documents[::-1])


def test_rows_hold_whole_documents_and_one_beginning(generator) -> None:
    documents = make_documents(300, generator)
    rows = PackedRows(documents, seed=1).next_batch(40, 64)
    assert rows.shape == (40, 64)
    for row in rows.tolist():
        starts = [*(place for place, token in enumerate(row) if token == SEPARATOR), len(row)]
        assert starts[0] == 0
        pieces = [row[start:stop] for start, stop in pairwise(starts)]
        assert all(piece == documents[piece[1] - 1] for piece in pieces[:-1])
        last = pieces[-1]
        assert len(last) == 1 or last == documents[last[1] - 1][: len(last)]


def test_every_document_has_its_turn_in_an_epoch(generator) -> None:
    documents = make_documents(200, generator)
    rows = PackedRows(documents, seed=1).next_batch(2 * sum(map(len, documents)) // 64, 64)
    assert set(rows.flatten().tolist()) == set(range(201))


def test_of_a_longer_document_the_end_is_a_row() -> None:
    assert PackedRows([list(range(50))], seed=0).next_batch(2, 8).tolist() == 2 * [list(range(42, 50))]


def test_one_short_document_fills_rows_again_and_again() -> None:
    assert PackedRows([[5, 6, 7], []], seed=0).next_batch(1, 8).tolist() == [[5, 6, 7, 5, 6, 7, 5, 6]]


def test_rows_without_documents_are_refused() -> None:
    with pytest.raises(TrainingError, match="no documents"):
        PackedRows([[]], seed=0)


def test_a_restored_order_goes_on_and_takes_more_documents_but_not_fewer(generator) -> None:
    documents = make_documents(100, generator)
    first = PackedRows(documents, seed=2)
    first.next_batch(7, 32)
    state = json.loads(json.dumps(first.state()))
    second = PackedRows(documents, seed=2)
    second.restore(state)
    assert torch.equal(first.next_batch(30, 32), second.next_batch(30, 32))
    PackedRows([*documents, [1, 2]], seed=2).restore(state)
    with pytest.raises(TrainingError, match="100 documents and there are 99"):
        PackedRows(documents[:-1], seed=2).restore(state)


def test_mixed_rows_have_their_share_of_the_corpus_and_are_resumable(streams, mix, generator) -> None:
    def make(seed: int) -> MixedRows:
        sampler = BatchSampler(streams, mix.shares, torch.Generator().manual_seed(seed))
        return MixedRows(PackedRows([[301] * 5], 0), sampler, 0.25)

    rows = make(1)
    batch = rows.next_batch(8, 16)
    assert batch.shape == (8, 16)
    assert (batch == 301).all(dim=1).tolist() == 6 * [True] + 2 * [False]
    again = make(2)
    again.restore(json.loads(json.dumps(rows.state())))
    assert torch.equal(rows.next_batch(8, 16), again.next_batch(8, 16))
    alone = MixedRows(PackedRows([[301] * 5], 0), None, 0.0)
    assert alone.next_batch(2, 4).shape == (2, 4)
    alone.restore(alone.state())
    with pytest.raises(TrainingError, match="--corpus"):
        alone.restore(rows.state())


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.5])
def test_shares_that_cannot_be_are_refused(share) -> None:
    with pytest.raises(TrainingError, match=str(share)):
        MixedRows(PackedRows([[1]], 0), None, share)
