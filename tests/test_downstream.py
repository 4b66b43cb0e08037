"""Tasks get what the texts came with: labels, questions, titles that several texts share."""

from typing import Any

import numpy as np

from semtag.configs.schema import Evaluation
from semtag.evaluation.corpus import Corpus
from semtag.evaluation.downstream import downstream

KINDS = ("ships", "bread", "stars")
WORDS = {
    "ships": "hull mast sail keel deck",
    "bread": "dough oven flour yeast crust",
    "stars": "sky orbit comet moon sun",
}


def letters(strings: list[str]) -> np.ndarray:
    """An embedding by hand: how often each letter occurs."""
    return np.array([[string.count(chr(97 + place)) for place in range(26)] for string in strings], float) + 1e-3


def corpus_of(count: int, **columns: Any) -> Corpus:
    kinds = [KINDS[place % 3] for place in range(count)]
    texts = [f"{' '.join(WORDS[kind].split()[place % 4 :])} {place}" for place, kind in enumerate(kinds)]
    metas = [{name: of(place, kinds[place]) for name, of in columns.items()} for place in range(count)]
    answers = [{"tags": WORDS[kind].split()[:2], "format": "valid", "score": 0.5} for kind in kinds]
    return Corpus(list(range(count)), texts, metas, dict.fromkeys(("base", "tuned", "base_vote"), answers))


def test_every_task_finds_its_columns() -> None:
    corpus = corpus_of(
        45,
        kind=lambda _, kind: kind,
        asked=lambda place, kind: [f"Which {kind} has number {place}?", None, ""],
        title=lambda place, _: f"title {place}",
    )
    own = Evaluation(label_column="kind", questions_column="asked", resamples=100)
    found = downstream(corpus, own, 0, letters)
    assert (found["search"]["queries"], found["classification"]["classes"]) == (45, sorted(KINDS))
    assert {row["arm"] for row in found["search"]["rows"]} == {"text", "base", "tuned"}
    assert all(row["nmi"]["value"] is not None for row in found["topics"]["rows"])


def test_titles_group_texts_only_where_they_repeat() -> None:
    alone = corpus_of(45, title=lambda place, _: f"title {place}")
    found = downstream(alone, Evaluation(resamples=100), 0, letters)
    assert found["search"] is None and found["classification"] is None
    assert all(row["nmi"]["value"] is None for row in found["topics"]["rows"])
    shared = corpus_of(45, title=lambda _, kind: kind)
    rows = downstream(shared, Evaluation(resamples=100), 0, letters)["topics"]["rows"]
    assert all(row["nmi"]["value"] is not None for row in rows)
