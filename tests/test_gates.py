"""Gates: taggers that only raise the score fail, people's own keyphrases pass. Real texts and real embeddings."""

import functools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from semtag.configs.scoring import Scoring
from semtag.evaluation.answers import Answer, cut_like
from semtag.evaluation.embeddings import Judge
from semtag.evaluation.gates import GATES, gate_results
from semtag.evaluation.measures import WordSearch, measure, words_of
from semtag.evaluation.rows import Key, Rows, Series
from semtag.generation.parse import answer_of, parse
from semtag.scoring.embedder import Embedder
from semtag.scoring.similarity import cosine, tag_string
from tests.conftest import ROOT

INSPEC = ROOT.parent / "shared" / "data" / "inspec_keyphrases.jsonl"
TEXTS = 500
SCORED = 40  # texts that are scored: embedding all of them by the scoring model takes minutes, and no gate reads scores
SCORER, JUDGE = "all-MiniLM-L6-v2", "wordllama-l2-256"
GENERIC = ("technology", "research", "systems", "methods", "science", "analysis", "information", "history")
Tags = list[list[str]]


@functools.cache
def model(name: str) -> Judge:
    """Load the demo's scoring model or its judge, with a memory of what it embedded."""
    embedder = Embedder(Scoring(model=name))
    return Judge(name, name == SCORER, embedder.texts, embedder.tags)


def content(text: str) -> list[str]:
    return [word for word in words_of(text) if len(word) > 3 and word not in ENGLISH_STOP_WORDS and word.isalpha()]


def middling(texts: Sequence[str], seed: int) -> Tags:
    """Return tags as an untrained model gives them: two words in a row, a word, and a label that fits anything.

    The word is of another text two times in five.
    """
    rng, tags = np.random.default_rng(seed), []
    for text in texts:
        own = {*content(text)}
        pairs = [f"{one} {other}" for one, other in pairwise(words_of(text)) if {one, other} <= own]
        other = text if rng.random() > 0.4 else texts[int(rng.integers(len(texts)))]
        picked = (rng.choice(pairs or content(text)), rng.choice(content(other)), rng.choice(GENERIC))
        tags.append([str(tag) for tag in dict.fromkeys(picked)])
    return tags


def answers(tags: Tags) -> list[Answer]:
    """Return tags as answers, read from their completions."""
    found = [parse(answer_of(own)) for own in tags]
    return [Answer(answer_of(own), one.tags, one.format, one.reason) for own, one in zip(tags, found, strict=True)]


def cut(words: Sequence[str], size: int) -> list[str]:
    """Cut words into tags of so many words, at most three."""
    return [" ".join(words[at : at + size]) for at in range(0, min(len(words), 3 * size), size)]


@dataclass(frozen=True)
class Ground:
    """Hold texts, people's keyphrases where there are some, and what stands in for the untrained model."""

    texts: list[str]
    keys: Tags
    base: list[Answer]
    measured: Rows

    def rare(self, count: int) -> Tags:
        """Return the rarest words of each text."""
        frequency = Counter(word for text in self.texts for word in set(words_of(text)))
        return [sorted(dict.fromkeys(words_of(text)), key=lambda word: (frequency[word], word))[:count]
                for text in self.texts]  # fmt: skip

    def outcomes(self, given: list[Answer]) -> dict[str, str]:
        """Return the outcome of each gate for a tagger that gives these answers."""
        return {one.name: one.outcome for one in gate_results(self.measured | rows("tuned", self.texts, given))}


def failed(outcomes: dict[str, str]) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome == "failed"}


def key(arm: str, name: str) -> Key:
    return Key(arm, "tags", "tags", "", name)


def rows(arm: str, texts: Sequence[str], given: list[Answer]) -> Rows:
    units_N = np.arange(len(texts))
    return {key(arm, name): Series(key(arm, name), units_N, units_N, values_N)
            for name, values_N in measure(texts, given, model(JUDGE), WordSearch(texts)).items()}  # fmt: skip


@functools.cache
def ground(name: str) -> Ground:
    if name == "inspec" and not INSPEC.exists():
        pytest.skip("Inspec's abstracts are not part of the project")
    file = INSPEC if name == "inspec" else ROOT / "configs" / "demo" / "texts.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:TEXTS]]
    texts = [" ".join(line["text"].split()) for line in lines]
    base = answers(middling(texts, 0))
    return Ground(texts, [line.get("keys", []) for line in lines], base, rows("base", texts, base))


def people(own: Ground) -> list[Answer]:
    """Cut people's keyphrases to the number of words of the untrained model's answer."""
    keys = [Answer("", [" ".join(key.split()) for key in keys], "valid") for keys in own.keys]
    return answers([list(answer.tags) for answer in cut_like(keys, own.base)])


# -- who must fail ------------------------------------------------------------------------------------------------

FINDING = {"found by words", "found by meaning", "own text"}
CHEATS: dict[str, tuple[Callable[[Ground], Tags], set[str]]] = {
    "another text's tags": (lambda own: [list(own.base[place - 1].tags) for place in range(TEXTS)], FINDING),
    "one list for all": (lambda own: [list(GENERIC[:3])] * TEXTS, {*FINDING, "same tags"}),
    "one list for half of the texts": (
        lambda own: [list(GENERIC[:3] if place % 2 else one.tags) for place, one in enumerate(own.base)],
        {*FINDING, "same tags"},
    ),
    "rare words with an s": (
        lambda own: [list(map("{}s".format, words)) for words in own.rare(3)],
        {"inflected copies"},
    ),
    "18 first words": (
        lambda own: [cut(words_of(text), 6) for text in own.texts],
        {"copied runs", "cut-up text", "stuffed answers"},
    ),
    "4 first words": (lambda own: [cut(words_of(text)[:4], 2) for text in own.texts], {"cut-up text"}),
    "4 words of the middle": (lambda own: [cut(words_of(text)[20:24], 2) for text in own.texts], {"cut-up text"}),
    "18 rare words": (lambda own: [cut(words, 6) for words in own.rare(18)], {"stuffed answers"}),
}


@pytest.mark.parametrize("name", ["demo", "inspec"])
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_fails(cheat: str, name: str) -> None:
    own, (make, expected) = ground(name), CHEATS[cheat]
    given = answers(make(own))
    assert sum(answer.valid for answer in given) > 0.95 * TEXTS  # none is given away by its form alone
    assert failed(own.outcomes(given)) == expected


@pytest.mark.parametrize("name", ["demo", "inspec"])
@pytest.mark.parametrize("cheat", ["18 first words", "4 first words", "18 rare words"])
def test_the_score_rewards_such_cheats(cheat: str, name: str) -> None:
    own = ground(name)
    assert score(own, answers(CHEATS[cheat][0](own))) > score(own, own.base) + 0.05


def score(own: Ground, given: list[Answer]) -> float:
    """Score the first answers, and return the mean."""
    embedder = model(SCORER)
    texts_N_D = embedder.passages(own.texts[:SCORED])
    tags_N_D = embedder.queries([tag_string(answer.tags) for answer in given[:SCORED]])
    return float(cosine(texts_N_D, tags_N_D).mean())


def test_an_answer_that_is_malformed_fails_by_its_form_and_one_without_tags_by_coverage() -> None:
    own = ground("demo")
    spoilt = [replace(answer, format="repaired") if place else answer for place, answer in enumerate(own.base)]
    assert failed(own.outcomes(spoilt)) == {"form"}
    silent = [Answer("", (), "invalid", "empty") if place else answer for place, answer in enumerate(own.base)]
    assert failed(own.outcomes(silent)) == {"form", "coverage", *FINDING}


# -- who must not fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "inspec"])
def test_the_untrained_model_passes_against_itself(name: str) -> None:
    own = ground(name)
    assert set(own.outcomes(own.base).values()) == {"passed"}
    assert not failed(own.outcomes(answers(middling(own.texts, 1))))  # the same rule with other luck
    shorter = answers([list(answer.tags[:2]) for answer in own.base])
    assert not failed(own.outcomes(shorter))


@pytest.mark.parametrize("change", ["none", "title case", "other order"])
def test_people_pass(change: str) -> None:
    own = ground("inspec")
    tags = [list(answer.tags) for answer in people(own)]
    if change == "title case":
        tags = [[tag.title() for tag in tags] for tags in tags]
    if change == "other order":
        tags = [tags[::-1] for tags in tags]
    assert set(own.outcomes(answers(tags)).values()) == {"passed"}


def test_people_may_name_any_of_their_keyphrases() -> None:
    own, rng = ground("inspec"), np.random.default_rng(0)
    any_order = replace(own, keys=[[str(key) for key in rng.permutation(keys)] for keys in own.keys])
    assert not failed(own.outcomes(people(any_order)))


def test_the_stand_in_is_between_chance_and_people() -> None:
    own = ground("inspec")
    chance = float((1 / np.arange(1, TEXTS + 1)).mean())
    gold = rows("people", own.texts, people(own))
    for name, by_chance in (("found_by_words", chance), ("found_by_meaning", chance), ("found_among_like", 0.27)):
        base = own.measured[key("base", name)].values_N.mean()
        assert 2 * by_chance < base < gold[key("people", name)].values_N.mean() - 0.1


# -- the rule -----------------------------------------------------------------------------------------------------


def made(first: float, second: float, texts: int = 400) -> Rows:
    """Make two arms that differ in nothing but their shares of well-formed answers."""
    found: Rows = {}
    for arm, share in (("tuned", first), ("base", second)):
        for gate in GATES:
            of = key(arm, gate.measure)
            values_N = np.arange(texts) < share * texts if gate.measure == "well_formed" else np.ones(texts)
            found[of] = Series(of, np.arange(texts), np.arange(texts), np.asarray(values_N, dtype=float))
    return found


@pytest.mark.parametrize(
    ("first", "second", "texts", "outcome"),
    [
        (0.9, 0.9, 400, "passed"),
        (0.88, 0.9, 400, "undecided"),  # the bound, 2 points less, lies within the interval
        (0.7, 0.9, 400, "failed"),
        (0.96, 0.9, 400, "passed"),
        (0.5, 0.9, 29, "undecided"),
        (0.5, 0.9, 30, "failed"),
    ],
)
def test_a_gate_looks_at_the_whole_interval(first: float, second: float, texts: int, outcome: str) -> None:
    assert {one.name: one.outcome for one in gate_results(made(first, second, texts))}["form"] == outcome


def test_a_gate_says_what_must_hold() -> None:
    bounds = {one.name: one.bound for one in gate_results(made(1, 1))}
    assert bounds["form"] == "at least -2 points"
    assert bounds["found by words"] == "at least -0.03"
    assert bounds["copied runs"] == "at most +15 points"
    assert bounds["stuffed answers"] == "at most 1.5 times the untrained model's"
