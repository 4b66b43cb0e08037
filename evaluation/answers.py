"""The held-out texts with the answer of each arm: read from the pipeline's rows, written for other readers."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from semtag.configs.errors import UserError
from semtag.evaluation.arms import PEOPLE, Arm
from semtag.evaluation.statistics import LEAST_CLUSTERS
from semtag.generation.parse import Format, count_words
from semtag.store.locations import Place
from semtag.store.parquet import RowWriter, read_rows

ANSWER = pa.struct(
    [
        ("arm", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("format", pa.string()),
        ("reason", pa.string()),
        ("completion", pa.string()),
        ("score", pa.float64()),
    ]
)
ANSWERED = pa.schema(
    [
        ("text_id", pa.int64()),
        ("text", pa.string()),
        ("article", pa.string()),
        ("meta", pa.string()),
        ("answers", pa.list_(ANSWER)),
    ]
)


@dataclass(frozen=True)
class Answer:
    """What an arm answered for a text. `tags` are what `semtag tag` delivers, so they may come from a repaired answer.

    `score` is the similarity of tags and text, and null without tags. `missing`: the arm could not answer the text.
    """

    completion: str
    tags: Sequence[str]
    format: Format
    reason: str | None = None
    score: float | None = None
    missing: bool = False

    @property
    def valid(self) -> bool:
        """Whether the answer is well formed as the model wrote it."""
        return self.format == "valid"


@dataclass(frozen=True)
class Corpus:
    """N held-out texts, and the N answers of each arm in their order."""

    ids: list[int]
    texts: list[str]
    articles: list[str | None]
    metas: list[dict[str, Any]]
    answers: dict[str, list[Answer]]

    def tags(self, arm: str) -> list[Sequence[str]]:
        """Return the tags that an arm delivers, shape [N]."""
        return [answer.tags for answer in self.answers[arm]]

    def all_tags(self) -> dict[str, list[Sequence[str]]]:
        """Return the tags of every arm, each of shape [N]."""
        return {arm: self.tags(arm) for arm in self.answers}

    def column(self, name: str) -> list[Any]:
        """Return a column that came with the texts, shape [N]; None where a text has no such value."""
        return [meta.get(name) for meta in self.metas]

    def lists(self, name: str) -> list[list[str]]:
        """Return a column of lists of strings without blank ones, shape [N]; empty where a text has none."""
        return [_strings(own) for own in self.column(name)]

    def unlabelled_N(self, arm: str) -> np.ndarray:
        """Return whether people gave a text no keyphrases, shape [N]. Such a text says nothing of people's tags.

        All false for other arms, because a text that they could not answer counts as malformed.
        """
        people = self.answers[PEOPLE] if arm == PEOPLE else []
        return np.array([answer.missing for answer in people] or [False] * len(self.texts))

    @property
    def by_article(self) -> bool:
        """Whether whole articles are resampled: each text has an article, and there are enough articles."""
        return None not in self.articles and LEAST_CLUSTERS <= len(set(self.articles)) < len(self.texts)

    @property
    def clusters_N(self) -> np.ndarray:
        """Return the cluster of each text, shape [N]: the number of its article, or the text's own number."""
        if not self.by_article:
            return np.arange(len(self.texts))
        numbers = {article: number for number, article in enumerate(dict.fromkeys(self.articles))}
        return np.array([numbers[article] for article in self.articles])


def _strings(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str) and one.strip()] if isinstance(value, list) else []


def read_corpus(scratch: Place, arms: Sequence[Arm]) -> Corpus:
    """Read the answers, which lie in a folder of `scratch` for each model.

    A text that an arm could not answer counts as malformed for that arm, so that no arm chooses its own texts.
    Raises UserError where no arm could answer any text.
    """
    texts: dict[int, dict[str, Any]] = {}
    answers: dict[tuple[int, str], Answer] = {}
    for model in dict.fromkeys(arm.model for arm in arms):
        for row in read_rows(scratch / model):
            texts.setdefault(row["text_id"], row)
            answers[row["text_id"], row["decoding"]] = answer_of(row)
    if all(answer.missing for answer in answers.values()):
        raise UserError("No held-out text could be answered.", "See the log; shorten the texts.")
    ids = sorted(texts)
    lost = Answer("", (), "invalid", "missing", missing=True)

    def of_arm(name: str) -> list[Answer]:
        return [answers.get((id_, name), lost) for id_ in ids]

    return Corpus(
        ids=ids,
        texts=[texts[id_]["text"] for id_ in ids],
        articles=[texts[id_]["article"] for id_ in ids],
        metas=[json.loads(texts[id_]["meta"]) for id_ in ids],
        answers={arm.name: of_arm(arm.name) for arm in arms},
    )


def answer_of(row: dict[str, Any]) -> Answer:
    """Return the answer that a row of schema SAMPLED holds: the candidate of the highest score."""
    if not row["candidates"]:
        return Answer("", (), "invalid", row["reason"], missing=True)
    best = row["candidates"][0]
    return Answer(**{name: best[name] for name in ("completion", "tags", "format", "reason", "score")})


def write_corpus(corpus: Corpus, file: Place) -> None:
    """Write a row of schema ANSWERED for each text."""
    with RowWriter(file, ANSWERED) as out:
        for place, id_ in enumerate(corpus.ids):
            out.write(
                {
                    "text_id": id_,
                    "text": corpus.texts[place],
                    "article": corpus.articles[place],
                    "meta": json.dumps(corpus.metas[place], ensure_ascii=True),
                    "answers": [{"arm": arm} | vars(own[place]) for arm, own in corpus.answers.items()],
                }
            )


def cut_to_words(tags: Iterable[str], most: int) -> list[str]:
    """Return the first tags that have at most `most` words together; the last one may lose its last words.

    Example: `["steam engine", "James Watt"]` cut to 3 words becomes `["steam engine", "James"]`.
    """
    found: list[str] = []
    for tag in tags:
        words = tag.split()[:most]
        most -= len(words)
        if words:
            found.append(" ".join(words))
    return found


def cut_like(answers: Sequence[Answer], budgets: Sequence[Answer]) -> list[Answer]:
    """Return answers that have at most as many words as the answers of another arm, shape [N]; without scores."""
    cut = [cut_to_words(own.tags, count_words(other.tags)) for own, other in zip(answers, budgets, strict=True)]
    return [replace(own, tags=tags, score=None) for own, tags in zip(answers, cut, strict=True)]
