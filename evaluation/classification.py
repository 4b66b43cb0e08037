"""Do tags say what class a text belongs to? By the nearest description, by inference, and by a trained probe.

Shapes: N texts that have a class, C classes, D embedding dimensions. Classes are their places in the sorted names.
"""

from collections import Counter
from typing import Any

import numpy as np

from semtag.configs.errors import UserError
from semtag.configs.schema import Evaluation
from semtag.evaluation.documents import RESAMPLES, TagLists, directions_of, ways_to_read
from semtag.evaluation.statistics import Interval, percentiles, wilson
from semtag.scoring.similarity import Embed
from semtag.store.locations import local_folder

FEWEST = 5  # texts of a class
FOLDS = 5


def classify(
    texts: list[str],
    labels: list[str | None],
    tags: dict[str, TagLists],
    embed: Embed,
    evaluation: Evaluation,
    seed: int,
) -> dict[str, Any] | None:
    """How well the class of each text is told; None with fewer than two classes of at least FEWEST texts.

    Texts without a class, or of a smaller one, are left out. A row for each way to read the texts and each method.
    """
    counts = Counter(label for label in labels if label is not None)
    classes = sorted(label for label, count in counts.items() if count >= FEWEST)
    if len(classes) < 2:
        return None
    kept = [place for place, label in enumerate(labels) if label in classes]
    true_N = np.array([classes.index(str(labels[place])) for place in kept])
    directions, described = directions_of(embed), [evaluation.labels.get(label, label) for label in classes]
    own = {arm: [tags_N[place] for place in kept] for arm, tags_N in tags.items()}
    infer = Inference(evaluation.nli, described) if evaluation.nli else None
    rows = []
    for arm, on, documents in ways_to_read([texts[place] for place in kept], own):
        told = {"zero_shot": nearest_description(directions(documents), directions(described))}
        if infer:
            told["nli"] = infer(documents)
        told["linear_probe"] = linear_probe(directions(documents), true_N, seed)
        for method, told_N in told.items():
            figures = figures_of(true_N, told_N, classes, min(evaluation.resamples, RESAMPLES), seed)
            rows.append({"arm": arm, "on": on, "method": method} | figures)
    return {"texts": len(kept), "classes": classes, "rows": rows}


def nearest_description(documents_N_D: np.ndarray, descriptions_C_D: np.ndarray) -> np.ndarray:
    """The class whose description has the highest cosine with the document, shape [N]; rows have unit length.

    A document of zeros, a text without tags, is as near to all and told to be of the first class.
    """
    return (documents_N_D @ descriptions_C_D.T).argmax(axis=1)


class Inference:
    """Classes by natural language inference: which hypothesis, `This example is CLASS.`, does the document entail most?

    Yin et al. 2019, arXiv 1909.00161. Raises UserError when the model cannot be loaded.
    """

    def __init__(self, name: str, described: list[str]) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

        self.described = described
        try:
            folder = local_folder(name)
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self.pipeline = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer)
        except (OSError, ValueError) as error:
            what = f"Cannot load the model of inference {name}: {str(error).splitlines()[0]}"
            raise UserError(what, "Check evaluation.nli.") from None

    def __call__(self, documents: list[str]) -> np.ndarray:
        """The class of each document, shape [N]; an empty one is told to be of the first."""
        distinct = [document for document in dict.fromkeys(documents) if document.strip()]
        answers = self.pipeline(distinct, candidate_labels=self.described, batch_size=16) if distinct else []
        best = {
            document: self.described.index(answer["labels"][0])
            for document, answer in zip(distinct, answers, strict=True)
        }
        return np.array([best.get(document, 0) for document in documents])


def linear_probe(documents_N_D: np.ndarray, true_N: np.ndarray, seed: int) -> np.ndarray:
    """The class that logistic regression gives each document when trained without its fold, shape [N].

    Stratified folds, FOLDS or as many as the smallest class has texts (Alain and Bengio 2017, arXiv 1610.01644).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    folds = StratifiedKFold(min(FOLDS, int(np.bincount(true_N).min())), shuffle=True, random_state=seed)
    probe = LogisticRegression(max_iter=1000)
    with threadpool_limits(1):  # so little work that threads wait for each other: 30 times as long on a busy machine
        return np.asarray(cross_val_predict(probe, documents_N_D, true_N, cv=folds))


def figures_of(true_N: np.ndarray, told_N: np.ndarray, classes: list[str], resamples: int, seed: int) -> dict[str, Any]:
    """Accuracy, macro F1 and each class's figures with their intervals, and the confusions: row true, column told."""
    from sklearn.metrics import confusion_matrix

    confusion_C_C = confusion_matrix(true_N, told_N, labels=range(len(classes)))
    hits_C, true_C, told_C = confusion_C_C.diagonal(), confusion_C_C.sum(axis=1), confusion_C_C.sum(axis=0)
    macro, f1_C = f1_intervals(confusion_C_C, resamples, seed)
    return {
        "accuracy": wilson(int(hits_C.sum()), len(true_N))._asdict(),
        "macro_f1": macro._asdict(),
        "per_class": {
            name: {
                "precision": wilson(int(hits_C[place]), int(told_C[place]))._asdict(),
                "recall": wilson(int(hits_C[place]), int(true_C[place]))._asdict(),
                "f1": f1_C[place]._asdict(),
                "support": int(true_C[place]),
            }
            for place, name in enumerate(classes)
        },
        "confusion": confusion_C_C.tolist(),
    }


def f1_intervals(confusion_C_C: np.ndarray, resamples: int, seed: int) -> tuple[Interval, list[Interval]]:
    """Mean over classes of F1, and each class's own, with percentile bootstrap intervals over texts (Efron 1979).

    Texts drawn with replacement are cells of the confusion matrix drawn from a multinomial distribution, which is
    quicker. A class that a resample lacks, true and told, does not count in it.
    """
    true_K, told_K = np.nonzero(confusion_C_C)
    counts_K = confusion_C_C[true_K, told_K]
    draws_B_K = np.random.default_rng(seed).multinomial(counts_K.sum(), counts_K / counts_K.sum(), size=resamples)
    value_C = _f1(counts_K[None], true_K, told_K, len(confusion_C_C))[0]
    drawn_B_C = _f1(draws_B_K, true_K, told_K, len(confusion_C_C))
    macro = percentiles(np.nanmean(value_C), np.nanmean(drawn_B_C, axis=1))
    return macro, [percentiles(*own) for own in zip(value_C, drawn_B_C.T, strict=True)]


def _f1(counts_B_K: np.ndarray, true_K: np.ndarray, told_K: np.ndarray, classes: int) -> np.ndarray:
    """F1 of each class for each row of counts of the cells (true, told), [B, C]: 2 hits / (true ones + told ones).

    nan for a class of which a row has none, true or told.
    """
    true_K_C, told_K_C = np.eye(classes)[true_K], np.eye(classes)[told_K]
    hits_B_C, all_B_C = counts_B_K @ (true_K_C * told_K_C), counts_B_K @ (true_K_C + told_K_C)
    return np.divide(2 * hits_B_C, all_B_C, out=np.full_like(hits_B_C, np.nan), where=all_B_C > 0)
