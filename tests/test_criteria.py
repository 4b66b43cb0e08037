"""Scorers of all kinds: the sum of their scores, a user's own, and what a scorer that fails costs."""

from pathlib import Path
from typing import Any

import pytest

from semtag.cluster.progress import NoTally
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.scoring import Scoring
from semtag.generation.records import Candidate, SampledText, from_table, to_table
from semtag.scoring.criteria import Criteria, OwnScorer, cross_encoded, own_scorers, scored_by
from semtag.scoring.scorer import Scorer
from semtag.scoring.similarity import with_scores
from semtag.store.layout import Step
from semtag.store.packaged import source_of
from semtag.store.run_dir import result_settings
from semtag.verify import _misscored
from tests.conftest import ROOT
from tests.test_classification import tiny_classifier

BM25 = """
import math, re


class BM25:
    \"\"\"Okapi BM25 of a text for its tags (Robertson and Zaragoza 2009), with a mean length of 12 words.\"\"\"

    def __call__(self, texts, answers):
        return [[self.of(text, tags) for tags in own] for text, own in zip(texts, answers)]

    def of(self, text, tags):
        words, asked = (re.findall(r"\\w+", one.lower()) for one in (text, " ".join(tags)))
        counts = [words.count(word) for word in asked]
        return sum(2.2 * n / (n + 1.2 * (0.25 + 0.75 * len(words) / 12)) for n in counts) / math.sqrt(len(asked))
"""
TEXT = "Bees make honey in a hive, and the honey feeds the bees."


@pytest.fixture
def bm25(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(BM25)
    return f"{tmp_path / 'mine.py'}:BM25"


def sampled(*answers: list[str], text: str = TEXT) -> SampledText:
    candidates = [Candidate(place, "", tags=tags) for place, tags in enumerate(answers)]
    return SampledText(0, text, None, "{}", "candidates", candidates=candidates)


def scoring(*scorers: dict[str, Any]) -> Scoring:
    return Scoring.model_validate({"model": "all-MiniLM-L6-v2", "scorers": scorers})


def test_the_sum_by_hand() -> None:
    text = sampled(["a"], [], ["b"])
    found = [[{0: 0.5, 2: 0.25}], [{0: -1.0, 2: 3.0}]]
    [scored] = with_scores([text], found, [2.0, 0.5], 6)
    assert [(one.sample, one.score, one.scores, one.rank) for one in scored.candidates] == [
        (2, 2.0, [0.25, 3.0], 0),
        (0, 0.5, [0.5, -1.0], 1),
        (1, None, None, None),
    ]
    assert from_table(to_table([scored]))[0].candidates == scored.candidates
    [alone] = with_scores([text], found[:1], [1.0], 6)
    assert [(one.sample, one.score, one.scores) for one in alone.candidates] == [
        (0, 0.5, None),
        (2, 0.25, None),
        (1, None, None),
    ]


def test_a_scorer_of_ones_own_beside_the_cosine(bm25: str) -> None:
    both = scoring({"by": "embedding"}, {"by": bm25, "weight": 0.5})
    [alone] = Criteria(scoring({"by": bm25}), own_scorers(both)).score([sampled(["bees", "honey"], ["river"])])
    # Each word is twice among 12, which is the mean length: 2 x 2.2 x 2 / (2 + 1.2) / sqrt 2.
    assert [one.score for one in alone.candidates] == [pytest.approx(1.944544, abs=1e-6), 0.0]
    [together] = Criteria(both, own_scorers(both)).score([sampled(["bees", "honey"], ["river"])])
    first, second = together.candidates
    assert first.scores is not None and first.scores[1] == alone.candidates[0].score and 0.5 < first.scores[0] < 1
    assert first.score == pytest.approx(first.scores[0] + 0.5 * first.scores[1], abs=1e-6)
    assert (first.tags, second.tags) == (["bees", "honey"], ["river"])


def test_the_actor_scores_by_what_it_was_sent(bm25: str, tmp_path: Path) -> None:
    """A node has no file of the user's: the source travels, and nothing embeds where no scorer does."""
    told = scoring({"by": bm25})
    own = own_scorers(told)
    (tmp_path / "mine.py").unlink()
    scorer = Scorer(told, NoTally(), own)
    assert scorer.criteria and scorer.criteria.embedder is None
    rejected = SampledText(1, "x", None, "{}", "", candidates=[], reason="too_long")
    [first, second] = from_table(scorer(to_table([sampled(["honey"]), rejected])))
    assert first.candidates[0].score == pytest.approx(1.375, abs=1e-6) and first.in_parts is False
    assert (second.reason, second.candidates) == ("too_long", [])


def test_a_text_that_a_scorer_fails_at_costs_no_other() -> None:
    def score(texts: list[str], answers: list[Any]) -> list[list[float]]:
        if "poison" in texts:
            raise ZeroDivisionError("no words")
        return [[float("nan")] if text == "nan" else [1.0] * (len(own) + ("short" in text)) for text, own in
                zip(texts, answers, strict=True)]  # fmt: skip

    texts = [sampled(["a"], text=text) for text in ("good", "poison", "nan", "too short", "fine")]
    texts += [sampled([], text="nothing")]
    found = with_scores(texts, [scored_by(texts, score, "mine:score")], [1.0], 6)
    assert [text.reason for text in found] == [None, "scorer_failed", "not_a_number", "scorer_failed", None, None]
    assert found[1].detail == "the scorer mine:score failed: ZeroDivisionError: no words"
    assert "gave [2] scores for [1] answers" in str(found[3].detail)
    assert [one.score for text in found for one in text.candidates] == [1.0, 1.0, None]


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("nothing", "is no scorer"),
        ("cross_encoder", "needs a model"),
        ("none.py:score", "is not there"),
        ("no_such_package.module:score", "is not there"),
        ("bad.py:score", "cannot be read: SyntaxError"),
        ("mine.py:Other", "cannot be read: AttributeError"),
        ("mine.py:number", "is no function and no class"),
        ("mine.py:Needs", "cannot be made: TypeError"),
    ],
)
def test_what_is_no_scorer_is_told(by: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.py").write_text("def")
    Path("mine.py").write_text("number = 3\n\n\nclass Needs:\n    def __init__(self, x): ...\n")
    with pytest.raises(UserError, match=said):
        config = load_config(ROOT / "configs" / "demo.yaml", [f"scoring.scorers=[{{by: '{by}'}}]"])
        Criteria(config.scoring, own_scorers(config.scoring))


def test_a_function_of_a_module_is_a_scorer() -> None:
    scorer = OwnScorer("tests.test_criteria:words", None).load()
    assert scorer(["a b"], [[["a"], ["b", "c"]]]) == [[1.0, 2.0]]


def words(texts: list[str], answers: list[list[list[str]]]) -> list[list[float]]:
    return [[*map(float, map(len, own))] for own in answers]


def test_a_cross_encoder_scores_between_0_and_1(tmp_path: Path) -> None:
    score = cross_encoded(tiny_classifier(tmp_path / "one", ["mill", "boat", "water"], {0: "score"}))
    [[first, second], [third]] = score(["mill", "boat"], [[["water"], ["boat"]], [["water"]]])
    assert 0 < first < 1 and first != second and first != third


def test_the_source_of_a_scorer_is_part_of_a_run_s_identity(bm25: str) -> None:
    config, file = load_config("demo", [f"scoring.scorers=[{{by: '{bm25}'}}]"]), Path(bm25.rpartition(":")[0])
    before = result_settings(config, Step("rank", 1))
    file.write_text(file.read_text() + "\n")
    after = result_settings(config, Step("rank", 1))
    assert [key for key in before if before[key] != after[key]] == ["scoring.scorers.0_hash"]
    assert source_of("tests.test_criteria:words") == Path(__file__)


def test_verify_adds_the_scores_up() -> None:
    two = scoring({"by": "embedding", "weight": 2}, {"by": "mine.py:f"})
    assert _misscored(1.5, [0.5, 0.5], two) is None
    assert "and 1.5 by the scores" in str(_misscored(1.4, [0.5, 0.5], two))
    assert "by 2 scorers" in str(_misscored(1.5, None, two)) and "by 2 scorers" in str(_misscored(1.5, [0.5], two))
    one = scoring({"by": "mine.py:f"})
    assert _misscored(7.0, None, one) is None and "by one scorer" in str(_misscored(7.0, [7.0], one))
    assert _misscored(1.1, None, scoring({"by": "embedding"})) == "a score of 1.1, which is no cosine"
