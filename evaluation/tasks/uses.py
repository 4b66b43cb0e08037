"""What tags are good for: search, classification and topics, on texts, on tags, and on both."""

from collections.abc import Mapping
from typing import NamedTuple

from semtag.configs.evaluation import Evaluation
from semtag.evaluation.answers import Corpus
from semtag.evaluation.arms import BASE, CUT, TUNED
from semtag.evaluation.embeddings import Judge
from semtag.evaluation.estimates import Planned
from semtag.evaluation.measures import Lists
from semtag.evaluation.report.records import ClassFigures, Topics
from semtag.evaluation.rows import Key, Rows, Series
from semtag.evaluation.tasks.classification import classify
from semtag.evaluation.tasks.inputs import strings_of
from semtag.evaluation.tasks.search import search
from semtag.evaluation.tasks.topics import Groups, find_topics

TRIED = (BASE, TUNED, *CUT)  # the arms whose tags are put to use
COMPARED = {"search": "ndcg_at_10", "classification": "accuracy"}  # the measure of each task that is tested


class Uses(NamedTuple):
    """All that the uses found; what the texts came without is empty or None."""

    series: list[Series]
    classification: ClassFigures | None
    topics: Topics | None


def put_to_use(corpus: Corpus, tags: Mapping[str, Lists], judge: Judge, evaluation: Evaluation, seed: int) -> Uses:
    """Put the tags of the arms of TRIED to use; topics are found for those of `base` and `tuned` alone.

    Raises UserError where two classes have one description, and when a model of evaluation.* cannot be loaded.
    """
    tried = {arm: tags[arm] for arm in TRIED if arm in tags}
    told, classes = classify(corpus, tried, judge, evaluation, seed)
    both = {arm: own for arm, own in tried.items() if arm in (BASE, TUNED)}
    clustered, topics = find_topics(corpus, groups_of(corpus, evaluation), both, judge, seed)
    return Uses([*search(corpus, tried, judge, evaluation), *told, *clustered], classes, topics)


def groups_of(corpus: Corpus, evaluation: Evaluation) -> Groups:
    """Return the labels of the texts, or else their titles where two texts or more share one, as a mean."""
    labels, titles = strings_of(corpus, evaluation.label_column), strings_of(corpus, "title")
    if any(labels):
        return Groups("labels", labels)
    known = [title for title in titles if title is not None]
    shared = 0 < 2 * len(set(known)) <= len(known)
    return Groups("titles", titles) if shared else Groups("", [None] * len(titles))


def planned_uses(rows: Rows) -> list[Planned]:
    """Return the contrasts of the family `uses`: the tagger with the untrained model, and what tags add to the text."""
    planned = []
    for which in dict.fromkeys(key[2:] for key in rows if COMPARED.get(key.task) == key.measure):
        planned.append(Planned("uses", Key(TUNED, "tags", *which), Key(BASE, "tags", *which)))
        planned.append(Planned("uses", Key(TUNED, "both", *which), Key("text", "text", *which)))
    return planned
