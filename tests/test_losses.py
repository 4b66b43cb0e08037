"""Losses over lists: closed forms, hand-computed values, invariances, gradients."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semtag.training.losses import LOSSES, ipo, ipo_margin, lipo_lambda, plackett_luce, ranks, rescaled, sigmoid

EVERY = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@pytest.fixture(autouse=True, scope="module")
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def rows(*lists: list[float]) -> torch.Tensor:
    return torch.tensor(lists)


def all_of(values: torch.Tensor) -> torch.Tensor:
    return torch.ones(values.shape, dtype=torch.bool)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_two_completions_are_ipo_and_dpo(beta: float) -> None:
    h, s = rows([0.7, -0.2], [-0.2, 0.7]), rows([0.9, 0.4], [0.4, 0.9])
    there = all_of(h)
    target = (0.9 - 1 / (2 * beta)) ** 2
    assert ipo(h, s, there, beta).tolist() == pytest.approx([target] * 2)
    assert ipo_margin(h, s, there, beta).tolist() == pytest.approx([target] * 2)
    dpo = math.log(1 + math.exp(-beta * 0.9))
    assert sigmoid(h, s, there, beta).tolist() == pytest.approx([dpo] * 2)
    assert plackett_luce(h, s, there, beta).tolist() == pytest.approx([dpo] * 2)


def test_values_by_hand() -> None:
    h, s, there = rows([1.0, 0.0, -2.0]), rows([0.3, 0.5, 0.1]), rows([1, 1, 1]).bool()
    # Preferences: 1 over 0 (gap -1), 1 over 2 (gap 2), 0 over 2 (gap 3); target 1 at beta 0.5.
    assert ipo(h, s, there, 0.5).item() == pytest.approx((4 + 1 + 4) / 3)
    # Rescaled scores are 0.5, 1, 0: targets 0.5, 1 and 0.5.
    assert ipo_margin(h, s, there, 0.5).item() == pytest.approx((2.25 + 1 + 6.25) / 3)
    rewards = [0.5, 0.0, -1.0]
    total = math.log(sum(map(math.exp, rewards)))
    assert plackett_luce(h, s, there, 0.5).item() == pytest.approx(
        total - rewards[1] + math.log(math.exp(rewards[0]) + math.exp(rewards[2])) - rewards[0]
    )
    discount = [1 / math.log(2), 1 / math.log(3), 1 / math.log(4)]
    gain = [2**0.5, 2.0, 1.0]
    by_hand = sum(
        abs(gain[i] - gain[j]) * abs(discount[i] - discount[j]) * math.log(1 + math.exp(rewards[j] - rewards[i]))
        for i, j in ((1, 0), (1, 2), (0, 2))
    )
    assert lipo_lambda(h, s, there, 0.5).item() == pytest.approx(by_hand)


def test_before_the_first_update() -> None:
    h, s = torch.zeros(1, 4), rows([0.1, 0.4, 0.2, 0.3])
    assert plackett_luce(h, s, all_of(h), 0.1).item() == pytest.approx(math.log(24))
    assert ipo(h, s, all_of(h), 0.1).item() == pytest.approx(25.0)
    assert sigmoid(h, s, all_of(h), 0.1).item() == pytest.approx(math.log(2))


def test_probabilities_of_all_orders_sum_to_one() -> None:
    h = rows([0.3, -1.0, 2.0, 0.5])
    losses = [plackett_luce(h, rows(list(order)), all_of(h), 0.7) for order in itertools.permutations([1.0, 2, 3, 4])]
    assert sum(math.exp(-loss.item()) for loss in losses) == pytest.approx(1)


LISTS = st.integers(2, 6).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-5, 5), min_size=k, max_size=k),
        st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=k, max_size=k, unique=True),
        st.permutations(range(k)),
    )
)


@EVERY
@settings(max_examples=50)
@given(LISTS, st.floats(-3, 3))
def test_order_of_the_list_and_a_constant_change_nothing(loss: Any, drawn: Any, shift: float) -> None:
    values, marks, order = drawn
    h, s = rows(values), rows(marks)
    if loss is lipo_lambda and len({round(value, 6) for value in values}) < len(values):
        return  # its ranks break ties by index
    before = loss(h, s, all_of(h), 0.5)
    torch.testing.assert_close(loss(h[:, order], s[:, order], all_of(h), 0.5), before)
    torch.testing.assert_close(loss(h + shift, s, all_of(h), 0.5), before)


@EVERY
def test_absent_places_change_nothing_and_get_no_gradient(loss: Any) -> None:
    h = rows([0.5, -1.0, 2.0]).requires_grad_()
    s = rows([0.2, 0.9, 0.4])
    short = loss(h, s, all_of(h), 0.3)
    for rubbish in (0.0, 1e6, -1e6):
        padded = torch.tensor([[0.5, rubbish, -1.0, 2.0, rubbish]], requires_grad=True)
        marks = rows([0.2, 5.0, 0.9, 0.4, -5.0])
        there = rows([1, 0, 1, 1, 0]).bool()
        long = loss(padded, marks, there, 0.3)
        torch.testing.assert_close(long, short)
        (gradient,) = torch.autograd.grad(long.sum(), padded)
        assert gradient[0, [1, 4]].tolist() == [0.0, 0.0]
        assert gradient[0, [0, 2, 3]].tolist() == pytest.approx(torch.autograd.grad(
            loss(h, s, all_of(h), 0.3).sum(), h)[0][0].tolist())  # fmt: skip


@EVERY
def test_lists_without_a_preference_cost_nothing(loss: Any) -> None:
    h = rows([1.0, 2.0], [1.0, 2.0], [1.0, 2.0]).requires_grad_()
    s, there = rows([0.5, 0.5], [0.9, 0.1], [0.9, 0.1]), torch.tensor([[True, True], [True, False], [False, False]])
    found = loss(h, s, there, 0.5)
    assert found.tolist() == [0.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad(found.sum(), h)
    assert gradient.abs().max() == 0


@EVERY
def test_gradients_are_those_of_the_values(loss: Any) -> None:
    h = rows([0.5, -1.0, 2.0, 0.1], [0.0, 0.3, -0.7, 0.0]).requires_grad_()
    s = rows([0.2, 0.9, 0.4, 0.4], [0.1, 0.2, 0.3, 0.0])
    there = torch.tensor([[True] * 4, [True, True, True, False]])
    assert torch.autograd.gradcheck(lambda ratios: loss(ratios, s, there, 0.5), (h,))


def test_ranks_and_scale() -> None:
    there = rows([1, 1, 0, 1]).bool()
    assert ranks(rows([0.5, 0.7, 9.0, 0.5]), there).tolist() == [[2, 1, 4, 3]]
    assert rescaled(rows([0.5, 0.7, 9.0, 0.6]), there)[0].tolist() == pytest.approx([0, 1, 0, 0.5])
    assert rescaled(rows([0.5, 0.5, 9.0, 0.5]), there).tolist() == [[0, 0, 0, 0]]
