"""Statistics against known answers."""

import numpy as np
import pytest

from evaluation.statistics import bootstrap_mean, cohens_d, mcnemar_exact, wilson, wins


def test_wilson_of_the_published_rates() -> None:
    assert wilson(850, 1000) == pytest.approx((0.85, 0.827, 0.871), abs=5e-4)
    assert wilson(991, 1000) == pytest.approx((0.991, 0.983, 0.995), abs=5e-4)


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 10)[:2] == pytest.approx((0.0, 0.0))
    assert wilson(10, 10).high == pytest.approx(1.0)
    assert wilson(0, 0) == (None, None, None)


@pytest.mark.parametrize(("first", "second", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (1, 9, 22 / 1024)])
def test_mcnemar_by_hand(first: int, second: int, p: float) -> None:
    assert mcnemar_exact(first, second) == pytest.approx(p)
    assert mcnemar_exact(second, first) == pytest.approx(p)


def test_bootstrap_agrees_with_the_normal_interval_on_many_values() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, 2000)
    mean, low, high = bootstrap_mean(values, 4000, seed=1)
    error = values.std(ddof=1) / np.sqrt(2000)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.006)
    assert bootstrap_mean(values, 4000, seed=1) == (mean, low, high)


def test_bootstrap_of_nothing_and_of_a_constant() -> None:
    assert bootstrap_mean(np.array([]), 100, 0) == (None, None, None)
    assert bootstrap_mean(np.full(9, 0.5), 100, 0) == (0.5, 0.5, 0.5)


def test_cohens_d_by_hand() -> None:
    assert cohens_d(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == pytest.approx(1 / np.sqrt(2))
    assert cohens_d(np.array([1.0]), np.array([2.0])) is None
    assert cohens_d(np.ones(3), np.ones(3)) is None


def test_a_tie_is_half_a_win() -> None:
    assert wins(np.array([0.1, 0.0, -0.1])).tolist() == [1.0, 0.5, 0.0]
