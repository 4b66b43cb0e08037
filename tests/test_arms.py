"""Arms: how each is asked, what it delivers, and what is compared with what."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest

from semtag.configs.errors import UserError
from semtag.configs.evaluation import Arm as ArmName
from semtag.configs.load import load_config
from semtag.evaluation.answers import ANSWERED, Answer, Corpus, cut_like, cut_to_words, read_corpus, write_corpus
from semtag.evaluation.arms import CUT, KEYPHRASES, UNTRAINED, arms_of, pairings, people
from semtag.evaluation.evaluate import with_people
from semtag.evaluation.extractors import KeyphraseScorer, first_words
from semtag.generation.decoding import Decoding, read_examples
from semtag.generation.prompts import build_messages
from semtag.generation.records import SAMPLED, read_candidate
from semtag.store.parquet import RowWriter, read_rows
from tests.conftest import ROOT, TEXTS

DEMO = ROOT / "configs" / "demo.yaml"
CONFIG = load_config(DEMO)
ARMS = get_args(ArmName)
EXTRACTORS = ("first_words", "yake", "keybert", "keybert_mmr")
EVERYTHING = f"evaluation.arms=[{', '.join(ARMS)}]"


# -- how a model is asked -------------------------------------------------------------------------------------------


def test_examples_are_turns_before_the_text() -> None:
    shown = build_messages("the text", CONFIG.prompt, True, [("one", "[a]"), ("two", "[b]")])
    assert [message["role"] for message in shown] == ["system", *["user", "assistant"] * 2, "user"]
    assert shown[2]["content"] == "[a]" and shown[-1]["content"].endswith("the text")
    merged = build_messages("the text", CONFIG.prompt, False, [("one", "[a]")])
    assert [message["role"] for message in merged] == ["user", "assistant", "user"]
    system = shown[0]["content"]
    assert "a maximum of 3 short labels" in system
    assert merged[0]["content"].startswith(system) and merged[0]["content"].endswith("one")
    assert system not in merged[2]["content"]


def decodings(*overrides: str) -> dict[str, Decoding]:
    arms = arms_of(load_config(DEMO, overrides), [1, 3])
    return {arm.name: arm.decoding for arm in arms if arm.decoding}


def test_every_arm_says_how_its_model_is_asked() -> None:
    arms = {arm.name: arm for arm in arms_of(load_config(DEMO, [EVERYTHING]), [1, 3])}
    others = {name: arm.model for name, arm in arms.items() if arm.model not in ("base", "tuned")}
    assert others == {"round_1": "round_1", "round_3": "round_3"} | dict.fromkeys(EXTRACTORS, KEYPHRASES)
    asked = decodings(EVERYTHING)
    assert all(decoding.name == name for name, decoding in asked.items())
    shown = read_examples(CONFIG.prompt)
    helped = {name for name, decoding in asked.items() if decoding.examples}
    assert len(shown) == 3 and helped == {"base", "base_examples", "base_best", "base_vote"}
    assert asked["base"].examples == shown
    fenced = {name for name, one in asked.items() if one.pattern}
    assert fenced == {"base", "base_grammar", "base_best", "base_vote", "tuned_constrained"}
    sampled = {name: (one.samples, one.temperature, one.vote) for name, one in asked.items() if one.temperature}
    assert sampled == {"base_best": (8, 0.5, False), "base_vote": (5, 0.5, True), "tuned_vote": (5, 0.5, True)}
    assert asked["tuned"] == replace(asked["base_plain"], name="tuned") == replace(asked["round_3"], name="tuned")
    assert (arms["base_best"].cost, arms["tuned"].cost, arms["yake"].cost) == (8, 1, 0)


def test_the_untrained_arms_are_always_there() -> None:
    assert list(decodings("evaluation.arms=[]")) == ["base", "base_plain", "base_grammar", "base_examples", "tuned"]
    asked = decodings("evaluation.arms=[]", "prompt.examples=[]")
    assert list(asked) == ["base", "base_plain", "tuned"]  # without examples `base` is the grammar's arm
    assert asked["base"].pattern and not asked["base"].examples


def test_answers_are_as_short_as_the_evaluation_says() -> None:
    assert {one.max_tokens for one in decodings(EVERYTHING).values()} == {40}
    assert {one.max_tokens for one in decodings(EVERYTHING, "evaluation.max_tokens=32").values()} == {32}


def test_the_model_that_scores_cannot_judge() -> None:
    with pytest.raises(UserError, match="cannot judge what it rewarded"):
        load_config(DEMO, ["evaluation.second_model=all-MiniLM-L6-v2"])


# -- contrasts ------------------------------------------------------------------------------------------------------


def test_contrasts_are_named_in_advance() -> None:
    arms = [*arms_of(load_config(DEMO, [EVERYTHING, "evaluation.taggers=[runs/control]"]), [1]), people(CONFIG)]
    named = pairings(arms)
    assert {one.second for one in named if one.family == "primary"} == set(UNTRAINED)
    assert {one.first for one in named if one.family != "same decoding"} == {"tuned"}
    rest = [(one.family, one.first, one.second) for one in named if one.family not in ("primary", "equal words")]
    assert rest == [
        ("best of many", "tuned", "base_best"),
        ("rounds", "tuned", "round_1"),
        ("other runs", "tuned", "tagger_control"),
        ("same decoding", "tuned_constrained", "base_grammar"),
        ("same decoding", "tuned_vote", "base_vote"),
    ]
    assert [one.second for one in named if one.family == "equal words"] == [*EXTRACTORS, "people"] == [*CUT]
    assert len(set(named)) == len(named)
    few = pairings(arms_of(load_config(DEMO, ["evaluation.arms=[]"]), []))
    assert {one.second for one in few} == set(UNTRAINED)


# -- answers --------------------------------------------------------------------------------------------------------


def test_lists_are_cut_to_another_arms_words() -> None:
    assert cut_to_words(["steam engine", "James Watt"], 3) == ["steam engine", "James"]
    assert cut_to_words(["steam engine"], 0) == cut_to_words([], 3) == []
    assert cut_to_words(["steam engine"], 9) == ["steam engine"]
    given = [Answer("", ["a b", "c d"], "valid", score=0.5), Answer("", ["a"], "valid")]
    cut = cut_like(given, [Answer("", ["x", "y z"], "repaired"), Answer("", [], "invalid")])
    assert [answer.tags for answer in cut] == [["a b", "c"], []]
    assert cut[0].score is None  # the score was of the longer list


def corpus_of(**answers: list[Answer]) -> Corpus:
    count = len(next(iter(answers.values())))
    metas: list[dict[str, Any]] = [{"keys": ["a key", " "] if place else []} for place in range(count)]
    return Corpus([*range(count)], [f"text {place}" for place in range(count)], [None] * count, metas, answers)


def test_people_are_an_arm_where_the_data_has_their_keyphrases() -> None:
    corpus, arms = with_people(corpus_of(base=[Answer("", [], "invalid")] * 3), [], CONFIG)
    assert [arm.name for arm in arms] == ["people"]
    assert [(answer.tags, answer.missing) for answer in corpus.answers["people"]] == [
        ([], True),
        *[(["a key"], False)] * 2,
    ]
    other = load_config(DEMO, ["evaluation.keys_column=phrases"])
    assert with_people(corpus_of(base=[Answer("", [], "invalid")] * 3), [], other)[1] == []


@pytest.mark.parametrize(("articles", "clusters"), [(19, 40), (20, 20), (40, 40)])
def test_whole_articles_are_resampled_where_there_are_enough(articles: int, clusters: int) -> None:
    names: list[str | None] = [str(place % articles) for place in range(40)]
    corpus = Corpus([*range(40)], ["a"] * 40, names, [{}] * 40, {})
    assert len(set(corpus.clusters_N.tolist())) == clusters
    assert corpus.by_article == (articles == 20)
    assert not Corpus([*range(40)], ["a"] * 40, [None, *names[1:]], [{}] * 40, {}).by_article


def sampled(folder: Path, rows: Iterable[tuple[int, str, str | None]]) -> None:
    """Write the rows of a model: text_id, decoding, and the completion or None where it could not answer."""
    folder.mkdir()
    with RowWriter(folder / "part.parquet", SAMPLED) as out:
        for id_, decoding, completion in rows:
            found = [] if completion is None else [vars(read_candidate(CONFIG.prompt, 0, completion, "stop"))]
            own = {"candidates": found, "reason": None if found else "too_long"}
            out.write({"text_id": id_, "text": f"text {id_}", "meta": "{}", "decoding": decoding} | own)


def test_an_arm_that_cannot_answer_a_text_costs_no_other_arm_the_text(tmp_path: Path) -> None:
    arms = arms_of(load_config(DEMO, ["evaluation.arms=[]", "prompt.examples=[]"]), [])
    assert [(arm.name, arm.model) for arm in arms] == [("base", "base"), ("base_plain", "base"), ("tuned", "tuned")]
    answered = [(1, "base", "[a]"), (2, "base", "[a]"), (1, "base_plain", None), (2, "base_plain", "[b] so")]
    sampled(tmp_path / "base", answered)
    sampled(tmp_path / "tuned", [(1, "tuned", "[a]"), (2, "tuned", None)])
    corpus = read_corpus(tmp_path, arms)
    assert (corpus.ids, corpus.texts) == ([1, 2], ["text 1", "text 2"])
    assert [(one.reason, one.missing, one.valid) for one in corpus.answers["tuned"]] == [
        (None, False, True),
        ("too_long", True, False),
    ]
    assert corpus.tags("base_plain") == [(), ["b"]]  # a repaired answer delivers its tags
    write_corpus(corpus, tmp_path / "answers.parquet")
    rows = list(read_rows(tmp_path / "answers.parquet"))
    assert rows[0].keys() == set(ANSWERED.names)
    assert {one["arm"]: one["tags"] for one in rows[0]["answers"]} == {"base": ["a"], "base_plain": [], "tuned": ["a"]}


def test_no_answer_at_all_is_an_error(tmp_path: Path) -> None:
    arms = arms_of(load_config(DEMO, ["evaluation.arms=[]", "prompt.examples=[]"]), [])
    sampled(tmp_path / "base", [(1, "base", None)])
    sampled(tmp_path / "tuned", [(1, "tuned", None)])
    with pytest.raises(UserError, match="No held-out text"):
        read_corpus(tmp_path, arms)


# -- extractors -----------------------------------------------------------------------------------------------------


def keyphrases(texts: list[str]) -> list[dict[str, Any]]:
    added = []

    class Tally:
        def add(self, by: Any, at_once: bool = False) -> None:
            added.append(by)

    rows = [{"text_id": i, "text": text, "decoding": d} for i, text in enumerate(texts) for d in EXTRACTORS]
    done = KeyphraseScorer(CONFIG, Tally())(pa.Table.from_pylist(rows, SAMPLED))  # type: ignore[arg-type]
    assert sum(by.texts for by in added) == len(rows)
    found: list[dict[str, Any]] = done.to_pylist()
    return found


def test_keyphrases_are_rows_like_those_of_a_model() -> None:
    assert first_words("a [b] c d e f g", 3) == ["a b", "c d", "e f"]
    rows = keyphrases([*TEXTS[:2], "of the"])
    tags = {(row["text_id"], row["decoding"]): row["candidates"][0] for row in rows}
    assert tags[0, "first_words"]["answer"] == "[The bridge][of Lyon][was built]"
    for decoding in EXTRACTORS[1:]:
        said = " ".join(tags[0, decoding]["tags"]).casefold()
        assert "lyon" in said or "bridge" in said
        assert tags[0, decoding]["format"] == "valid" and tags[0, decoding]["score"] > 0.3
    assert (tags[2, "keybert"]["format"], tags[2, "keybert"]["reason"]) == ("invalid", "empty")
    without = keyphrases(["of the", "and of"])  # no text of the batch has a phrase
    assert {row["candidates"][0]["reason"] for row in without if row["decoding"].startswith("keybert")} == {"empty"}
