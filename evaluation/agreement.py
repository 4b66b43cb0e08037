"""Do tags agree with the keyphrases that people gave? By the field's protocol, over stems.

Meng et al. 2017 (arXiv 1704.06879) and Yuan et al. 2020 (arXiv 1810.05241). Keyphrases that stand in the text are
present ones and the others absent; each kind is compared with the tags of its kind. Tags of one stem count once.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from semtag.evaluation.answers import Corpus
from semtag.evaluation.measures import Lists, stems_of
from semtag.evaluation.rows import Key, Series

AT = 5  # tags that F1@5 reads

Phrases = list[str]  # stems joined by blanks


def agreement(corpus: Corpus, tags: Mapping[str, Lists], keys: Lists) -> list[Series]:
    """Measure the agreement of each arm's whole tag lists with the keyphrases of N texts; empty without keyphrases.

    Values lie in [0, 1]. They are NaN for a text without keyphrases of the measure's kind.
    """
    if not any(keys):
        return []
    texts, wanted = [stem_phrase(text) for text in corpus.texts], [stemmed(own) for own in keys]
    series = []
    for arm, tags_N in tags.items():
        given = [stemmed(own) for own in tags_N]
        for kind, of_kind in KINDS.items():
            rows = list(zip(texts, given, wanted, strict=True))
            pairs = [(of_kind(text, said), of_kind(text, own)) for text, said, own in rows]
            for name, f1 in (("f1_at_5", f1_at_5), ("f1_at_m", f1_at_m)):
                key = Key(arm, "tags", "agreement", "", kind + name)
                values_N = np.array([f1(*pair) for pair in pairs])
                series.append(Series(key, np.array(corpus.ids), corpus.clusters_N, values_N))
    return series


def stem_phrase(phrase: str) -> str:
    """Return the stems of a phrase's words, joined by blanks. Example: `Steam  Engines` becomes `steam engin`."""
    return " ".join(stems_of(phrase))


def stemmed(phrases: Sequence[str]) -> Phrases:
    """Return the distinct phrases of stems in their order; a phrase without words is left out."""
    return [stems for stems in dict.fromkeys(map(stem_phrase, phrases)) if stems]


def _standing(text: str, phrases: Phrases, wanted: bool = True) -> Phrases:
    """Return the phrases that stand in the text as a run of stems, or those that do not."""
    return [phrase for phrase in phrases if (f" {phrase} " in f" {text} ") == wanted]


KINDS: dict[str, Callable[[str, Phrases], Phrases]] = {
    "": lambda _, phrases: phrases,
    "present_": _standing,
    "absent_": lambda text, phrases: _standing(text, phrases, wanted=False),
}


def f1_at_5(given: Phrases, wanted: Phrases) -> float:
    """Compute F1 of the first five tags; precision is over five even where fewer are given. NaN without keyphrases."""
    return _f1(given[:AT], wanted, AT)


def f1_at_m(given: Phrases, wanted: Phrases) -> float:
    """Compute F1 of all tags; NaN without keyphrases."""
    return _f1(given, wanted, len(given))


def _f1(given: Phrases, wanted: Phrases, count: int) -> float:
    hits = len(set(given) & set(wanted))
    return 2 * hits / (count + len(wanted)) if wanted else float("nan")
