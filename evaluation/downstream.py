"""What tags are good for: search, classification and topics, on texts, on tags, and on both."""

from typing import Any

from semtag.configs.schema import Evaluation
from semtag.evaluation.classification import classify
from semtag.evaluation.corpus import Corpus
from semtag.evaluation.search import search
from semtag.evaluation.topics import topics
from semtag.scoring.similarity import Embed

TRIED = ("base", "tuned", "first_words", "yake", "keybert", "keybert_mmr")  # the arms whose tags are put to use


def downstream(corpus: Corpus, evaluation: Evaluation, seed: int, embed: Embed) -> dict[str, Any]:
    """`search`, `classification` and `topics`, each None where the texts come without what it needs."""
    tags = {arm: corpus.tags(arm) for arm in TRIED if arm in corpus.answers}
    labels = [_as_text(label) for label in corpus.column(evaluation.label_column)]
    titles = [_as_text(title) for title in corpus.column("title")]
    dates = [_as_text(date) for date in corpus.column(evaluation.date_column)]
    questions = corpus.lists(evaluation.questions_column)
    of_articles = 2 * len(set(titles)) <= len(titles)  # else each text has a title of its own
    groups = titles if of_articles and not any(labels) else labels
    return {
        "search": search(corpus.texts, questions, tags, embed, evaluation, seed),
        "classification": classify(corpus.texts, labels, tags, embed, evaluation, seed),
        "topics": topics(corpus.texts, groups, dates, tags, embed, seed),
    }


def _as_text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)
