"""Do tags say what class a text is of? By the nearest description, by inference, and by a trained probe.

Suffixes of array names: N texts that have a class, C classes, D embedding dimensions. Classes are their places in the
sorted names; -1 is none.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from semtag.configs.errors import UserError
from semtag.configs.evaluation import Evaluation
from semtag.evaluation.answers import Corpus
from semtag.evaluation.arms import TUNED
from semtag.evaluation.embeddings import Judge
from semtag.evaluation.measures import Lists
from semtag.evaluation.report.records import ClassFigures, Confusion
from semtag.evaluation.rows import Key, Series
from semtag.evaluation.tasks.inputs import strings_of, ways_to_read
from semtag.store.locations import local_folder

FEWEST = 5  # texts of a class
FOLDS = 5
SHOWN = 10  # most frequent confusions

Tell = Callable[[list[str]], np.ndarray]  # documents to their classes, shape [N]


def classify(
    corpus: Corpus, tags: Mapping[str, Lists], judge: Judge, evaluation: Evaluation, seed: int
) -> tuple[list[Series], ClassFigures | None]:
    """Tell the class of each text by each way to read the texts and each method.

    Texts without a class, or of one with fewer than FEWEST texts, are left out. An empty document is told no class,
    which is wrong. A text that people did not label has no value for people. Nothing is told with fewer than two
    classes. Raises UserError where two classes have one description, and when the model of inference cannot be loaded.
    """
    labels = strings_of(corpus, evaluation.label_column)
    counts = Counter(label for label in labels if label is not None)
    classes = sorted(label for label, count in counts.items() if count >= FEWEST)
    if len(classes) < 2:
        return [], None
    kept = [place for place, label in enumerate(labels) if label in classes]
    true = [str(labels[place]) for place in kept]
    methods = dict(_methods(true, classes, judge, evaluation, seed))
    own = {arm: [*map(tags_N.__getitem__, kept)] for arm, tags_N in tags.items()}
    series = []
    for way in ways_to_read([corpus.texts[place] for place in kept], own):
        unlabelled_N = corpus.unlabelled_N(way.arm)[kept]
        for method, tell in methods.items():
            told_N = np.where(unlabelled_N, -1, tell(way.strings))
            told = [classes[place] if place >= 0 else None for place in told_N]
            right_N = [one == other for one, other in zip(true, told, strict=True)]
            key = Key(way.arm, way.input, "classification", method, "accuracy")
            values_N = np.where(unlabelled_N, np.nan, right_N)
            series.append(Series(key, np.array(corpus.ids)[kept], corpus.clusters_N[kept], values_N, told))
    shown = [one for one in series if (one.key.arm, one.key.input) == (TUNED, "tags")][:1]
    return series, ClassFigures(
        texts=len(kept),
        classes=classes,
        most_frequent=max(counts[name] for name in classes) / len(kept),
        confusions=confusions(true, shown[0].labels_N or []) if shown else [],
    )


def confusions(true: Sequence[str], told: Sequence[str | None]) -> list[Confusion]:
    """Count the most frequent pairs of a class and another one that was told in its place; at most SHOWN."""
    pairs = Counter((one, other) for one, other in zip(true, told, strict=True) if other not in (one, None))
    return [Confusion(true=one, told=str(other), texts=count) for (one, other), count in pairs.most_common(SHOWN)]


def _methods(
    true: list[str], classes: list[str], judge: Judge, evaluation: Evaluation, seed: int
) -> Iterator[tuple[str, Tell]]:
    """Yield the methods; those that read descriptions only where each description has a letter.

    A class that is called 3 says nothing to a model, which would tell by chance.
    """
    described = [evaluation.labels.get(label, label) for label in classes]
    twice = [one for one, count in Counter(described).items() if count > 1]
    if twice:
        raise UserError(f"Two classes have the same description: {twice[0]}.", "Change evaluation.labels.")
    if all(any(map(str.isalpha, one)) for one in described):
        yield "zero_shot", lambda documents: nearest(judge.passages(documents), judge.queries(described))
        if evaluation.nli:
            yield "nli", Inference(evaluation.nli, described)
    true_N = np.array([classes.index(label) for label in true])
    yield "linear_probe", lambda documents: linear_probe(judge.passages(documents), true_N, seed)


def nearest(documents_N_D: np.ndarray, descriptions_C_D: np.ndarray) -> np.ndarray:
    """Return the class whose description has the highest cosine with the document, shape [N]; rows have unit length.

    A row of zeros, which is an empty document, is of no class.
    """
    return np.where(documents_N_D.any(axis=1), (documents_N_D @ descriptions_C_D.T).argmax(axis=1), -1)


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
        """Return the class of each document, shape [N]; an empty document is of no class."""
        distinct = [document for document in dict.fromkeys(documents) if document.strip()]
        answers = self.pipeline(distinct, candidate_labels=self.described, batch_size=16) if distinct else []
        best = [self.described.index(answer["labels"][0]) for answer in answers]
        told = dict(zip(distinct, best, strict=True))
        return np.array([told.get(document, -1) for document in documents])


def linear_probe(documents_N_D: np.ndarray, true_N: np.ndarray, seed: int) -> np.ndarray:
    """Return the class that logistic regression gives each document when trained without its fold, shape [N].

    FOLDS stratified folds (Alain and Bengio 2017, arXiv 1610.01644). The strength of the penalty is chosen within the
    training folds. A row of zeros, which is an empty document, is of no class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    probe = GridSearchCV(LogisticRegression(max_iter=1000), {"C": [1, 10]}, cv=3)
    with threadpool_limits(1):  # so little work that threads wait for each other: 30 times as long on a busy machine
        told_N = cross_val_predict(probe, documents_N_D, true_N, cv=folds)
    return np.where(documents_N_D.any(axis=1), told_N, -1)
