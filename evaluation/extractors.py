"""Tags without a language model, to hold the tagger against: opening words, YAKE, and KeyBERT's keyphrases."""

from dataclasses import replace
from typing import Any

import pyarrow as pa

from semtag.cluster.progress import Adds, Progress
from semtag.configs.schema import Config
from semtag.generation.parse import answer_of
from semtag.generation.records import from_table, read_candidate, sampled_counts, to_table
from semtag.scoring.pipeline import begin, texts_to_answer, write_scored
from semtag.scoring.scorer import Scorer
from semtag.store.locations import Place

LONGEST = 3  # words of a keyphrase
DIVERSE = {"keybert": False, "keybert_mmr": True}  # KeyBERT's ways, and whether their phrases must differ
OPENING = 2  # words of a tag that is cut off the text's opening


def first_words(text: str, max_tags: int) -> list[str]:
    """The text's opening as tags of `OPENING` words each."""
    words = text.replace("[", " ").replace("]", " ").split()[: OPENING * max_tags]
    return [" ".join(words[at : at + OPENING]) for at in range(0, len(words), OPENING)]


def yake_keyphrases(texts: list[str], max_tags: int) -> list[list[str]]:
    """Keyphrases by the statistics of the text alone (Campos et al. 2020, Information Sciences 509:257)."""
    from yake import KeywordExtractor

    extractor = KeywordExtractor(lan="en", n=LONGEST, top=max_tags)
    return [_phrases(extractor.extract_keywords(text)) for text in texts]


def _phrases(weighted: list[tuple[str, float]]) -> list[str]:
    return [phrase for phrase, _ in weighted]


def keybert_keyphrases(texts: list[str], max_tags: int, model: Any) -> dict[str, list[list[str]]]:
    """The text's phrases whose embeddings are closest to its own; `keybert_mmr`: by maximal marginal relevance.

    `model` is the sentence-transformers model that scores, so these arms maximise the score itself. Embedding the
    phrases takes most of the time, and both ways share it.
    """
    from keybert import KeyBERT

    bert, phrases = KeyBERT(model), dict[str, Any](keyphrase_ngram_range=(1, LONGEST), stop_words="english")
    embeddings = bert.extract_embeddings(texts, **phrases)
    if not embeddings:  # none of the texts has a phrase
        return dict.fromkeys(DIVERSE, [[]] * len(texts))
    phrases |= {"top_n": max_tags, "doc_embeddings": embeddings[0], "word_embeddings": embeddings[1]}
    found = {}
    for way, diverse in DIVERSE.items():
        lists = bert.extract_keywords(texts, use_mmr=diverse, diversity=0.5, **phrases)
        # It takes a list of one text for one text.
        found[way] = [*map(_phrases, [lists] if len(texts) == 1 else lists)]
    return found


class KeyphraseScorer(Scorer):
    """Ray Data actor class: rows whose `decoding` names a way to extract phrases in, scored rows of SAMPLED out."""

    def __init__(self, config: Config, tally: Adds) -> None:
        super().__init__(config.scoring.as_cosine(), tally)
        self.prompt = config.prompt

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = from_table(batch)
        found = self._tags([(text.decoding, text.text) for text in texts])
        answers = [answer_of(found[text.decoding, text.text]) for text in texts]
        done = [
            replace(text, candidates=[read_candidate(self.prompt, 0, answer, "stop")])
            for text, answer in zip(texts, answers, strict=True)
        ]
        self.tally.add(sampled_counts(done))
        return super().__call__(to_table(done))

    def _tags(self, asked: list[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
        """The tags of each text by each way that is asked for."""
        ways, texts = {way for way, _ in asked}, list(dict.fromkeys(text for _, text in asked))
        most = self.prompt.max_tags
        lists = {"first_words": [first_words(text, most) for text in texts]}
        if "yake" in ways:
            lists["yake"] = yake_keyphrases(texts, most)
        if ways & DIVERSE.keys():
            assert self.criteria and self.criteria.embedder
            lists |= keybert_keyphrases(texts, most, self.criteria.embedder.model)
        return {(way, text): tags for way, own in lists.items() for text, tags in zip(texts, own, strict=True)}


def extract_and_score(texts: Place, out: Place, config: Config, names: list[str], progress: Progress) -> None:
    """As `sample_and_score`, with tags that no language model wrote; `names` say which."""
    tally = begin(texts, names, progress)
    rows = texts_to_answer(texts, config, names)
    write_scored(rows, KeyphraseScorer, {"config": config}, out, config, tally, progress)
