"""The sliced head: which rows it holds, what it computes, and how it follows the matrix that it was cut from."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from evodraft.drafters.sliced_head import SlicedHead, linear_of
from evodraft.errors import ConfigError
from evodraft.runtime.choose import RuntimeOptions, choose_runtime
from evodraft.runtime.native.problem import native_problem
from evodraft.runtime.packing import packed_linear, packing_problem, plain_linear
from evodraft.testing.tiny import tiny_model

IDS = (0, 3, 4, 9, 22)
MAKERS = [plain_linear] + [packed_linear] * (packing_problem(torch.ones(1)) is None)


def matrix(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(24, 8, generator=generator), torch.randn(24, generator=generator)


@pytest.mark.parametrize("make_linear", MAKERS)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8)])
def test_columns_are_those_of_the_whole_head(make_linear, has_bias: bool, shape: tuple[int, ...]) -> None:
    weight, bias = matrix()
    hidden = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    head = SlicedHead(weight, bias if has_bias else None, IDS, make_linear)
    whole = linear(hidden, weight, bias if has_bias else None)
    torch.testing.assert_close(head(hidden), whole[..., list(IDS)])
    assert head.ids.tolist() == list(IDS)
    assert (head.num_rows, head.weight.shape, head.version) == (5, (5, 8), 0)
    assert head.copied_bytes == 5 * 8 * 4 + 5 * 4 * has_bias
    assert (head.bias is None) != has_bias


@pytest.mark.parametrize("has_bias", [False, True])
def test_without_ids_the_matrix_itself_is_read(has_bias: bool) -> None:
    weight, bias = matrix()
    head = SlicedHead(weight, bias if has_bias else None, None)
    assert head.ids is None
    assert (head.weight.data_ptr(), head.num_rows, head.copied_bytes) == (weight.data_ptr(), 24, 0)
    assert head(torch.ones(8)).shape == (24,)


@pytest.mark.parametrize("make_linear", MAKERS)
@pytest.mark.parametrize("ids", [IDS, None])
@pytest.mark.parametrize("written", ["weight", "bias"])
def test_refresh_takes_over_what_was_written_in_place(make_linear, ids, written: str) -> None:
    parts = dict(zip(("weight", "bias"), matrix(), strict=True))
    head, hidden = SlicedHead(parts["weight"], parts["bias"], ids, make_linear), torch.ones(2, 8)
    before, address = head(hidden), head.weight.data_ptr()
    assert not head.refresh()
    parts[written].add_(torch.arange(24.0).view((24, 1) if written == "weight" else (24,)))
    assert head.refresh()
    assert (head.refresh(), head.version, head.weight.data_ptr()) == (False, 1, address)
    whole = linear(hidden, parts["weight"], parts["bias"])
    torch.testing.assert_close(head(hidden), whole if ids is None else whole[:, list(ids)])
    assert not torch.equal(head(hidden), before)


def test_parameters_that_are_trained_are_followed_without_a_graph() -> None:
    layer = torch.nn.Linear(8, 24)
    head = SlicedHead(layer.weight, layer.bias, IDS)
    with torch.no_grad():
        layer.weight.mul_(2.0)
    assert head.refresh()
    assert torch.equal(head.weight, layer.weight[list(IDS)])
    assert not head(torch.ones(8)).requires_grad


def test_a_block_that_is_made_in_inference_mode_can_be_written_later() -> None:
    weight, _ = matrix()
    with torch.inference_mode():
        head = SlicedHead(weight, None, IDS)
    weight.zero_()
    assert head.refresh()
    assert not head.weight.any()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "0 token ids is empty or does not ascend"),
        ([3, 3], "2 token ids is empty or does not ascend; sort it, each id once"),
        ([5, 3], "does not ascend"),
        ([-1, 3], "2 token ids is empty or does not ascend"),
        ([3, 24, 30], "2 token ids of a slice have no row in the output matrix of 24 rows, first 24; leave them out"),
    ],
)
def test_ids_that_are_no_slice(ids: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SlicedHead(matrix()[0], None, ids)


OWN = tuple(range(100, 148, 2))  # what the rows of a matrix stand for


def test_a_matrix_whose_rows_are_no_ids() -> None:
    weight, bias = matrix()
    head = SlicedHead(weight, bias, None, token_ids=OWN)
    assert head.ids.tolist() == list(OWN)
    assert (head.weight.data_ptr(), head.copied_bytes) == (weight.data_ptr(), 0)
    part = SlicedHead(weight, bias, [100, 106, 146], token_ids=OWN)
    assert part.ids.tolist() == [100, 106, 146]
    hidden = torch.ones(2, 8)
    torch.testing.assert_close(part(hidden), head(hidden)[:, [0, 3, 23]])
    weight.mul_(2.0)
    assert (head.refresh(), part.refresh()) == (True, True)
    torch.testing.assert_close(part(hidden), head(hidden)[:, [0, 3, 23]])


@pytest.mark.parametrize(
    ("ids", "token_ids", "message"),
    [
        ([100, 103], OWN, "1 token ids of a slice have no row in the output matrix of 24 rows, first 103"),
        (None, OWN[::-1], "24 token ids is empty or does not ascend"),
    ],
)
def test_rows_that_stand_for_something_else(ids, token_ids, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SlicedHead(matrix()[0], None, ids, token_ids=token_ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("runtime", ["native", "packed", "eager", "transformers"])
def test_products_are_those_of_the_step_that_it_goes_with(runtime: str, dtype: torch.dtype) -> None:
    model = tiny_model("llama", vocab_size=64).to(dtype)
    problems = {"native": native_problem, "packed": packing_problem}
    if runtime in problems and (problem := problems[runtime](model.lm_head.weight)) is not None:
        pytest.skip(problem)
    chosen = choose_runtime(model, RuntimeOptions(runtime, "fast"))
    head = SlicedHead(model.lm_head.weight, None, IDS, linear_of(chosen.step))
    decoder = chosen.decoder(1, 8)
    output = decoder.forward(torch.tensor([[5, 6, 7]]), [3], [0], taps=(decoder.num_layers,))
    ours, whole = head(output.taps[decoder.num_layers]), output.logits[..., list(IDS)]
    if dtype == torch.float32 and runtime == "native":
        assert torch.equal(ours, whole), "each row's bits are its own"
    tolerance = {"rtol": 0.03, "atol": 0.03} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours.float(), whole.float(), **tolerance)
