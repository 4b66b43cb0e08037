"""Tags without a language model, to hold the tagger against: opening words, YAKE, and KeyBERT's keyphrases."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from configs.schema import Config
from generation.parse import answer_of
from generation.records import SAMPLED, candidate_row, sampled_counts
from scoring.embedder import Scorer

if TYPE_CHECKING:
    from cluster.session import Tally

LONGEST = 3  # words of a keyphrase
OPENING = 2  # words of a tag that is cut off the text's opening


def first_words(text: str, max_tags: int) -> list[str]:
    """The text's opening as tags of `OPENING` words each."""
    words = text.replace("[", " ").replace("]", " ").split()[: OPENING * max_tags]
    return [" ".join(words[at : at + OPENING]) for at in range(0, len(words), OPENING)]


def yake_keyphrases(texts: list[str], max_tags: int) -> list[list[str]]:
    """Keyphrases by the statistics of the text alone (Campos et al. 2020, Information Sciences 509:257)."""
    from yake import KeywordExtractor

    extractor = KeywordExtractor(lan="en", n=LONGEST, top=max_tags)
    return [[phrase for phrase, _ in extractor.extract_keywords(text)] for text in texts]


def keybert_keyphrases(texts: list[str], max_tags: int, model: Any, diverse: bool) -> list[list[str]]:
    """The text's phrases whose embeddings are closest to its own; if `diverse`, by maximal marginal relevance.

    `model` is the sentence-transformers model that scores, so this arm maximises the score itself.
    """
    from keybert import KeyBERT

    found = KeyBERT(model).extract_keywords(
        texts, keyphrase_ngram_range=(1, LONGEST), stop_words="english", use_mmr=diverse, diversity=0.5, top_n=max_tags
    )
    lists = [found] if len(texts) == 1 else found  # it takes a list of one text for one text
    return [[phrase for phrase, _ in own] for own in lists]


class KeyphraseScorer(Scorer):
    """Ray Data actor class: rows whose `decoding` names a way to extract phrases in, scored rows of SAMPLED out."""

    def __init__(self, config: Config, tally: "Tally") -> None:
        super().__init__(config.scoring, tally)
        self.prompt = config.prompt

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        for decoding in {row["decoding"] for row in rows}:
            own = [row for row in rows if row["decoding"] == decoding]
            for row, tags in zip(own, self._tags(decoding, [row["text"] for row in own]), strict=True):
                answer = answer_of(tags)
                row |= {"prompt": [], "candidates": [candidate_row(self.prompt, 0, answer, "stop", None, None, None)]}
        self.tally.add(sampled_counts(rows))
        return super().__call__(pa.Table.from_pylist(rows, SAMPLED))

    def _tags(self, decoding: str, texts: list[str]) -> list[list[str]]:
        most = self.prompt.max_tags
        if decoding == "yake":
            return yake_keyphrases(texts, most)
        if decoding in ("keybert", "keybert_mmr"):
            assert self.embedder is not None
            return keybert_keyphrases(texts, most, self.embedder.model, diverse=decoding == "keybert_mmr")
        return [first_words(text, most) for text in texts]
