"""Intervals and tests for paired comparisons. Plain functions on arrays; N is the number of texts."""

import math
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


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: the discordant pairs against a fair coin (McNemar 1947)."""
    discordant = only_first + only_second
    return 1.0 if discordant == 0 else float(binomtest(only_first, discordant, 0.5).pvalue)


def bootstrap_mean(values_N: np.ndarray, resamples: int, seed: int, confidence: float = 0.95) -> Interval:
    """Mean with its percentile bootstrap interval (Efron 1979); give it paired differences for a paired interval."""
    n = len(values_N)
    if n == 0:
        return Interval(None, None, None)
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    means = np.concatenate(
        [
            values_N[rng.integers(0, n, size=(min(rows, resamples - start), n))].mean(axis=1)
            for start in range(0, resamples, rows)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values_N.mean()), float(low), float(high))


def cohens_d(first_N: np.ndarray, second_N: np.ndarray) -> float | None:
    """Mean of second minus first over their pooled sd; None with fewer than two texts or no spread."""
    if min(len(first_N), len(second_N)) < 2:
        return None
    pooled = math.sqrt((first_N.var(ddof=1) + second_N.var(ddof=1)) / 2)
    return float((second_N.mean() - first_N.mean()) / pooled) if pooled else None


def wins(differences_N: np.ndarray) -> np.ndarray:
    """1 where the second is better, 0 where the first is, one half for a tie; shape [N]."""
    return (np.sign(differences_N) + 1) / 2
