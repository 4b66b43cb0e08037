"""Intervals and tests against closed forms, known answers, and what must hold for all values."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from semtag.evaluation.statistics import (
    Interval,
    difference_interval,
    holm,
    mean_error,
    mean_interval,
    sign_flip,
    sign_test,
    wilson,
)

NORMAL = 1.959964  # the normal distribution's quantile of 97.5 %


def each(values_N: Any) -> np.ndarray:
    """Make clusters of one unit, shape [N]."""
    return np.arange(len(values_N))


def answers(yes: int, count: int) -> np.ndarray:
    return np.arange(count) < yes


# -- one mean -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("yes", "low", "high"), [(850, 0.827, 0.871), (991, 0.983, 0.995)])
def test_wilson_of_the_published_rates(yes: int, low: float, high: float) -> None:
    assert wilson(yes / 1000, 1000, NORMAL) == pytest.approx((low, high), abs=5e-4)
    found = mean_interval(answers(yes, 1000).astype(float), np.arange(1000))
    assert found == pytest.approx((yes / 1000, low, high), abs=6e-4)


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 10, 2.0) == pytest.approx((0, 4 / 14))  # q^2 / (n + q^2)
    assert wilson(1, 10, 2.0) == pytest.approx((10 / 14, 1))


def test_the_error_of_single_units_is_that_of_a_mean() -> None:
    values_N = np.array([1.0, 2.0, 4.0, 9.0])
    assert mean_error(values_N, each(values_N)) == pytest.approx((4.0, values_N.std(ddof=1) / 2, 4))


def test_copies_of_a_unit_in_its_cluster_add_nothing() -> None:
    values_C = np.array([0.1, 0.2, 0.4, 0.9])
    copied = mean_error(np.repeat(values_C, 5), np.repeat([3, 1, 4, 2], 5))
    assert copied == pytest.approx(mean_error(values_C, each(values_C)))


def test_the_error_of_unequal_clusters_by_hand() -> None:
    # The mean is 1/3; without the first cluster it is 0, without the second 1.
    error = math.sqrt(1 / 2 * ((0 - 1 / 3) ** 2 + (1 - 1 / 3) ** 2))
    assert mean_error(np.array([1.0, 0.0, 0.0]), np.array([7, 9, 9])) == pytest.approx((1 / 3, error, 9 / 5))


def test_a_cluster_larger_than_others_leaves_fewer_of_them() -> None:
    sizes, values_N = [1, 1, 8], np.linspace(0, 1, 10)
    assert mean_error(values_N, np.repeat([0, 1, 2], sizes))[2] == pytest.approx(100 / 66)
    equal = mean_interval(values_N, np.arange(10) % 5, bounded=False)
    error = mean_error(values_N, np.arange(10) % 5)[1]
    assert equal.high == pytest.approx(0.5 + 2.776445 * error)  # Student's quantile with four degrees of freedom
    error = mean_error(values_N, np.repeat([0, 1, 2], sizes))[1]
    unequal = mean_interval(values_N, np.repeat([0, 1, 2], sizes), bounded=False)
    assert unequal.high == pytest.approx(0.5 + 12.7062 * error)  # with one, the least


def test_an_unbounded_mean_has_students_interval() -> None:
    values_N = np.array([1.0, 2.0, 4.0, 9.0])
    reach = 3.182446 * values_N.std(ddof=1) / 2  # Student's quantile with three degrees of freedom
    assert mean_interval(values_N, each(values_N), bounded=False) == pytest.approx((4, 4 - reach, 4 + reach))


def test_values_that_vary_less_than_yes_and_no_count_as_more_units() -> None:
    values_N = np.tile([0.4, 0.6], 50)
    units = 0.25 / (values_N.var(ddof=1) / 100)
    assert units == pytest.approx(99 * 25)
    expected = wilson(0.5, units, float(t.ppf(0.975, 99)))
    assert mean_interval(values_N, each(values_N)) == pytest.approx((0.5, *expected))


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, 1.0])  # 0.1 and 0.7 leave residuals of rounding
@pytest.mark.parametrize("copies", [1, 7])
def test_values_that_do_not_vary_count_as_a_unit_a_cluster(value: float, copies: int) -> None:
    found = mean_interval(np.full(30 * copies, value), np.repeat(np.arange(30), copies))
    assert found == pytest.approx((value, *wilson(value, 30, float(t.ppf(0.975, 29)))))


def test_without_two_clusters_there_is_no_interval() -> None:
    assert mean_interval(np.zeros(0), np.zeros(0)) == Interval(None)
    assert mean_interval(np.array([0.25, 0.75]), np.array([5, 5])) == Interval(0.5)
    assert difference_interval(np.zeros(0), np.zeros(0), np.zeros(0)) == Interval(None)
    assert difference_interval(np.zeros(0), np.zeros(0), np.zeros(0), bounded=False) == Interval(None)
    assert difference_interval(np.array([0.5]), np.array([0.25]), np.array([5])) == Interval(0.25)


# -- differences --------------------------------------------------------------------------------------------------


def test_the_difference_of_paired_shares_by_hand() -> None:
    # Of 100 texts 80 are well formed by both arms, 10 by the first alone, 5 by the second alone.
    first_N = np.repeat([1.0, 1.0, 0.0, 0.0], [80, 10, 5, 5])
    second_N = np.repeat([1.0, 0.0, 1.0, 0.0], [80, 10, 5, 5])
    correlation = (80 * 5 - 10 * 5) / math.sqrt(90 * 10 * 85 * 15)
    (l1, u1), (l2, u2) = (wilson(mean, 99, float(t.ppf(0.975, 99))) for mean in (0.90, 0.85))
    down = (0.90 - l1) ** 2 - 2 * correlation * (0.90 - l1) * (u2 - 0.85) + (u2 - 0.85) ** 2
    up = (u1 - 0.90) ** 2 - 2 * correlation * (u1 - 0.90) * (0.85 - l2) + (0.85 - l2) ** 2
    found = difference_interval(first_N, second_N, np.arange(100))
    assert found == pytest.approx((0.05, 0.05 - down**0.5, 0.05 + up**0.5))


def test_clusters_make_a_difference_less_sure() -> None:
    rng = np.random.default_rng(0)
    first_N, second_N = np.repeat(rng.random(30), 10), np.repeat(rng.random(30), 10)
    clusters_N = np.repeat(np.arange(30), 10)
    found = difference_interval(first_N, second_N, clusters_N)
    assert found == pytest.approx(difference_interval(first_N[::10], second_N[::10], np.arange(30)))


@pytest.mark.parametrize("always", [1.0, 0.7])
def test_an_arm_that_never_varies_has_no_correlation(always: float) -> None:
    found = difference_interval(np.full(40, always), answers(20, 40).astype(float), np.arange(40))
    quantile = float(t.ppf(0.975, 39))
    (l1, u1), (l2, u2) = wilson(always, 40, quantile), wilson(0.5, 39, quantile)
    value = always - 0.5
    expected = (value, value - math.hypot(always - l1, u2 - 0.5), value + math.hypot(u1 - always, 0.5 - l2))
    assert found == pytest.approx(expected)


units = st.integers(2, 40).flatmap(
    lambda count: st.tuples(
        st.lists(st.floats(0, 1), min_size=count, max_size=count),
        st.lists(st.sampled_from([0.0, 1 / 3, 0.5, 1.0]), min_size=count, max_size=count),
        st.lists(st.integers(0, 9), min_size=count, max_size=count),
    )
)


@given(units)
@example(([0.0] * 7, [0.0] * 7, [0, 0, 0, 0, 1, 2, 3]))  # Wilson's lower end is -1e-16 before it is cut
def test_a_mean_lies_in_its_interval_and_the_interval_in_its_bounds(drawn: Any) -> None:
    *both, clusters_N = map(np.array, drawn)
    for values_N in both:
        value, low, high = mean_interval(values_N, clusters_N)
        if len(set(clusters_N)) == 1:
            assert low is None and high is None
            continue
        assert value is not None and low is not None and high is not None
        assert 0 <= low <= value <= high <= 1 + 1e-12
        assert high - low > 0


@given(units)
def test_a_difference_lies_in_its_interval_and_is_antisymmetric(drawn: Any) -> None:
    first_N, second_N, clusters_N = map(np.array, drawn)
    for bounded in (True, False):
        value, low, high = difference_interval(first_N, second_N, clusters_N, bounded)
        if value is None or low is None or high is None:
            assert len(set(clusters_N)) == 1
            continue
        assert low <= value + 1e-9 and value <= high + 1e-9
        assert not bounded or -1 - 1e-9 <= low <= high <= 1 + 1e-9
        swapped = difference_interval(second_N, first_N, clusters_N, bounded)
        assert swapped == pytest.approx((-value, -high, -low), abs=1e-9)


@given(units)
def test_an_arm_does_not_differ_from_itself(drawn: Any) -> None:
    values_N, _, clusters_N = map(np.array, drawn)
    value, low, high = difference_interval(values_N, values_N, clusters_N)
    assert value == 0
    assert low is None or high is None or low <= 0 <= high
    assert sign_flip(values_N - values_N, clusters_N, 100, 0) == 1


# -- tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differences", "clusters", "p"),
    [
        ([1, 2, 3], [0, 1, 2], 2 / 8),  # of the sums 6, 4, 2, 0, 0, -2, -4, -6 two are as far from 0 as 6
        ([1, -2, 3], [0, 1, 2], 6 / 8),  # as far as 2: all but the two zeros
        ([-1, -2, -3], [0, 1, 2], 2 / 8),
        ([1, 1, 2, 3], [0, 1, 2, 3], 2 / 16),
        ([1, 1, 2, 3], [0, 0, 1, 2], 2 / 8),  # the first two are flipped together
        ([1, 1, 2], [0, 0, 1], 2 / 4),
        ([1, -1, 2, 3], [0, 0, 1, 2], 2 / 4),  # a cluster whose sum is 0 says nothing
        ([0, 0], [0, 1], 1.0),
        ([5], [0], 1.0),
        ([], [], 1.0),
    ],
)
def test_sign_flips_by_hand(differences: list[float], clusters: list[int], p: float) -> None:
    assert sign_flip(np.array(differences, dtype=float), np.array(clusters), 1000, 0) == pytest.approx(p)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=60))
def test_for_shares_of_texts_it_is_mcnemars_exact_test(differences: list[float]) -> None:
    wins, losses = differences.count(1), differences.count(-1)
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_flip(np.array(differences), each(differences), 100, 0) == pytest.approx(expected)


def test_many_values_are_flipped_by_chance_and_with_a_seed_repeatably() -> None:
    values_N = np.random.default_rng(0).normal(0.15, 1, size=200)
    p = sign_flip(values_N, each(values_N), 10_000, 1)
    assert p == sign_flip(values_N, each(values_N), 10_000, 1)
    score = abs(values_N.mean()) / math.sqrt((values_N**2).mean() / 200)
    assert p == pytest.approx(math.erfc(score / math.sqrt(2)), abs=0.01)


def test_the_smallest_p_is_one_flip_in_all() -> None:
    values_N = np.linspace(1, 2, 60)
    assert sign_flip(values_N, each(values_N), 999, 0) == pytest.approx(2 / 1000)


@pytest.mark.parametrize(("first", "second", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (1, 9, 22 / 1024)])
def test_the_sign_test_by_hand(first: int, second: int, p: float) -> None:
    assert sign_test(first, second) == pytest.approx(p)
    assert sign_test(second, first) == pytest.approx(p)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
