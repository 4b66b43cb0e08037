"""Estimate figures from the table of rows: each series' mean with its interval, and paired contrasts with tests."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from semtag.evaluation.measures import MEASURES
from semtag.evaluation.report.records import Contrast, Estimate
from semtag.evaluation.rows import Key, Rows
from semtag.evaluation.statistics import Interval, difference_interval, holm, mean_interval, sign_flip

SURE = 0.05  # a corrected p below this is called a difference


class Planned(NamedTuple):
    """A contrast that is named before anything is measured: how far the series `first` lies above `second`."""

    family: str
    first: Key
    second: Key


def estimate(rows: Rows, key: Key) -> Estimate:
    """Estimate the mean of a series over the units for which it is defined; without an interval below 20 clusters."""
    series = rows[key]
    known_N = ~np.isnan(series.values_N)
    values_N, clusters_N = series.values_N[known_N], series.clusters_N[known_N]
    return _estimate(mean_interval(values_N, clusters_N, MEASURES[key.measure].bounded), clusters_N)


def difference(rows: Rows, first: Key, second: Key, factor: float = 1.0) -> Estimate:
    """Estimate the mean of `first` minus `factor` times `second` over the units for which both are defined.

    Without an interval below 20 clusters.
    """
    first_N, second_N, clusters_N = _paired(rows, first, second)
    bounded = MEASURES[first.measure].bounded and factor == 1.0
    return _estimate(difference_interval(first_N, factor * second_N, clusters_N, bounded), clusters_N)


def _paired(rows: Rows, first: Key, second: Key) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the values of two series and the clusters, each of shape [N], of the units for which both are defined."""
    one, other = rows[first], rows[second]
    assert np.array_equal(one.units_N, other.units_N), f"{first} and {second} are of other units"
    known_N = ~np.isnan(one.values_N) & ~np.isnan(other.values_N)
    return one.values_N[known_N], other.values_N[known_N], one.clusters_N[known_N]


def _estimate(interval: Interval, clusters_N: np.ndarray) -> Estimate:
    return Estimate(**interval.if_enough(len(np.unique(clusters_N)))._asdict(), n=len(clusters_N))


def contrasts(rows: Rows, planned: Sequence[Planned], resamples: int, seed: int) -> list[Contrast]:
    """Estimate and test the planned contrasts whose series are both there; p values are Holm's over all of them."""
    there = [one for one in planned if one.first in rows and one.second in rows]
    p_values = []
    for one in there:
        first_N, second_N, clusters_N = _paired(rows, one.first, one.second)
        p_values.append(sign_flip(first_N - second_N, clusters_N, resamples, seed))
    return [
        _contrast(one, difference(rows, one.first, one.second), p, p_holm)
        for one, p, p_holm in zip(there, p_values, holm(p_values), strict=True)
    ]


def _contrast(planned: Planned, found: Estimate, p: float, p_holm: float) -> Contrast:
    first, second = planned.first, planned.second
    return Contrast(
        family=planned.family,
        first=first.arm,
        first_input=first.input,
        second=second.arm,
        second_input=second.input,
        task=first.task,
        method=first.method,
        measure=first.measure,
        difference=found,
        p=p,
        p_holm=p_holm,
        finding=_finding(found, p_holm, MEASURES[first.measure].higher_is_better),
    )


def _finding(found: Estimate, p_holm: float, higher_is_better: bool) -> str:
    """Name what both the interval and the corrected p allow to say."""
    if p_holm >= SURE or found.low is None or found.high is None or found.low <= 0 <= found.high:
        return "unclear"
    return "better" if (found.low > 0) == higher_is_better else "worse"
