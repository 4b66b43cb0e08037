"""Classes by hand: three ways to tell a class, and what is told of nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semtag.configs.errors import UserError
from semtag.configs.evaluation import Evaluation
from semtag.evaluation.report.records import ClassFigures, Confusion
from semtag.evaluation.rows import Key, Rows, by_key
from semtag.evaluation.tasks.classification import Inference, classify, confusions, linear_probe, nearest
from tests.test_search import corpus_of, judge_of_words, tiny_classifier

EVALUATION = Evaluation(labels={"1": "ship sea", "2": "train rail"})
TEXTS = [f"the ship at sea {place}" for place in range(6)] + [f"a train on the rail {place}" for place in range(9)]
LABELS: list[Any] = ["1"] * 6 + ["2"] * 9
GOOD = [["sea"]] * 6 + [["rail"]] * 9


def run(
    texts: list[str], labels: list[Any], tags: dict[str, list[list[str]]], evaluation: Evaluation = EVALUATION
) -> tuple[Rows, ClassFigures | None]:
    series, figures = classify(corpus_of(texts, label=labels), tags, judge_of_words(), evaluation, 0)
    return by_key(series), figures


def key(arm: str, read: Any, method: str) -> Key:
    return Key(arm, read, "classification", method, "accuracy")


def test_the_nearest_description() -> None:
    documents, descriptions = np.array([[0.6, 0.8], [1, 0], [0, 0]]), np.array([[1.0, 0], [0, 1]])
    assert nearest(documents, descriptions).tolist() == [1, 0, -1]


def test_a_probe_learns_what_there_is_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    true_N = np.arange(120) % 2
    noise_N_D = rng.normal(size=(120, 8))
    assert (linear_probe(noise_N_D + 6 * true_N[:, None], true_N, 0) == true_N).all()
    assert 0.3 < (linear_probe(noise_N_D, true_N, 0) == true_N).mean() < 0.7
    assert (linear_probe(noise_N_D, true_N, 3) == linear_probe(noise_N_D, true_N, 3)).all()
    noise_N_D[:7] = 0
    told_N = linear_probe(noise_N_D, true_N, 0)
    assert (told_N[:7] == -1).all() and (told_N[7:] >= 0).all()


def test_confusions_by_hand() -> None:
    true, told = ["a", "a", "a", "b", "b", "c"], ["b", "b", "a", None, "a", "b"]
    found = confusions(true, told)
    assert found[0] == Confusion(true="a", told="b", texts=2)
    assert {(one.true, one.told, one.texts) for one in found[1:]} == {("b", "a", 1), ("c", "b", 1)}
    many = [f"{place}" for place in range(15)]
    assert len(confusions(many, many[::-1])) == 10


def test_tags_that_say_the_class_tell_it() -> None:
    odd = ["a rare one", "one without a class"]
    tags: dict[str, list[list[str]]] = {"tuned": [*GOOD[:5], ["rail"], *GOOD[6:], ["sea"], ["sea"]], "none": [[]] * 17}
    rows, figures = run(TEXTS + odd, [*LABELS, "3", None], tags)
    assert len(rows) == 5 * 2
    for arm, read in (("text", "text"), ("tuned", "both")):
        for method in ("zero_shot", "linear_probe"):
            assert rows[key(arm, read, method)].values_N.all(), (arm, read, method)
    wrong = rows[key("tuned", "tags", "zero_shot")]
    assert wrong.values_N.tolist() == [1] * 5 + [0] + [1] * 9
    assert wrong.labels_N == ["1"] * 5 + ["2"] * 10
    assert wrong.units_N.tolist() == corpus_of(TEXTS).ids
    assert figures == ClassFigures(
        texts=15, classes=["1", "2"], most_frequent=9 / 15, confusions=[Confusion(true="1", told="2", texts=1)]
    )


@pytest.mark.parametrize("method", ["zero_shot", "linear_probe"])
def test_nothing_is_told_of_a_text_without_tags(method: str) -> None:
    rows, _ = run(TEXTS, LABELS, {"none": [[]] * 15, "some": [[], *GOOD[1:]]})
    assert not rows[key("none", "tags", method)].values_N.any()
    assert rows[key("none", "tags", method)].labels_N == [None] * 15
    assert rows[key("none", "both", method)].values_N.all()
    assert rows[key("some", "tags", method)].values_N.tolist() == [0] + [1] * 14


def test_bare_numbers_describe_no_class() -> None:
    for labels in ({}, {"1": "ship"}):
        rows, _ = run(TEXTS, [int(label) for label in LABELS], {}, Evaluation(labels=labels))
        assert [one.method for one in rows] == ["linear_probe"]
    rows, figures = run(TEXTS, ["Schiff"] * 6 + ["火车"] * 9, {}, Evaluation())
    assert [one.method for one in rows] == ["zero_shot", "linear_probe"]
    assert figures is not None and figures.confusions == []


def test_two_classes_of_one_description_are_refused() -> None:
    with pytest.raises(UserError, match=r"same description: 2\.\s+Change evaluation\.labels"):
        run(TEXTS, LABELS, {}, Evaluation(labels={"1": "2"}))  # class 2 has its own name


def test_texts_of_one_article_are_resampled_together() -> None:
    texts = [f"{'ship' if place % 2 else 'train'} {place}" for place in range(60)]
    corpus = corpus_of(texts, label=[text.split()[0] if place >= 20 else None for place, text in enumerate(texts)])
    corpus.articles[:] = [f"article {place // 2}" for place in range(60)]
    series, _ = classify(corpus, {}, judge_of_words(), EVALUATION, 0)
    assert series[0].clusters_N.tolist() == [place // 2 for place in range(20, 60)]


def test_inference(tmp_path: Path) -> None:
    words = ["This", "example", "is", ".", *sorted({word for text in TEXTS for word in text.split()})]
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    name = tiny_classifier(tmp_path / "nli", words, names)
    infer = Inference(name, ["ship sea", "train rail"])
    told_N = infer(["", *TEXTS, TEXTS[0]])
    assert told_N.shape == (17,) and told_N[0] == -1 and told_N[1] == told_N[-1] and set(told_N[1:]) <= {0, 1}
    answer = infer.pipeline(TEXTS[0], candidate_labels=["ship sea", "train rail"])
    assert infer.described[told_N[1]] == answer["labels"][0]
    rows, _ = run(TEXTS, LABELS, {}, EVALUATION.model_copy(update={"nli": name}))
    assert [one.method for one in rows] == ["zero_shot", "nli", "linear_probe"]
    with pytest.raises(UserError, match="Cannot load"):
        Inference(str(tmp_path / "none"), ["a"])


@pytest.mark.parametrize("labels", [["1"] * 11 + ["2"] * 4, [None] * 15, ["1"] * 15])
def test_without_two_classes_there_is_no_classification(labels: list[Any]) -> None:
    assert run(TEXTS, labels, {"tuned": GOOD}) == ({}, None)
