"""Plain decoding by definition, checked by hand."""

from __future__ import annotations

from fractions import Fraction

import torch

from evodraft.params import SamplingParams
from evodraft.sampling import RequestKeys, exponential_noise
from evodraft.testing import TableLM, coupled_tokens, plain_law, product_law
from evodraft.types import Request

TABLE = TableLM(torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64), order=1)


def request(num_tokens: int = 2, *, stop=(), checks=(), **options) -> Request:
    params = SamplingParams(max_new_tokens=num_tokens, **{"temperature": 1.0, **options})
    return Request("a", (1,), params, 3, stop_token_ids=frozenset(stop), stop_checks=tuple(checks))


def test_without_options_it_is_the_joint_law() -> None:
    assert plain_law(TABLE, lambda: request(3)) == TABLE.joint([1], 3)


def test_a_stop_id_ends_a_path() -> None:
    half, quarter = Fraction(1, 2), Fraction(1, 4)
    assert plain_law(TABLE, lambda: request(stop=[2])) == {(2,): half, (1, 1): quarter, (1, 2): quarter}
    assert plain_law(TABLE, lambda: request(stop=[2], min_new_tokens=1)) == {(1, 1): half, (1, 2): half}


def test_a_check_ends_a_path_but_not_before_the_minimum() -> None:
    def check(token_ids) -> bool:
        return token_ids[-1] == 1

    law = plain_law(TABLE, lambda: request(checks=[check]))
    assert law == {(1,): Fraction(1, 2), (2, 0): Fraction(1, 2)}
    law = plain_law(TABLE, lambda: request(checks=[check], min_new_tokens=2))
    assert set(law) == {(1, 1), (1, 2), (2, 0)}


def test_laws_are_cut_as_asked() -> None:
    assert plain_law(TABLE, lambda: request(temperature=0.0)) == {(1, 1): 1}
    law = plain_law(TABLE, lambda: request(1, temperature=0.5))
    assert law == {(1,): Fraction(1, 2), (2,): Fraction(1, 2)}


def test_coupled_tokens_win_their_race() -> None:
    tokens = coupled_tokens(TABLE, lambda: request(6))
    context = [1]
    for token_id in tokens:
        noise = exponential_noise([RequestKeys(3).coupled(len(context))], 3)[0].double()
        race = noise / TABLE.law(context)
        assert race[token_id] == race.min()
        context.append(token_id)
    assert coupled_tokens(TABLE, lambda: request(6, stop=[tokens[1]])) == tokens[: tokens.index(tokens[1]) + 1]


def test_products() -> None:
    law = {(0,): Fraction(1, 4), (1,): Fraction(3, 4)}
    assert product_law(law, law)[((1,), (0,))] == Fraction(3, 16)
    assert product_law() == {(): 1}
