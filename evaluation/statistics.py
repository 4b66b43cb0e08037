"""Intervals and tests for paired comparisons. Plain functions on arrays; N is the number of texts."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm

_CHUNK = 2**22  # resampled values held in memory at once


class Interval(NamedTuple):
    """A point estimate and its 95 % interval; None where there was nothing to estimate from."""

    value: float | None
    low: float | None
    high: float | None


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """A proportion with Wilson's score interval (Wilson 1927, JASA 22:209)."""
    if trials == 0:
        return Interval(None, None, None)
    z = float(norm.ppf(0.5 + confidence / 2))
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def newcombe(first: int, trials_first: int, second: int, trials_second: int, confidence: float = 0.95) -> Interval:
    """Second proportion minus first, of independent samples (Newcombe 1998, Stat Med 17:873, method 10)."""
    if not (trials_first and trials_second):
        return Interval(None, None, None)
    return _hybrid(wilson(second, trials_second, confidence), wilson(first, trials_first, confidence), 0.0)


def newcombe_paired(both: int, only_first: int, only_second: int, neither: int, confidence: float = 0.95) -> Interval:
    """Second proportion minus first, of the same N texts (Newcombe 1998, Stat Med 17:2635, method 10).

    The counts say in how many texts both, one or neither of the two has what is counted.
    """
    trials = both + only_first + only_second + neither
    if not trials:
        return Interval(None, None, None)
    product: float = both * neither - only_first * only_second
    if product > 0:  # correlation with a continuity correction, towards 0
        product = max(product - trials / 2, 0)
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    correlation = product / math.sqrt(margins) if margins else 0.0
    first = wilson(both + only_first, trials, confidence)
    return _hybrid(wilson(both + only_second, trials, confidence), first, correlation)


def _hybrid(second: Interval, first: Interval, correlation: float) -> Interval:
    """Interval of a difference of proportions from the Wilson interval of each."""
    (p2, low2, high2), (p1, low1, high1) = (
        (part.value or 0.0, part.low or 0.0, part.high or 0.0) for part in (second, first)
    )

    def reach(left: float, right: float) -> float:
        return math.sqrt(max(0.0, left**2 - 2 * correlation * left * right + right**2))

    return Interval(p2 - p1, p2 - p1 - reach(p2 - low2, high1 - p1), p2 - p1 + reach(high2 - p2, p1 - low1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for being many, in their order (Holm 1979, Scand J Stat 6:65)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: the discordant pairs against a fair coin (McNemar 1947)."""
    discordant = only_first + only_second
    return 1.0 if discordant == 0 else float(binomtest(only_first, discordant, 0.5).pvalue)


def bootstrap_mean(values_N: np.ndarray, resamples: int, seed: int, confidence: float = 0.95) -> Interval:
    """Mean with its percentile bootstrap interval (Efron 1979); give it paired differences for a paired interval."""
    n = len(values_N)
    if n == 0:
        return Interval(None, None, None)
    means = np.concatenate([values_N[places].mean(axis=1) for places in draws(n, resamples, seed)])
    return percentiles(float(values_N.mean()), means, confidence)


def percentiles(value: float, drawn_B: np.ndarray, confidence: float = 0.95) -> Interval:
    """A figure with its percentile interval from what resamples gave, shape [B]; those that gave nan do not count."""
    low, high = np.nanquantile(drawn_B, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(low), float(high))


def draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Places of N texts drawn with replacement, [B, N] at a time, `resamples` rows in all."""
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        yield rng.integers(0, n, size=(min(rows, resamples - start), n))


def jackknife(
    value: float, without_N: np.ndarray, most: float = math.inf, correct: bool = False, confidence: float = 0.95
) -> Interval:
    """A figure from 0 to `most` of N texts with its jackknife interval, from its values without each text, shape [N].

    The variance is (N - 1) / N times the sum of squared differences from their mean (Tukey 1958). With `correct`, the
    bias of order 1 / N is taken off: N value - (N - 1) mean (Quenouille 1956, Biometrika 43:353). Not for medians.
    """
    n = len(without_N)
    if n < 2:
        return Interval(float(value), None, None)
    mean = float(without_N.mean())
    centre = n * value - (n - 1) * mean if correct else float(value)
    half = float(norm.ppf(0.5 + confidence / 2)) * math.sqrt((n - 1) / n * float(((without_N - mean) ** 2).sum()))
    return Interval(centre, max(0.0, centre - half), min(most, centre + half))


def bootstrap_d(first_N: np.ndarray, second_N: np.ndarray, resamples: int, seed: int) -> Interval:
    """Cohen's d with its 95 % percentile bootstrap interval over texts; resamples without spread do not count."""
    value = cohens_d(first_N, second_N)
    if value is None:
        return Interval(None, None, None)
    drawn = [_effects(first_N[places], second_N[places]) for places in draws(len(first_N), resamples, seed)]
    return percentiles(value, np.concatenate(drawn))


def _effects(first_B_N: np.ndarray, second_B_N: np.ndarray) -> np.ndarray:
    """Cohen's d of each row, shape [B]; nan for a row without spread."""
    pooled_B = np.sqrt((first_B_N.var(axis=1, ddof=1) + second_B_N.var(axis=1, ddof=1)) / 2)
    gains_B = second_B_N.mean(axis=1) - first_B_N.mean(axis=1)
    return np.divide(gains_B, pooled_B, out=np.full_like(gains_B, math.nan), where=pooled_B > 0)


def sign_flip(differences_N: np.ndarray, resamples: int, seed: int) -> float:
    """Two-sided p of a paired permutation test that the mean difference is 0 (Fisher 1935): each sign is as likely.

    Exact where there are no more patterns of signs than `resamples`.
    """
    from scipy.stats import permutation_test

    if len(differences_N) < 2 or not differences_N.any():
        return 1.0
    found = permutation_test(
        (differences_N,), _mean, permutation_type="samples", vectorized=True, n_resamples=resamples,
        batch=max(1, _CHUNK // len(differences_N)), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(axis=axis)


def cohens_d(first_N: np.ndarray, second_N: np.ndarray) -> float | None:
    """Mean of second minus first over their pooled sd; None with fewer than two texts or no spread."""
    if min(len(first_N), len(second_N)) < 2:
        return None
    d = float(_effects(first_N[None], second_N[None])[0])
    return None if math.isnan(d) else d


def wins(differences_N: np.ndarray) -> np.ndarray:
    """1 where the second is better, 0 where the first is, one half for a tie; shape [N]."""
    return (np.sign(differences_N) + 1) / 2
