"""Classes by hand: figures that scikit-learn confirms, and three ways to tell a class."""

import json
from pathlib import Path

import numpy as np
import pytest

from semtag.configs.errors import UserError
from semtag.configs.schema import Evaluation
from semtag.evaluation.classification import (
    Inference,
    classify,
    f1_intervals,
    figures_of,
    linear_probe,
    nearest_description,
)
from semtag.evaluation.statistics import wilson
from tests.test_search import bag_of_words, tiny_classifier

EVALUATION = Evaluation(resamples=200, labels={"1": "ship sea", "2": "train rail"})
TEXTS = [f"the ship at sea {place}" for place in range(6)] + [f"a train on the rail {place}" for place in range(9)]
LABELS: list[str | None] = ["1"] * 6 + ["2"] * 9


def test_figures_by_hand() -> None:
    true_N, told_N = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    figures = figures_of(true_N, told_N, ["a", "b", "c"], 200, 0)
    assert figures["accuracy"]["value"] == pytest.approx(4 / 6)
    assert figures["confusion"] == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    each = figures["per_class"]
    assert {name: own["support"] for name, own in each.items()} == {"a": 3, "b": 2, "c": 1}
    for measure, values in (("precision", [2 / 3, 2 / 3, None]), ("recall", [2 / 3, 1, 0]), ("f1", [2 / 3, 0.8, 0])):
        assert [own[measure]["value"] for own in each.values()] == pytest.approx(values)  # c was never told
    assert each["b"]["recall"] == wilson(2, 2)._asdict()
    assert figures["macro_f1"]["value"] == pytest.approx((2 / 3 + 0.8 + 0) / 3)


def test_the_interval_of_macro_f1_is_that_of_texts_drawn_again() -> None:
    from sklearn.metrics import confusion_matrix, f1_score

    rng = np.random.default_rng(1)
    true_N = rng.integers(0, 4, 120)
    told_N = np.where(rng.random(120) < 0.7, true_N, rng.integers(0, 4, 120))
    macro, each = f1_intervals(confusion_matrix(true_N, told_N), 4000, 0)
    assert macro.value == pytest.approx(f1_score(true_N, told_N, average="macro"))
    assert [own.value for own in each] == pytest.approx(f1_score(true_N, told_N, average=None))
    drawn = [rng.integers(0, 120, 120) for _ in range(600)]
    slow_4_B = np.transpose([f1_score(true_N[own], told_N[own], average=None) for own in drawn])
    for found, slow_B, close in ((macro, slow_4_B.mean(axis=0), 0.02), (each[0], slow_4_B[0], 0.03)):
        assert [found.low, found.high] == pytest.approx(np.quantile(slow_B, [0.025, 0.975]).tolist(), abs=close)


def test_a_class_that_a_resample_lacks_does_not_count() -> None:
    macro, each = f1_intervals(np.array([[30, 0], [0, 1]]), 500, 0)
    assert macro == each[1] == (1, 1, 1)


def test_the_nearest_description() -> None:
    documents, descriptions = np.array([[0.6, 0.8], [1, 0], [0, 0]]), np.array([[1.0, 0], [0, 1]])
    assert nearest_description(documents, descriptions).tolist() == [1, 0, 0]


def test_a_probe_learns_what_there_is_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    true_N = np.arange(120) % 2
    noise_N_D = rng.normal(size=(120, 8))
    assert (linear_probe(noise_N_D + 6 * true_N[:, None], true_N, 0) == true_N).all()
    assert 0.25 < (linear_probe(noise_N_D, true_N, 0) == true_N).mean() < 0.75
    assert (linear_probe(noise_N_D, true_N, 3) == linear_probe(noise_N_D, true_N, 3)).all()


def test_tags_that_say_the_class_tell_it() -> None:
    tags = {"good": [["sea"]] * 6 + [["rail"]] * 9, "none": [[]] * 15}
    labels, odd = [*LABELS, "3", None], ["a rare one", "one without a class"]
    tags = {arm: [*own, [], []] for arm, own in tags.items()}
    found = classify(TEXTS + odd, labels, tags, bag_of_words, EVALUATION, 0)
    assert found is not None and (found["texts"], found["classes"]) == (15, ["1", "2"])
    assert found == classify(TEXTS + odd, labels, tags, bag_of_words, EVALUATION, 0)
    rows = {(row["arm"], row["on"], row["method"]): row for row in json.loads(json.dumps(found["rows"]))}
    assert len(rows) == 5 * 2
    for arm, on in (("text", "text"), ("good", "tags"), ("good", "both")):
        for method in ("zero_shot", "linear_probe"):
            assert rows[arm, on, method]["accuracy"]["value"] == 1
    assert rows["none", "tags", "zero_shot"]["confusion"] == [[6, 0], [9, 0]]
    assert rows["none", "tags", "linear_probe"]["accuracy"]["value"] == pytest.approx(9 / 15)  # the larger class


def test_inference(tmp_path: Path) -> None:
    words = ["This", "example", "is", ".", *sorted({word for text in TEXTS for word in text.split()})]
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    name = tiny_classifier(tmp_path / "nli", words, names)
    infer = Inference(name, ["ship sea", "train rail"])
    told_N = infer(["", *TEXTS, TEXTS[0]])
    assert told_N.shape == (17,) and told_N[0] == 0 and told_N[1] == told_N[-1] and set(told_N) <= {0, 1}
    answer = infer.pipeline(TEXTS[0], candidate_labels=["ship sea", "train rail"])
    assert infer.described[told_N[1]] == answer["labels"][0]
    asked = EVALUATION.model_copy(update={"nli": name})
    found = classify(TEXTS, LABELS, {}, bag_of_words, asked, 0)
    assert found is not None
    assert [row["method"] for row in found["rows"]] == ["zero_shot", "nli", "linear_probe"]
    with pytest.raises(UserError, match="Cannot load"):
        Inference(str(tmp_path / "none"), ["a"])


def test_without_two_classes_there_is_no_classification() -> None:
    assert classify(TEXTS, ["1"] * 11 + ["2"] * 4, {}, bag_of_words, EVALUATION, 0) is None
    assert classify(TEXTS, [None] * 15, {}, bag_of_words, EVALUATION, 0) is None
