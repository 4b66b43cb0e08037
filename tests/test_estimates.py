"""From series to estimates and contrasts, with series made by hand."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from semtag.evaluation.estimates import Planned, contrasts, difference, estimate
from semtag.evaluation.rows import ROW, Key, Rows, Series, by_key, write_rows
from semtag.evaluation.statistics import difference_interval, mean_interval, sign_flip

UNITS = 40


def key(arm: str, measure: str = "found_by_words") -> Key:
    return Key(arm, "tags", "tags", "", measure)


def rows(clusters_N: np.ndarray | None = None, **arms: np.ndarray) -> Rows:
    """Make series of arms: of the measure behind `__` in a name, or else of reciprocal ranks."""
    found = []
    for name, values_N in arms.items():
        arm, _, measure = name.partition("__")
        units_N = np.arange(len(values_N)) + 100
        of = key(arm, measure or "found_by_words")
        found.append(Series(of, units_N, units_N if clusters_N is None else clusters_N, values_N))
    return by_key(found)


def ranks(seed: int, units: int = UNITS) -> np.ndarray:
    return 1 / np.random.default_rng(seed).integers(1, 5, size=units)


def test_an_estimate_is_of_the_units_that_have_a_value() -> None:
    values_N = ranks(0)
    holes_N = np.where(np.arange(UNITS) % 4 == 0, np.nan, values_N)
    kept_N = values_N[np.arange(UNITS) % 4 != 0]
    found = estimate(rows(tuned=holes_N), key("tuned"))
    assert (found.value, found.low, found.high) == mean_interval(kept_N, np.arange(30))
    assert found.n == 30


def test_a_difference_is_of_the_units_that_both_have() -> None:
    first_N, second_N = ranks(0), ranks(1)
    both_N = np.arange(UNITS) > 4
    holes_N = np.where(np.arange(UNITS) <= 1, np.nan, first_N)
    others_N = np.where((np.arange(UNITS) > 1) & ~both_N, np.nan, second_N)
    found = difference(rows(tuned=holes_N, base=others_N), key("tuned"), key("base"))
    assert (found.value, found.low, found.high) == difference_interval(first_N[both_N], second_N[both_N], np.arange(35))
    assert found.n == 35


def test_a_figure_that_no_unit_has_is_none() -> None:
    nothing = rows(tuned=np.full(UNITS, np.nan), base=ranks(0))
    for found in (estimate(nothing, key("tuned")), difference(nothing, key("tuned"), key("base"))):
        assert (found.value, found.low, found.high, found.n) == (None, None, None, 0)
    contrast = contrasts(nothing, [Planned("primary", key("tuned"), key("base"))], 100, 0)[0]
    assert (contrast.p, contrast.finding) == (1.0, "unclear")


@pytest.mark.parametrize(("clusters", "sure"), [(19, False), (20, True)])
def test_below_twenty_clusters_there_is_no_interval(clusters: int, sure: bool) -> None:
    of_article_N = np.arange(UNITS) % clusters
    made = rows(of_article_N, tuned=ranks(0), base=ranks(1))
    for found in (estimate(made, key("tuned")), difference(made, key("tuned"), key("base"))):
        assert found.value is not None and found.n == UNITS
        assert (found.low is not None, found.high is not None) == (sure, sure)


def test_the_interval_is_over_clusters() -> None:
    values_C, of_article_N = ranks(0), np.repeat(np.arange(UNITS), 5)
    copied = estimate(rows(of_article_N, tuned=np.repeat(values_C, 5)), key("tuned"))
    single = estimate(rows(tuned=values_C), key("tuned"))
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high))
    assert (copied.n, single.n) == (200, 40)


def test_a_factor_takes_so_much_of_the_second() -> None:
    first_N, second_N = np.tile([3.0, 6.0], 20), np.tile([2.0, 4.0], 20)
    made = rows(tuned__words=first_N, base__words=second_N)
    found = difference(made, key("tuned", "words"), key("base", "words"), 1.5)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0))
    first = difference(made, key("tuned", "words"), key("base", "words"))
    assert first.value == pytest.approx(1.5)
    assert first.high is not None and first.high > 1.5  # words have no bounds, so Student's interval


def test_p_values_are_holms_over_all_contrasts_that_are_there() -> None:
    made = rows(tuned=ranks(0), base=ranks(1), yake=ranks(2), people=np.ones(UNITS))
    names = ("base", "yake", "people")
    planned = [Planned("primary", key("tuned"), key(name)) for name in (*names, "missing")]
    found = contrasts(made, planned, 999, 7)
    assert [one.second for one in found] == list(names)
    plain = [sign_flip(made[key("tuned")].values_N - made[key(name)].values_N, np.arange(UNITS), 999, 7)
             for name in names]  # fmt: skip
    assert [one.p for one in found] == plain
    assert plain[2] == 0.002 == min(plain)
    assert [one.p_holm for one in found][2] == pytest.approx(0.006)
    assert [one.finding for one in found] == ["unclear", "unclear", "worse"]
    assert (found[0].family, found[0].first, found[0].measure, found[0].method) == (
        "primary",
        "tuned",
        "found_by_words",
        "",
    )


def test_better_is_what_the_measure_calls_better() -> None:
    more, less = np.full(UNITS, 0.75), np.full(UNITS, 0.25)
    made = rows(tuned=more, base=less, tuned__repeated=more, base__repeated=less)
    planned = [Planned("primary", key(first, of), key(second, of))
               for first, second, of in (("tuned", "base", "found_by_words"), ("base", "tuned", "found_by_words"),
                                         ("tuned", "base", "repeated"), ("base", "tuned", "repeated"))]  # fmt: skip
    assert [one.finding for one in contrasts(made, planned, 999, 0)] == ["better", "worse", "worse", "better"]


def test_without_agreement_of_interval_and_p_nothing_is_found() -> None:
    # A thousandth more on every text: no flip explains that, but the interval, which sees how ranks pile up, does.
    base_N = ranks(3) * 0.9
    made = rows(tuned=base_N + 0.001, base=base_N)
    sure_p = contrasts(made, [Planned("primary", key("tuned"), key("base"))], 999, 0)[0]
    assert sure_p.difference.low is not None and sure_p.difference.high is not None
    assert sure_p.p_holm < 0.05 and sure_p.difference.low <= 0 <= sure_p.difference.high
    # Enough contrasts make p unsure where the interval is not.
    better_N = np.where(np.arange(UNITS) < 9, 1.0, 0.5)
    made = rows(tuned=better_N, base=np.where(np.arange(UNITS) < 1, 1.0, 0.5))
    sure_interval = contrasts(made, [Planned("primary", key("tuned"), key("base"))] * 9, 999, 0)[0]
    assert sure_interval.difference.low is not None and sure_interval.difference.low > 0
    assert sure_interval.p < 0.05 < sure_interval.p_holm
    # Too few clusters have no interval at all.
    made = rows(np.arange(UNITS) % 19, tuned=np.ones(UNITS), base=np.zeros(UNITS))
    no_interval = contrasts(made, [Planned("primary", key("tuned"), key("base"))], 999, 0)[0]
    assert no_interval.p_holm == 0.002
    assert [one.finding for one in (sure_p, sure_interval, no_interval)] == ["unclear"] * 3


def test_a_series_that_is_measured_twice_is_refused() -> None:
    series = list(rows(tuned=ranks(0)).values())
    with pytest.raises(ValueError, match=r"tuned.* is measured twice"):
        by_key([*series, *series])


def test_series_of_other_units_are_not_compared() -> None:
    made = rows(tuned=ranks(0), base=ranks(1, UNITS + 1))
    with pytest.raises(AssertionError, match="of other units"):
        difference(made, key("tuned"), key("base"))


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    told = Series(Key("text", "both", "classification", "zero_shot", "accuracy"), np.array([7, 8]), np.array([0, 0]),
                  np.array([1.0, 0.0]), ["ships", None])  # fmt: skip
    made = rows(np.array([4, 4, 5]), tuned=np.array([0.5, np.nan, 1.0])) | by_key([told])
    write_rows(made, tmp_path / "rows.parquet")
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.schema.equals(ROW)
    names = ("arm", "input", "task", "method", "measure", "unit_id", "cluster", "value", "label")
    assert [tuple(row[name] for name in names) for row in table.to_pylist()] == [
        ("tuned", "tags", "tags", "", "found_by_words", 100, 4, 0.5, None),
        ("tuned", "tags", "tags", "", "found_by_words", 101, 4, None, None),
        ("tuned", "tags", "tags", "", "found_by_words", 102, 5, 1.0, None),
        ("text", "both", "classification", "zero_shot", "accuracy", 7, 0, 1.0, "ships"),
        ("text", "both", "classification", "zero_shot", "accuracy", 8, 0, 0.0, None),
    ]
