"""HfDecoder says what the model itself says: every family, ragged batches, in pieces, after crops.

The reference is a plain forward of the single sequence (no cache, no mask, no positions of ours), and transformers'
own greedy `generate`. The texts are longer than the sliding windows.
"""

from __future__ import annotations

import pytest
import torch

from evodraft.runtime.hf import HfDecoder
from evodraft.testing.tiny import SLIDING_WINDOW, TINY_FAMILIES

VOCAB = 96
LENGTHS = (33, 9, 21)
SLOTS = (3, 0, 2)  # no range: rows are gathered
EAGER_ONLY = {"gemma2", "gpt_oss"}  # transformers has no sdpa for them
CASES = [
    (family, attention)
    for family in TINY_FAMILIES
    for attention in ("sdpa", "eager")
    if attention == "eager" or family not in EAGER_ONLY
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def model(request):
    family, attention = request.param
    return TINY_FAMILIES[family](vocab_size=VOCAB, seed=5, attn_implementation=attention)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


def random_ids(generator, length):
    return torch.randint(2, VOCAB, (length,), generator=generator)


def plain_logits(model, token_ids):  # [length] -> [length, vocab]
    with torch.no_grad():
        return model(token_ids[None], use_cache=False).logits[0]


def append(decoder, pieces, slots):
    """One ragged pass; the logits of each row, without padding."""
    width = max(map(len, pieces))
    padded = torch.full((len(pieces), width), 1)
    for row, piece in enumerate(pieces):
        padded[row, : len(piece)] = piece
    logits = decoder.forward(padded, [len(piece) for piece in pieces], slots).logits
    return [logits[row, : len(piece)] for row, piece in enumerate(pieces)]


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_windows_are_exercised():
    assert max(LENGTHS) > 4 * SLIDING_WINDOW


@pytest.mark.parametrize("slots", [SLOTS, (1, 2, 3)], ids=["gathered", "range"])
def test_ragged_pieces_score_like_whole_texts(model, generator, slots):
    texts = [random_ids(generator, length) for length in LENGTHS]
    expected = [plain_logits(model, text) for text in texts]
    decoder = HfDecoder(model, num_slots=4, max_length=64)
    cuts = [(5, 20, 21, 28, 33), (1, 4, 5, 6, 9), (8, 9, 12, 20, 21)]
    for piece in range(5):
        ranges = [slice(cut[piece - 1] if piece else 0, cut[piece]) for cut in cuts]
        logits = append(decoder, [text[part] for text, part in zip(texts, ranges, strict=True)], slots)
        for row, part in enumerate(ranges):
            assert_close(logits[row], expected[row][part])


def test_rejected_drafts_leave_no_trace(model, generator):
    texts = [random_ids(generator, length) for length in LENGTHS]
    expected = [plain_logits(model, text) for text in texts]
    decoder = HfDecoder(model, num_slots=4, max_length=64)
    held = [3, 1, 2]
    append(decoder, [text[:n] for text, n in zip(texts, held, strict=True)], SLOTS)
    while any(n < len(text) for text, n in zip(texts, held, strict=True)):
        rows = [row for row in range(3) if held[row] < len(texts[row])]
        widths = [int(torch.randint(1, 6, (), generator=generator)) for _ in rows]
        right = [texts[row][held[row] : held[row] + width] for row, width in zip(rows, widths, strict=True)]
        wrong = [random_ids(generator, int(torch.randint(0, 5, (), generator=generator))) for _ in rows]
        pieces = [torch.cat(pair) for pair in zip(right, wrong, strict=True)]
        logits = append(decoder, pieces, [SLOTS[row] for row in rows])
        for row, accepted, scores in zip(rows, right, logits, strict=True):
            assert_close(scores[: len(accepted)], expected[row][held[row] : held[row] + len(accepted)])
            held[row] += len(accepted)
            decoder.crop(SLOTS[row], held[row])


def test_a_released_slot_serves_another_text(model, generator):
    first, second = random_ids(generator, 30), random_ids(generator, 12)
    decoder = HfDecoder(model, num_slots=2, max_length=64)
    append(decoder, [first], [1])
    decoder.release(1)
    (logits,) = append(decoder, [second], [1])
    assert_close(logits, plain_logits(model, second))


def test_greedy_decoding_equals_generate(model, generator):
    """A ragged batch of prompts; in every pass two guesses that are never right ride along and are taken back."""
    prompts = [random_ids(generator, length) for length in (11, 2, 6)]
    num_new = 20
    expected = [
        model.generate(prompt[None], max_new_tokens=num_new, do_sample=False)[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    decoder = HfDecoder(model, num_slots=4, max_length=64)
    append(decoder, [prompt[:-1] for prompt in prompts], SLOTS)
    texts = [prompt.tolist() for prompt in prompts]
    for _ in range(num_new):
        guesses = random_ids(generator, 2)
        pieces = [torch.cat([torch.tensor(text[-1:]), guesses]) for text in texts]
        for text, slot, logits in zip(texts, SLOTS, append(decoder, pieces, SLOTS), strict=True):
            decoder.crop(slot, len(text))
            text.append(int(logits[0].argmax()))
    assert [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)] == expected
    assert len(set(expected[0])) > 3, "a text that repeats one token proves little"
