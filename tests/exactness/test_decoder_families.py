"""A decoder says what the model itself says: every family, ragged batches, in pieces, after crops, over trees.

The reference is a plain forward of the single sequence (no cache, no mask, no positions of ours), and transformers'
own greedy `generate`. The texts are longer than the sliding windows.
"""

from __future__ import annotations

import functools

import pytest
import torch

from evodraft.runtime.choose import RUNTIMES, TRANSFORMERS, RuntimeOptions, choose_runtime
from evodraft.runtime.hf import HfDecoder
from evodraft.testing.tiny import SLIDING_WINDOW, TINY_FAMILIES

VOCAB = 96
TOLERANCE = 1e-4  # of float32 logits
LENGTHS = (33, 9, 21)
SLOTS = (3, 0, 2)  # no range: rows are gathered
EAGER_ONLY = {"gemma2", "gpt_oss"}  # transformers has no sdpa for them
FUSED_FAMILIES = ("llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3")


def chosen(runtime):
    """How to make a decoder of a model with one of the runtimes."""

    def make(model, **sizes):
        return choose_runtime(model, RuntimeOptions(runtime)).decoder(**sizes)

    return make


DECODERS = {  # name -> how to make one of a model, and the families that it decodes
    "hf": (HfDecoder, tuple(TINY_FAMILIES)),
    **{name: (chosen(name), FUSED_FAMILIES) for name in RUNTIMES if name != TRANSFORMERS},
}
CASES = [
    (decoder, family, attention)
    for decoder, (_, families) in DECODERS.items()
    for family in families
    for attention in ("sdpa", "eager")
    if attention == "eager" or family not in EAGER_ONLY
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def case(request):
    return request.param


@pytest.fixture(scope="module")
def model(case):
    _, family, attention = case
    return TINY_FAMILIES[family](vocab_size=VOCAB, seed=5, attn_implementation=attention)


@pytest.fixture
def make_decoder(case, model):
    make, _ = DECODERS[case[0]]
    return functools.partial(make, model)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


def random_ids(generator, length):
    return torch.randint(2, VOCAB, (length,), generator=generator)


def plain_logits(model, token_ids):  # [length] -> [length, vocab]
    with torch.no_grad():
        return model(token_ids[None], use_cache=False).logits[0]


def append(decoder, pieces, slots, parents=None):
    """One ragged pass; the logits of each row, without padding."""
    width = max(map(len, pieces))
    padded = torch.full((len(pieces), width), 1)
    for row, piece in enumerate(pieces):
        padded[row, : len(piece)] = piece
    logits = decoder.forward(padded, [len(piece) for piece in pieces], slots, parents=parents).logits
    return [logits[row, : len(piece)] for row, piece in enumerate(pieces)]


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0.0)


def test_windows_are_exercised():
    assert max(LENGTHS) > 4 * SLIDING_WINDOW


@pytest.mark.parametrize("slots", [SLOTS, (1, 2, 3)], ids=["gathered", "range"])
def test_ragged_pieces_score_like_whole_texts(make_decoder, model, generator, slots):
    texts = [random_ids(generator, length) for length in LENGTHS]
    expected = [plain_logits(model, text) for text in texts]
    decoder = make_decoder(num_slots=4, max_length=64)
    cuts = [(5, 20, 21, 28, 33), (1, 4, 5, 6, 9), (8, 9, 12, 20, 21)]
    for piece in range(5):
        ranges = [slice(cut[piece - 1] if piece else 0, cut[piece]) for cut in cuts]
        logits = append(decoder, [text[part] for text, part in zip(texts, ranges, strict=True)], slots)
        for row, part in enumerate(ranges):
            assert_close(logits[row], expected[row][part])


def test_rejected_drafts_leave_no_trace(make_decoder, model, generator):
    texts = [random_ids(generator, length) for length in LENGTHS]
    expected = [plain_logits(model, text) for text in texts]
    decoder = make_decoder(num_slots=4, max_length=64)
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


def test_a_released_slot_serves_another_text(make_decoder, model, generator):
    first, second = random_ids(generator, 30), random_ids(generator, 12)
    decoder = make_decoder(num_slots=2, max_length=64)
    append(decoder, [first], [1])
    decoder.release(1)
    (logits,) = append(decoder, [second], [1])
    assert_close(logits, plain_logits(model, second))


def test_greedy_decoding_equals_generate(make_decoder, model, generator):
    """A ragged batch of prompts; in every pass two guesses that are never right ride along and are taken back."""
    prompts = [random_ids(generator, length) for length in (11, 2, 6)]
    num_new = 20
    expected = [
        model.generate(prompt[None], max_new_tokens=num_new, do_sample=False)[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    decoder = make_decoder(num_slots=4, max_length=64)
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


BUSHY = (-1, 0, 0, 1, 1, 2, 3, 6, -1, 8, 7, 10, 11, 12, 13)  # two trees, the deeper one leaves every window
TREES = {  # name -> parents of each row
    "all": (BUSHY, (-1, 0, 1, 1, 0), (-1, -1, -1)),
    "one chain": ((-1, 0, 1), BUSHY, (-1, 0, 0, 0, 2, 4)),
}


def path_to(tree, node):
    """Nodes from the top down to `node`."""
    path = []
    while node >= 0:
        path.insert(0, node)
        node = tree[node]
    return path


def path_logits(model, held, nodes, tree):
    """What the model says after every node when its path is all the text there is."""
    texts = [torch.cat([held, nodes[path_to(tree, node)]]) for node in range(len(tree))]
    return torch.stack([plain_logits(model, text)[-1] for text in texts])


def test_the_deepest_path_is_longer_than_a_window():
    assert len(path_to(BUSHY, len(BUSHY) - 1)) > SLIDING_WINDOW + 2


@pytest.fixture(params=TREES)
def trees(request):
    return TREES[request.param]


def test_a_node_is_scored_as_the_end_of_its_path(make_decoder, model, generator, trees):
    """Trees and a chain in one ragged pass, after texts of unlike length; one slot is empty."""
    decoder = make_decoder(num_slots=4, max_length=64)
    texts = [random_ids(generator, length) for length in (25, 3, 11)]
    append(decoder, texts, SLOTS)
    decoder.release(SLOTS[1])
    texts[1] = texts[1][:0]
    nodes = [random_ids(generator, len(tree)) for tree in trees]
    scores = append(decoder, nodes, SLOTS, parents=trees)
    for text, row, tree, logits in zip(texts, nodes, trees, scores, strict=True):
        assert_close(logits, path_logits(model, text, row, tree))


def test_a_selected_path_goes_on_as_plain_text(make_decoder, model, generator, trees):
    """Several rounds of trees, each cut to one of its paths, well past every window; at last a chain shows the rest."""
    decoder = make_decoder(num_slots=4, max_length=64)
    texts = [random_ids(generator, length) for length in (12, 1, 4)]
    append(decoder, texts, SLOTS)
    for _ in range(4):
        nodes = [random_ids(generator, len(tree)) for tree in trees]
        scores = append(decoder, nodes, SLOTS, parents=trees)
        for row, (tree, ids) in enumerate(zip(trees, nodes, strict=True)):
            path = path_to(tree, int(torch.randint(-1, len(tree), (), generator=generator)))
            before = len(texts[row])
            decoder.select(SLOTS[row], before, path)
            texts[row] = torch.cat([texts[row], ids[path]])
            assert decoder.length(SLOTS[row]) == len(texts[row])
            assert_close(scores[row][path], plain_logits(model, texts[row])[before:])
    last = [random_ids(generator, length) for length in (2, 9, 1)]
    for text, ids, logits in zip(texts, last, append(decoder, last, SLOTS), strict=True):
        assert_close(logits, plain_logits(model, torch.cat([text, ids]))[len(text) :])


def test_neighbours_and_padding_of_a_tree_do_not_matter(make_decoder, generator):
    """A row alone, and beside a wider one in a pass that pads it."""
    alone, together = (make_decoder(num_slots=4, max_length=64) for _ in range(2))
    text, other, tree = random_ids(generator, 9), random_ids(generator, 21), (-1, 0, 0, 2)
    nodes, wider = random_ids(generator, len(tree)), random_ids(generator, len(BUSHY))
    append(alone, [text], [1])
    append(together, [other, text], [3, 1])
    (expected,) = append(alone, [nodes], [1], parents=[tree])
    assert_close(append(together, [wider, nodes], [3, 1], parents=[BUSHY, tree])[1], expected)
    for decoder in (alone, together):
        decoder.select(1, 9, [0, 2, 3])
    last = random_ids(generator, 2)
    (expected,) = append(alone, [last], [1])
    assert_close(append(together, [last], [1])[0], expected)
