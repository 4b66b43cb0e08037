"""Statistics against known answers."""

import numpy as np
import pytest

from semtag.evaluation.statistics import (
    bootstrap_d,
    bootstrap_mean,
    holm,
    hybrid,
    jackknife,
    newcombe_paired,
    sign_test,
    wilson,
    wins,
)


def test_wilson_of_the_published_rates() -> None:
    assert wilson(850, 1000) == pytest.approx((0.85, 0.827, 0.871), abs=5e-4)
    assert wilson(991, 1000) == pytest.approx((0.991, 0.983, 0.995), abs=5e-4)


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 10)[:2] == pytest.approx((0.0, 0.0))
    assert wilson(10, 10).high == pytest.approx(1.0)
    assert wilson(0, 0) == (None, None, None)


# Table II of Newcombe 1998, method 10; the paper has first minus second.
@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0000),
    ],
)
def test_newcombe_of_the_paper(first: tuple[int, int], second: tuple[int, int], low: float, high: float) -> None:
    assert hybrid(wilson(*first), wilson(*second), 0.0)[1:] == pytest.approx((low, high), abs=5e-5)


def test_paired_newcombe_is_the_unpaired_one_without_correlation() -> None:
    both, only_first, only_second, neither = 6, 14, 9, 21  # 6 * 21 = 14 * 9
    assert newcombe_paired(both, only_first, only_second, neither) == pytest.approx(
        hybrid(wilson(15, 50), wilson(20, 50), 0.0)
    )
    assert newcombe_paired(0, 0, 0, 0) == (None, None, None)


def test_paired_newcombe_by_hand_and_narrower_with_correlation() -> None:
    difference, low, high = newcombe_paired(80, 5, 10, 5)
    # Wilson intervals of 85 and 90 of 100, correlation (80 * 5 - 5 * 10 - 50) / sqrt(85 * 15 * 90 * 10)
    correlation = 300 / np.sqrt(85 * 15 * 90 * 10)
    (_, l1, u1), (_, l2, u2) = wilson(85, 100), wilson(90, 100)
    assert None not in (l1, u1, l2, u2)
    down = (0.90 - l2) ** 2 - 2 * correlation * (0.90 - l2) * (u1 - 0.85) + (u1 - 0.85) ** 2
    up = (u2 - 0.90) ** 2 - 2 * correlation * (u2 - 0.90) * (0.85 - l1) + (0.85 - l1) ** 2
    assert (difference, low, high) == pytest.approx((0.05, 0.05 - down**0.5, 0.05 + up**0.5))
    loose = hybrid(wilson(90, 100), wilson(85, 100), 0.0)
    assert loose.low < low < high < loose.high
    assert newcombe_paired(50, 0, 0, 50)[:1] == (0.0,)


def test_paired_newcombe_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(100, [0.70, 0.05, 0.15, 0.10], size=2000)
    found = [newcombe_paired(*map(int, row)) for row in counts]
    assert 0.935 < np.mean([one.low <= 0.10 <= one.high for one in found]) < 0.975


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_bootstrap_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    differences = rng.gamma(2.0, 0.05, size=(1000, 200)) - rng.gamma(1.5, 0.05, size=(1000, 200))
    found = [bootstrap_mean(row, 1000, seed) for seed, row in enumerate(differences)]
    assert 0.93 <= np.mean([one.low <= 0.025 <= one.high for one in found]) <= 0.97


@pytest.mark.parametrize(("first", "second", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (1, 9, 22 / 1024)])
def test_mcnemar_by_hand(first: int, second: int, p: float) -> None:
    assert sign_test(first, second) == pytest.approx(p)
    assert sign_test(second, first) == pytest.approx(p)


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


def cohens_d(first_N: np.ndarray, second_N: np.ndarray) -> float | None:
    return bootstrap_d(first_N, second_N, 100, 0).value


def test_cohens_d_by_hand() -> None:
    assert cohens_d(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == pytest.approx(1 / np.sqrt(2))
    assert cohens_d(np.array([1.0]), np.array([2.0])) is None
    assert cohens_d(np.ones(3), np.ones(3)) is None


def test_the_interval_of_cohens_d() -> None:
    rng = np.random.default_rng(0)
    first_N = rng.normal(size=400)
    found = bootstrap_d(first_N, first_N + 0.5 + rng.normal(0, 0.1, size=400), 2000, 0)
    assert found.low < found.value < found.high and found.high - found.low < 0.1  # paired: hardly a third of unpaired
    drawn = first_N[rng.integers(0, 400, size=(2000, 400))]
    twice = 0.5 / drawn.std(axis=1, ddof=1)
    shifted = bootstrap_d(first_N, first_N + 0.5, 2000, 0)
    assert [shifted.low, shifted.high] == pytest.approx(np.quantile(twice, [0.025, 0.975]), abs=0.01)
    assert bootstrap_d(np.ones(3), np.ones(3), 200, 0) == (None, None, None)


def test_the_jackknife_of_a_mean_is_the_normal_interval() -> None:
    values_N = np.random.default_rng(0).random(40)
    without_N = (values_N.sum() - values_N) / 39
    half = 1.959964 * values_N.std(ddof=1) / np.sqrt(40)
    expected = (values_N.mean(), values_N.mean() - half, values_N.mean() + half)
    for correct in (False, True):  # a mean has no bias
        assert jackknife(values_N.mean(), without_N, correct=correct) == pytest.approx(expected)
    assert jackknife(0.9, np.array([0.5, 1.0]), most=1.0).high == 1 and jackknife(0.9, np.array([0.5])).high is None


def test_the_jackknife_takes_the_bias_off_a_variance() -> None:
    values_N = np.array([1.0, 2.0, 4.0, 9.0])
    without_N = np.array([np.delete(values_N, place).var() for place in range(4)])
    assert jackknife(values_N.var(), without_N, correct=True).value == pytest.approx(values_N.var(ddof=1))


def test_a_tie_is_half_a_win() -> None:
    assert wins(np.array([0.1, 0.0, -0.1])).tolist() == [1.0, 0.5, 0.0]
