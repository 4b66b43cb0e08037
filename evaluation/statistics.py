"""Intervals and tests of means over texts. Plain functions on arrays.

Suffixes of array names: N units, C clusters.

Texts of one article are not independent, and many measures are bounded and pile up at a bound: reciprocal ranks at 1,
well-formed answers at 1. There the t interval and the bootstrap of a mean cover too little. Wilson's interval with the
effective number of units covers what it should. docs/benchmarks.md has the simulation.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, permutation_test, t

LEAST_CLUSTERS = 20  # articles or texts; with fewer, no interval covers what it should
_CHUNK = 2**22  # flipped values held in memory at once
_ROUNDING = 1e-12  # errors and sums below this are 0, but for rounding


class Interval(NamedTuple):
    """A point estimate and its 95 % interval. `low` and `high` are None where no interval would cover."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def if_enough(self, clusters: int) -> "Interval":
        """Return the estimate, without its interval where there are fewer than LEAST_CLUSTERS clusters."""
        return self if clusters >= LEAST_CLUSTERS else Interval(self.value)


def mean_error(values_N: np.ndarray, clusters_N: np.ndarray) -> tuple[float, float, float]:
    """Compute the mean of N values, its standard error, and the effective number of clusters; there must be two.

    The error is the jackknife's, which leaves out a cluster at a time. With few clusters of unequal sizes it covers
    better than linearisation does (MacKinnon, Nielsen and Webb 2023, J Econometrics 232:272). With a unit a cluster it
    is the standard error of a mean. The effective number counts clusters of equal sizes, in the manner of
    Carter, Schnepel and Steigerwald (2017, Rev Econ Stat 99:698): clusters of the sizes 1, 1 and 8 are 1.5.
    """
    _, places_N = np.unique(clusters_N, return_inverse=True)
    sizes_C, mean = np.bincount(places_N), float(values_N.mean())
    # The mean without a cluster differs from the mean by the cluster's residuals over the units that are left.
    changes_C = np.bincount(places_N, values_N - mean) / (len(values_N) - sizes_C)
    error = math.sqrt((1 - 1 / len(sizes_C)) * float((changes_C**2).sum()))
    return mean, error, len(values_N) ** 2 / float((sizes_C**2).sum())


def wilson(mean: float, units: float, quantile: float) -> tuple[float, float]:
    """Compute the ends of Wilson's interval of a mean in [0, 1] of `units` units (Wilson 1927, JASA 22:209)."""
    square = quantile**2
    centre = (mean + square / (2 * units)) / (1 + square / units)
    reach = quantile / (1 + square / units) * math.sqrt(mean * (1 - mean) / units + square / (4 * units**2))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def mean_interval(values_N: np.ndarray, clusters_N: np.ndarray, bounded: bool = True) -> Interval:
    """Compute a mean with its 95 % interval over clusters.

    For values in [0, 1] it is Wilson's interval with the effective number of units, which is how many independent yes
    and no answers would have the same standard error, and Student's quantile (Korn and Graubard 1998, Survey
    Methodology 24:193). Where the values do not vary, it is the effective number of clusters. For other values it is
    Student's t interval.
    """
    if len(np.unique(clusters_N)) < 2:
        return Interval(float(values_N.mean()) if len(values_N) else None)
    mean, error, clusters = mean_error(values_N, clusters_N)
    quantile = float(t.ppf(0.975, max(clusters - 1, 1)))
    if not bounded:
        return Interval(mean, mean - quantile * error, mean + quantile * error)
    units = mean * (1 - mean) / error**2 if error > _ROUNDING else clusters
    low, high = wilson(min(max(mean, 0.0), 1.0), max(units, 1.0), quantile)
    return Interval(mean, min(low, mean), max(high, mean))  # rounding aside, the mean lies within


def difference_interval(
    first_N: np.ndarray, second_N: np.ndarray, clusters_N: np.ndarray, bounded: bool = True
) -> Interval:
    """Compute the mean of first minus second on the same N units, with its 95 % interval over clusters.

    For values in [0, 1] the interval is made of those of both means and their correlation (MOVER; Zou and Donner 2008,
    Stat Med 27:1693), as Newcombe's of paired proportions is (Newcombe 1998, Stat Med 17:2635, method 10). For other
    values it is Student's t interval.
    """
    if not bounded:
        return mean_interval(first_N - second_N, clusters_N, bounded=False)
    first, second = mean_interval(first_N, clusters_N), mean_interval(second_N, clusters_N)
    if first.value is None or second.value is None:
        return Interval(None)
    value = first.value - second.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Interval(value)
    correlation = _correlation(first_N, second_N, clusters_N)

    def reach(left: float, right: float) -> float:
        return math.sqrt(max(0.0, left**2 - 2 * correlation * left * right + right**2))

    low = value - reach(first.value - first.low, second.high - second.value)
    return Interval(value, low, value + reach(first.high - first.value, second.value - second.low))


def _correlation(first_N: np.ndarray, second_N: np.ndarray, clusters_N: np.ndarray) -> float:
    """Compute the correlation of two means over clusters, in [-1, 1]; 0 where one does not vary."""
    (_, first, _), (_, second, _) = mean_error(first_N, clusters_N), mean_error(second_N, clusters_N)
    if min(first, second) < _ROUNDING:
        return 0.0
    _, both, _ = mean_error(first_N + second_N, clusters_N)
    return min(1.0, max(-1.0, (both**2 - first**2 - second**2) / (2 * first * second)))


def sign_flip(differences_N: np.ndarray, clusters_N: np.ndarray, resamples: int, seed: int) -> float:
    """Compute the two-sided p of a paired permutation test that the mean difference is 0 (Fisher 1935).

    Each cluster's sign is as likely. The test is exact where all differing clusters differ by as much, which for shares
    of independent texts is McNemar's exact test (McNemar 1947), and where there are at most `resamples` patterns.
    """
    _, places_N = np.unique(clusters_N, return_inverse=True)
    sums_C = np.bincount(places_N, differences_N) if len(differences_N) else np.zeros(0)
    sums_C = sums_C[np.abs(sums_C) > _ROUNDING]
    if not len(sums_C):
        return 1.0
    if np.allclose(np.abs(sums_C), np.abs(sums_C[0])):
        return sign_test(int((sums_C > 0).sum()), int((sums_C < 0).sum()))
    found = permutation_test(
        (sums_C,), np.mean, permutation_type="samples", vectorized=True, n_resamples=resamples,
        batch=max(1, _CHUNK // len(sums_C)), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def sign_test(only_first: int, only_second: int) -> float:
    """Compute the two-sided exact p that a fair coin falls so, the sign test (Dixon and Mood 1946, JASA 41:557)."""
    discordant = only_first + only_second
    return 1.0 if discordant == 0 else float(binomtest(only_first, discordant, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for being many, in their order (Holm 1979, Scand J Stat 6:65)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted
