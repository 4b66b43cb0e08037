"""What tags say about their text: form, words, who finds the text by them. Each measure is a value a text.

Suffixes of array names: N texts, D embedding dimensions. Words are case-folded runs of letters and digits; a letter of
a script without spaces, such as Chinese or Thai, is a word of its own. Stems are those of Porter's second English
stemmer, which leaves other scripts as they are.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache, lru_cache
from itertools import permutations
from typing import Any, Literal, NamedTuple

import numpy as np

from semtag.evaluation.answers import Answer
from semtag.evaluation.embeddings import Judge
from semtag.scoring.similarity import tag_string

LIKE = 10  # nearest neighbours among which a text is looked for
LONG = 5  # words in a row that a tag copies; keyphrases of people rarely have as many
# Thai, Lao, Burmese, Khmer, Japanese and Chinese have no spaces between words. Marks that are no letters to Python,
# such as vowels of Hindi, belong to their word.
_SPACELESS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_MARKS = r"\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_WORD = re.compile(f"[{_SPACELESS}]|(?:[^\\W_{_SPACELESS}][{_MARKS}]*)+")

Tags = Sequence[str]
Lists = Sequence[Tags]


class Measure(NamedTuple):
    """What a measure means, how its numbers are written, whether they lie in [0, 1], and which way is better."""

    means: str
    kind: Literal["percent", "figure", "number"] = "figure"
    bounded: bool = True
    higher_is_better: bool = True


MEASURES = {
    "well_formed": Measure("share of answers that are well formed as the model wrote them", "percent"),
    "covered": Measure("share of texts that get a tag, from repaired answers too", "percent"),
    "similarity": Measure("cosine of tags and text by the scoring model, 0 without tags", bounded=False),
    "found_by_words": Measure("reciprocal rank of the text when BM25 looks for its tags among all texts"),
    "found_by_meaning": Measure("reciprocal rank of the text when the judge looks for its tags among all texts"),
    "found_among_like": Measure(f"the same among the text and its {LIKE} nearest neighbours"),
    "words": Measure("words of an answer", "number", bounded=False, higher_is_better=False),
    "copied_share": Measure(
        "share of the tags' words whose stems stand in the text", "percent", higher_is_better=False
    ),
    "inflected": Measure("share of the tags' words that the text has in another form alone", "percent", True, False),
    "adjoining": Measure("share of the tags that stand in the text right beside another tag", "percent", True, False),
    "long_runs": Measure(f"share of the tags that copy {LONG} words in a row or more", "percent", True, False),
    "repeated": Measure("share of the other texts that get the same tag, as a mean over tags", "percent", True, False),
    "present_f1_at_5": Measure("F1 of the first five tags and the keyphrases that stand in the text"),
    "present_f1_at_m": Measure("F1 of all tags and the keyphrases that stand in the text"),
    "absent_f1_at_5": Measure("F1 of the first five tags and the keyphrases that do not stand in the text"),
    "absent_f1_at_m": Measure("F1 of all tags and the keyphrases that do not stand in the text"),
    "f1_at_5": Measure("F1 of the first five tags and all keyphrases"),
    "f1_at_m": Measure("F1 of all tags and all keyphrases"),
    "ndcg_at_10": Measure("nDCG@10"),
    "recall_at_10": Measure("recall@10", "percent"),
    "map": Measure("mean average precision"),
    "accuracy": Measure("share of texts whose class is told", "percent"),
}
TAGS = tuple(MEASURES)[:12]  # the measures of `measure`


def measure(
    texts: Sequence[str], answers: Sequence[Answer], judge: Judge, search: "WordSearch"
) -> dict[str, np.ndarray]:
    """Measure the delivered tags of N texts, each measure of shape [N]. `search` is the index of the texts."""
    tags = [answer.tags for answer in answers]

    def each(of: Callable[[str, Tags], float]) -> np.ndarray:
        return np.array([of(text, own) for text, own in zip(texts, tags, strict=True)], dtype=float)

    by_meaning, among_like = found_by_meaning(texts, tags, judge)
    found = {
        "well_formed": np.array([answer.valid for answer in answers], dtype=float),
        "covered": np.array([bool(own) for own in tags], dtype=float),
        "similarity": np.array([answer.score or 0.0 for answer in answers], dtype=float),
        "found_by_words": found_by_words(search, tags),
        "found_by_meaning": by_meaning,
        "found_among_like": among_like,
        "words": each(lambda _, own: len(words_of_all(own))),
        "copied_share": each(copied_share),
        "inflected": each(inflected),
        "adjoining": each(adjoining),
        "long_runs": each(long_runs),
        "repeated": repeated(tags),
    }
    assert tuple(found) == TAGS
    return found


# -- words --------------------------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """Return the words of a text, in order."""
    return _WORD.findall(text.casefold())


def words_of_all(tags: Tags) -> list[str]:
    """Return the words of all tags, in order."""
    return [word for tag in tags for word in words_of(tag)]


@cache
def _stemmer() -> Any:
    import Stemmer

    return Stemmer.Stemmer("english")


@lru_cache(maxsize=2**14)  # each text is asked for by several measures of each arm
def stems_of(text: str) -> tuple[str, ...]:
    """Return the stems of a text's words, in order."""
    return tuple(_stemmer().stemWords(words_of(text)))


def copied_share(text: str, tags: Tags) -> float:
    """Compute the share of the tags' words whose stems stand in the text, in [0, 1]; 0 without words."""
    own, said = set(stems_of(text)), [stem for tag in tags for stem in stems_of(tag)]
    return sum(stem in own for stem in said) / len(said) if said else 0.0


def inflected(text: str, tags: Tags) -> float:
    """Compute the share of the tags' words that the text has in another form alone, in [0, 1]; 0 without words.

    Example: `engines` of a text that says `engine`. An adverse tagger so hides what it copies.
    """
    words, stems, said = set(words_of(text)), set(stems_of(text)), words_of_all(tags)
    own = [word not in words and stem in stems for word, stem in zip(said, _stemmer().stemWords(said), strict=True)]
    return sum(own) / len(own) if own else 0.0


def adjoining(text: str, tags: Tags) -> float:
    """Compute the share of the tags that stand in the text right beside another tag, in [0, 1]; 0 without tags.

    Example: 1 for `the steam` and `engine drove` of `The steam engine drove the mill`, which is cut up and not tagged.
    """
    own, said = _spaced(stems_of(text)), [stems_of(tag) for tag in tags]
    pairs = [(one, other) for one, other in permutations(range(len(said)), 2) if said[one] and said[other]]
    beside = {place for pair in pairs if _spaced(said[pair[0]] + said[pair[1]]) in own for place in pair}
    return len(beside) / len(tags) if tags else 0.0


def _spaced(words: Sequence[str]) -> str:
    return f" {' '.join(words)} "


def long_runs(text: str, tags: Tags) -> float:
    """Compute the share of the tags that copy LONG words in a row or more, in [0, 1]; 0 without tags."""
    own = stems_of(text)
    return sum(longest_run(own, stems_of(tag)) >= LONG for tag in tags) / len(tags) if tags else 0.0


def longest_run(text: Sequence[str], tag: Sequence[str]) -> int:
    """Return the length of the longest run of words that both have."""
    return SequenceMatcher(None, text, tag, autojunk=False).find_longest_match().size


def repeated(tags_N: Lists) -> np.ndarray:
    """Measure how often a tag of one text is a tag of another one, shape [N].

    The figure is the mean over ordered pairs of texts of the share of the first one's tags that the second one has. The
    values are its jackknife pseudo-values, whose mean is the figure and whose spread is its error, since the value of a
    text depends on the others (Efron and Stein 1981, Ann Stat 9:586). Zeros for fewer than three texts.
    """
    own, count = [[*map(str.casefold, tags)] for tags in tags_N], len(tags_N)
    if count < 3:
        return np.zeros(count)
    texts_with = Counter(tag for tags in own for tag in dict.fromkeys(tags))
    weight: defaultdict[str, float] = defaultdict(float)  # of each tag: its share of the tags of each text, summed up
    for tags in own:
        for tag in tags:
            weight[tag] += 1 / len(tags)
    # A text has all of its own tags, which is 1 of each sum.
    gives_N = np.array([sum(map(texts_with.__getitem__, tags)) / len(tags) - 1 if tags else 0.0 for tags in own])
    takes_N = np.array([sum(map(weight.__getitem__, dict.fromkeys(tags))) - 1 if tags else 0.0 for tags in own])
    total = float(gives_N.sum())
    without_N = (total - gives_N - takes_N) / ((count - 1) * (count - 2))
    pseudo_N: np.ndarray = count * total / (count * (count - 1)) - (count - 1) * without_N
    return pseudo_N


# -- who finds the text -------------------------------------------------------------------------------------------


def found_by_words(search: "WordSearch", tags_N: Lists) -> np.ndarray:
    """Compute the reciprocal rank of each text among all N when BM25 looks for its tags, shape [N]; 0 without tags."""
    asked = enumerate(tags_N)
    return np.array([reciprocal_rank(search(" ".join(tags)), place) if tags else 0.0 for place, tags in asked])


class WordSearch:
    """BM25 over texts: call it with a query to get the score of each text, shape [N].

    BM25 as Lucene has it, over stems (Robertson and Zaragoza 2009; Lu 2024, arXiv 2407.03618).
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        self._count, documents = len(texts), [list(stems_of(text)) for text in texts]
        self._known = {stem for document in documents for stem in document}
        self._index = bm25s.BM25()
        if self._known:
            self._index.index(documents, show_progress=False)

    def __call__(self, query: str) -> np.ndarray:
        known = [stem for stem in stems_of(query) if stem in self._known]
        return np.asarray(self._index.get_scores(known)) if known else np.zeros(self._count)


def found_by_meaning(texts: Sequence[str], tags_N: Lists, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
    """Compute the reciprocal rank of each text by the cosine of its embedding and its tags', each of shape [N].

    The first is among all texts, the second among the text and its LIKE nearest neighbours; 0 without tags.
    """
    texts_N_D = judge.passages(texts)
    asking = [place for place, tags in enumerate(tags_N) if tags]
    everywhere, near = np.zeros(len(texts)), np.zeros(len(texts))
    queries = judge.queries([tag_string(tags_N[place]) for place in asking])
    for place, query_D in zip(asking, queries, strict=True):
        scores_N, alike_N = texts_N_D @ query_D, texts_N_D @ texts_N_D[place]
        alike_N[place] = np.inf
        nearest = np.argsort(-alike_N, kind="stable")[: LIKE + 1]  # the text itself comes first
        everywhere[place] = reciprocal_rank(scores_N, place)
        near[place] = reciprocal_rank(scores_N[nearest], 0)
    return everywhere, near


def reciprocal_rank(scores_N: np.ndarray, place: int) -> float:
    """Compute the expected reciprocal rank of a place, in (0, 1], where ties are in an order of chance.

    McSherry and Najork 2008 (ECIR), section 3.
    """
    higher, ties = int((scores_N > scores_N[place]).sum()), int((scores_N == scores_N[place]).sum())
    return float((1 / np.arange(higher + 1, higher + ties + 1)).mean())
