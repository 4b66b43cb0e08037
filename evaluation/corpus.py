"""The held-out texts with what every arm answered: read from the pipeline's rows, written for whoever reads on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.generation.decoding import Decoding, greedy, read_examples, sampled
from semtag.generation.records import TEXT
from semtag.store.hashing import hash64
from semtag.store.locations import Place
from semtag.store.parquet import RowWriter, read_rows

Record = dict[str, Any]


class Arm(NamedTuple):
    """A way to get tags: a model, or none, and how it is asked."""

    name: str
    model: str
    means: str
    decoding: Decoding | None = None


ALWAYS = ("base", "tuned")
KEYPHRASES = "keyphrases"  # the model of the arms that have none


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


def valid_of(answers: list[Record]) -> np.ndarray:
    """Whether each answer is valid, shape [N] bool. Repaired answers are malformed ones."""
    return np.array([answer["format"] == "valid" for answer in answers], dtype=bool)


def scores_of(answers: list[Record]) -> np.ndarray:
    """Score of each answer with malformed ones at 0, shape [N]."""
    return np.array([answer["score"] if answer["format"] == "valid" else 0.0 for answer in answers], dtype=float)


def arms_of(config: Config, others: Sequence[int]) -> list[Arm]:
    """The arms of an evaluation, in the order of the report; `others` are the trained rounds that did not deliver.

    The base model is asked as well as can be without training: within the grammar and after the prompt's examples,
    where it has some. YAKE, which is under the GPL, is there only where it is installed.
    """
    shown, votes = read_examples(config.prompt), config.evaluation.votes
    how = "after the prompt's examples and within the grammar" if shown else "by the plain prompt"
    best = greedy(config, "base", constrained=bool(shown), examples=shown)
    vote = sampled(config, "base_vote", votes, constrained=bool(shown), vote=True, examples=shown)
    by_rounds = [
        Arm(name, name, f"the model of {name.replace('_', ' ')}, greedily, by the plain prompt", greedy(config, name))
        for name in (f"round_{number}" for number in others)
    ]
    fenced = greedy(config, "tuned_constrained", constrained=True)
    arms = [
        Arm("base", "base", f"the untouched model, greedily, {how}", best),
        Arm("base_plain", "base", "the untouched model, greedily, by the plain prompt", greedy(config, "base_plain")),
        Arm("base_vote", "base", f"the untouched model, a vote over samples, {how}", vote),
        *by_rounds,
        Arm("tuned", "tuned", "the tagger as delivered: greedily, by the plain prompt", greedy(config, "tuned")),
        Arm("tuned_constrained", "tuned", "the tagger, greedily, within the grammar", fenced),
        Arm("tuned_vote", "tuned", "the tagger, a vote over samples", sampled(config, "tuned_vote", votes, vote=True)),
        Arm("first_words", KEYPHRASES, "the first words of the text"),
        Arm("yake", KEYPHRASES, "YAKE, keyphrases by the statistics of the text"),
        Arm("keybert", KEYPHRASES, "KeyBERT, the text's phrases that the scoring model finds closest"),
        Arm("keybert_mmr", KEYPHRASES, "KeyBERT, phrases that are close to the text and unlike each other"),
    ]
    wanted = {*ALWAYS, *config.evaluation.arms} - (set() if find_spec("yake") else {"yake"})
    return [arm for arm in arms if arm.name in wanted or ("rounds" in wanted and arm.name == arm.model)]


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


def read_corpus(scratch: Place, arms: list[Arm]) -> Corpus:
    """The answers that lie in a folder of `scratch` for each model; those of an arm that failed count as malformed.

    A text that base and tuned model did not both answer is left out.
    """
    rows: dict[int, Record] = {}
    for model in dict.fromkeys(arm.model for arm in arms):
        for row in read_rows(scratch / model):
            own = rows.setdefault(row["text_id"], {"text": row["text"], "meta": row["meta"], "answers": {}})
            own["answers"][row["decoding"]] = answer_of(row)
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


def answer_of(row: Record) -> Record:
    """The answer that a row of schema SAMPLED holds; a malformed one where the text could not be sampled."""
    if row["candidates"]:
        return row["candidates"][0]
    return {"missing": True, "completion": "", "tags": [], "format": "invalid", "reason": row["reason"], "score": None}


def write_corpus(corpus: Corpus, file: Place) -> None:
    """A row a text, of schema ANSWERED."""
    with RowWriter(file, ANSWERED) as out:
        for place, id_ in enumerate(corpus.ids):
            answers = [{"arm": arm} | own[place] for arm, own in corpus.answers.items()]
            meta = json.dumps(corpus.metas[place], ensure_ascii=True)
            out.write({"text_id": id_, "text": corpus.texts[place], "meta": meta, "answers": answers})
