"""Intervals and tests for paired comparisons. Plain functions on arrays; N is the number of texts."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm

Figure = Callable[..., np.ndarray]

_CHUNK = 2**22  # resampled values held in memory at once


class Interval(NamedTuple):
    """A point estimate and its 95 % interval; None where there was nothing to estimate from."""

    value: float | None
    low: float | None
    high: float | None


def wilson(successes: int, trials: int) -> Interval:
    """A proportion with Wilson's score interval (Wilson 1927, JASA 22:209)."""
    if trials == 0:
        return Interval(None, None, None)
    low, high = binomtest(successes, trials).proportion_ci(method="wilson")
    return Interval(successes / trials, float(low), float(high))


def newcombe_paired(both: int, only_first: int, only_second: int, neither: int) -> Interval:
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
    return hybrid(wilson(both + only_second, trials), wilson(both + only_first, trials), correlation)


def hybrid(second: Interval, first: Interval, correlation: float) -> Interval:
    """Second proportion minus first from the Wilson interval of each; without correlation Newcombe's of two samples."""
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


def sign_test(only_first: int, only_second: int) -> float:
    """Two-sided exact p that a fair coin falls so, the sign test of wins and losses (Dixon and Mood 1946).

    Of the texts that only one of two has right it is McNemar's exact test (McNemar 1947).
    """
    discordant = only_first + only_second
    return 1.0 if discordant == 0 else float(binomtest(only_first, discordant, 0.5).pvalue)


def bootstrap_mean(values_N: np.ndarray, resamples: int, seed: int) -> Interval:
    """Mean with its percentile bootstrap interval; give it paired differences for a paired interval."""
    return bootstrap(_mean, [values_N], resamples, seed)


def bootstrap(figure: Figure, samples: Sequence[np.ndarray], resamples: int, seed: int) -> Interval:
    """A figure of `samples`, all [N], with its percentile bootstrap interval over the N texts (Efron 1979).

    `figure` takes them as rows, [B, N], and gives [B]. It gives nan for a row that has no such figure: that is nothing
    of the samples themselves, and does not count of a resample.
    """
    count = len(samples[0])
    [value] = figure(*(sample_N[None] for sample_N in samples)) if count else [math.nan]
    if math.isnan(value):
        return Interval(None, None, None)
    drawn = [figure(*(sample_N[places] for sample_N in samples)) for places in draws(count, resamples, seed)]
    return percentiles(value, np.concatenate(drawn))


def percentiles(value: float, drawn_B: np.ndarray) -> Interval:
    """A figure with its percentile interval from what resamples gave, shape [B]; those that gave nan do not count."""
    low, high = np.nanquantile(drawn_B, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Places of N texts drawn with replacement, [B, N] at a time, `resamples` rows in all."""
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        yield rng.integers(0, n, size=(min(rows, resamples - start), n))


def jackknife(value: float, without_N: np.ndarray, most: float = math.inf, correct: bool = False) -> Interval:
    """A figure from 0 to `most` of N texts with its jackknife interval, from its values without each text, shape [N].

    The variance is (N - 1) / N times the sum of squared differences from their mean (Tukey 1958). With `correct`, the
    bias of order 1 / N is taken off: N value - (N - 1) mean (Quenouille 1956, Biometrika 43:353). Not for medians.
    """
    n = len(without_N)
    if n < 2:
        return Interval(float(value), None, None)
    mean = float(without_N.mean())
    centre = n * value - (n - 1) * mean if correct else float(value)
    half = float(norm.ppf(0.975)) * math.sqrt((n - 1) / n * float(((without_N - mean) ** 2).sum()))
    return Interval(centre, max(0.0, centre - half), min(most, centre + half))


def bootstrap_d(first_N: np.ndarray, second_N: np.ndarray, resamples: int, seed: int) -> Interval:
    """Cohen's d, mean of second minus first over their pooled sd, with its percentile bootstrap interval over texts.

    Nothing with fewer than two texts or no spread; resamples without spread do not count.
    """
    if len(first_N) < 2:
        return Interval(None, None, None)
    return bootstrap(_effects, [first_N, second_N], resamples, seed)


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


def _mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return values.mean(axis=axis)


def wins(differences_N: np.ndarray) -> np.ndarray:
    """1 where the second is better, 0 where the first is, one half for a tie; shape [N]."""
    return (np.sign(differences_N) + 1) / 2
