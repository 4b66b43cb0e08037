"""The held-out texts with what every arm answered: read from the pipeline's rows, written for whoever reads on."""

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cluster.parquet import RowWriter, read_rows
from cluster.places import Place
from configs.errors import UserError
from configs.schema import Evaluation
from evaluation.metrics import Answers, scores_of, valid_of
from generation.records import TEXT
from generation.texts import hash64

Record = dict[str, Any]


class Arm(NamedTuple):
    """A way to get tags: a model (or none) and how it is asked."""

    name: str
    model: str
    decoding: str
    means: str


ARMS = (
    Arm("base", "base", "sampled", "the base model, one sample a text"),
    Arm("base_greedy", "base", "greedy", "the base model, the likeliest token each time"),
    Arm("base_constrained", "base", "constrained", "the base model, sampled within the form of a tag list"),
    Arm("base_few_shot", "base", "few_shot", "the base model, sampled, shown examples with well-scored answers"),
    Arm("base_vote", "base", "vote", "the base model, the tags that most of several samples name"),
    Arm("tuned", "tuned", "sampled", "the tuned model, one sample a text"),
    Arm("tuned_greedy", "tuned", "greedy", "the tuned model, the likeliest token each time"),
    Arm("tuned_constrained", "tuned", "constrained", "the tuned model, sampled within the form of a tag list"),
    Arm("tuned_vote", "tuned", "vote", "the tuned model, the tags that most of several samples name"),
    Arm("first_words", "keyphrases", "first_words", "the first words of the text"),
    Arm("yake", "keyphrases", "yake", "YAKE, keyphrases by the statistics of the text"),
    Arm("keybert", "keyphrases", "keybert", "KeyBERT, the text's phrases that the scoring model finds closest"),
)
ALWAYS = ("base", "base_greedy", "tuned", "tuned_greedy")
EXAMPLE_WORDS = 60  # of the texts that a prompt shows; long ones would leave the text itself no room

ANSWERED = pa.schema(
    [
        ("text_id", pa.int64()),
        ("text", pa.string()),
        ("meta", pa.string()),
        (
            "answers",
            pa.list_(
                pa.struct(
                    [
                        ("arm", pa.string()),
                        ("tags", pa.list_(pa.string())),
                        ("format", pa.string()),
                        ("reason", pa.string()),
                        ("completion", pa.string()),
                        ("score", pa.float64()),
                    ]
                )
            ),
        ),
    ]
)


@dataclass(frozen=True)
class Corpus:
    """N texts, and the N answers of each arm in their order, as candidates of schema CANDIDATE."""

    ids: list[int]
    texts: list[str]
    metas: list[Record]
    answers: dict[str, list[Record]]

    def both(self, decoding: str) -> Answers:
        """Base and tuned under a decoding of both."""
        names = {arm.model: arm.name for arm in ARMS if arm.decoding == decoding}
        return Answers(self.texts, self.answers[names["base"]], self.answers[names["tuned"]])

    def valid(self, arm: str) -> np.ndarray:
        """Whether each answer is valid, shape [N] bool."""
        return valid_of(self.answers[arm])

    def scores(self, arm: str) -> np.ndarray:
        """Score of each answer with malformed ones at 0, shape [N]."""
        return scores_of(self.answers[arm])

    def tags(self, arm: str) -> list[list[str]]:
        """The tags that an arm delivers, those of repaired answers included."""
        return [answer["tags"] for answer in self.answers[arm]]

    def column(self, name: str) -> list[Any]:
        """A column that came with the texts; None where a text has none."""
        return [meta.get(name) for meta in self.metas]

    def lists(self, name: str) -> list[list[str]]:
        """A column of lists of strings, without blank ones; empty where a text has none."""
        return [
            [one for one in own if isinstance(one, str) and one.strip()] if isinstance(own, list) else []
            for own in self.column(name)
        ]


def arms_of(evaluation: Evaluation) -> list[Arm]:
    """The arms of an evaluation, in the order of the report; YAKE, which is under the GPL, only where it is there."""
    wanted = {*ALWAYS, *evaluation.arms} - (set() if find_spec("yake") else {"yake"})
    return [arm for arm in ARMS if arm.name in wanted]


def choose_texts(held_out: Place, chosen: Place, most: int | None, seed: int) -> int:
    """Write the held-out texts to answer: all, or `most` of them by hash; returns their number."""
    ids = np.fromiter((row["text_id"] for row in read_rows(held_out, ["text_id"])), dtype=np.int64)
    if not len(ids):
        raise UserError("No text is held out, so there is nothing to evaluate on.", "Raise data.held_out.")
    hashes = np.fromiter((hash64("evaluate", seed, id_) for id_ in ids.tolist()), dtype=np.int64)
    kept = set(ids[np.argsort(hashes)[: most or len(ids)]].tolist())
    with RowWriter(chosen, TEXT) as out:
        for row in read_rows(held_out):
            if row["text_id"] in kept:
                out.write(row)
    return len(kept)


def best_examples(ranked: Place, count: int) -> list[tuple[str, str]]:
    """The openings of the `count` texts whose best answers score highest and are valid, each with that answer."""

    def scored() -> Iterator[tuple[float, str, str]]:
        for row in read_rows(ranked, ["text", "candidates"]):
            best = row["candidates"][0] if row["candidates"] else None
            if best and best["format"] == "valid" and best["score"] is not None:
                yield best["score"], " ".join(row["text"].split()[:EXAMPLE_WORDS]), best["answer"]

    return [(text, answer) for _, text, answer in heapq.nlargest(count, scored())]


def read_corpus(scratch: Place, arms: list[Arm]) -> Corpus:
    """The answers that lie in a folder of `scratch` for each model; those of an arm that failed count as malformed.

    A text that base and tuned model did not both answer, sampled and greedy, is left out.
    """
    names = {(arm.model, arm.decoding): arm.name for arm in arms}
    rows: dict[int, Record] = {}
    for model in dict.fromkeys(arm.model for arm in arms):
        for row in read_rows(scratch / model):
            own = rows.setdefault(row["text_id"], {"text": row["text"], "meta": row["meta"], "answers": {}})
            own["answers"][names[model, row["decoding"]]] = row["candidates"][0] if row["candidates"] else _missing(row)
    kept = [
        id_
        for id_, row in sorted(rows.items())
        if all("missing" not in row["answers"].get(name, {"missing": True}) for name in ALWAYS)
    ]
    if not kept:
        raise UserError("No held-out text could be answered by both models.", "See the log; shorten the texts.")
    return Corpus(
        ids=kept,
        texts=[rows[id_]["text"] for id_ in kept],
        metas=[json.loads(rows[id_]["meta"]) for id_ in kept],
        answers={arm.name: [rows[id_]["answers"][arm.name] for id_ in kept] for arm in arms},
    )


def _missing(row: Record) -> Record:
    return {"missing": True, "completion": "", "tags": [], "format": "invalid", "reason": row["reason"], "score": None}


def write_corpus(corpus: Corpus, file: Place) -> None:
    """A row a text, of schema ANSWERED."""
    with RowWriter(file, ANSWERED) as out:
        for place, id_ in enumerate(corpus.ids):
            answers = [{"arm": arm} | own[place] for arm, own in corpus.answers.items()]
            meta = json.dumps(corpus.metas[place], ensure_ascii=True)
            out.write({"text_id": id_, "text": corpus.texts[place], "meta": meta, "answers": answers})
