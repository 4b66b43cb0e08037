"""Embeddings for the evaluation."""

import numpy as np

from semtag.evaluation.embeddings import finite


def test_a_row_that_is_not_finite_is_near_to_nothing_and_costs_no_other() -> None:
    rows = np.array([[1.0, 2.0], [np.nan, 1.0], [np.inf, 0.0], [3.0, 4.0]], dtype=np.float32)
    assert finite(rows).tolist() == [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]
    assert finite(rows).dtype == np.float32
