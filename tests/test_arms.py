"""Arms: how each is asked, what it delivers, and how it is compared with the base model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.parquet import RowWriter, read_rows
from configs.errors import UserError
from configs.load import load_config
from configs.schema import Evaluation
from evaluation.agreement import agreement
from evaluation.arms import compare_arms
from evaluation.corpus import ANSWERED, ARMS, Arm, Corpus, arms_of, best_examples, read_corpus, write_corpus
from evaluation.gates import measure
from evaluation.statistics import sign_flip
from generation.prompts import build_messages
from generation.records import SAMPLED, candidate_row
from scoring.keyphrases import KeyphraseScorer, first_words
from scoring.records import RANKED
from scoring.similarity import Embed
from tests.conftest import ROOT, TEXTS

CONFIG = load_config(ROOT / "configs" / "demo.yaml")


def letters(strings: list[str]) -> np.ndarray:
    """An embedding by hand: how often each letter occurs."""
    return np.array([[string.casefold().count(chr(97 + place)) for place in range(26)] for string in strings], float)


def answer(completion: str, score: float | None = 0.5) -> dict[str, Any]:
    found = candidate_row(CONFIG.prompt, 0, completion, "stop", 3, None, -1.0)
    return found | {"score": score if found["tags"] else None}


def test_agreement_by_hand() -> None:
    keys = [["Steam  engines", "governor"], ["mill"], ["mill"]]
    tags = [["steam engine", "James Watt", "coal", "governors"], ["mill"], []]
    found = agreement(keys, tags, letters)
    assert found["exact_f1"] == pytest.approx([0, 1, 0])
    assert found["stemmed_f1"] == pytest.approx([2 * 2 / (2 + 4), 1, 0])
    assert found["recall_at_3"] == pytest.approx([1 / 2, 1, 0])
    assert found["semantic_f1"][1:] == pytest.approx([1, 0])
    precise = agreement([["aab"]], [["aab", "b"]], letters)["semantic_f1"]
    precision = (1 + 1 / np.sqrt(5)) / 2  # the cosine of (2, 1) and (0, 1) is 1 / sqrt(5)
    assert precise == pytest.approx([2 * precision / (precision + 1)])


def test_sign_flips_by_hand() -> None:
    assert sign_flip(np.ones(5), 10000, 0) == pytest.approx(2 / 32)  # all patterns of signs: exact
    assert sign_flip(np.array([1.0, -1.0]), 10000, 0) == 1
    assert sign_flip(np.zeros(3), 100, 0) == 1
    assert sign_flip(np.linspace(0.5, 1, 200), 2000, 0) < 0.002


def test_examples_are_turns_before_the_text() -> None:
    shown = build_messages("the text", CONFIG.prompt, True, [("one", "[a]"), ("two", "[b]")])
    assert [message["role"] for message in shown] == ["system", *["user", "assistant"] * 2, "user"]
    assert shown[2]["content"] == "[a]" and shown[-1]["content"].endswith("the text")
    merged = build_messages("the text", CONFIG.prompt, False, [("one", "[a]")])
    assert [message["role"] for message in merged] == ["user", "assistant", "user"]
    assert merged[0]["content"].startswith(CONFIG.prompt.system) and merged[0]["content"].endswith("one")
    assert CONFIG.prompt.system not in merged[2]["content"]


def test_the_best_scored_valid_answers_are_the_examples(tmp_path: Path) -> None:
    rows = [("low", "[a]", 0.1), ("w " * 90, "[b]", 0.9), ("malformed", "[c", 0.95), ("high", "[d]", 0.8)]
    with RowWriter(tmp_path / "part.parquet", RANKED) as out:
        for place, (text, completion, score) in enumerate(rows):
            out.write({"text_id": place, "text": text, "candidates": [answer(completion, score)]})
        out.write({"text_id": 9, "text": "none", "candidates": []})
    found = best_examples(tmp_path, 2)
    assert [(len(text.split()), said) for text, said in found] == [(60, "[b]"), (1, "[d]")]


def keyphrases(texts: list[str]) -> list[dict[str, Any]]:
    class Tally:
        def add(self, by: Any) -> None:
            assert by.texts == 3 * len(texts)

    rows = [{"text_id": i, "text": text, "decoding": d} for i, text in enumerate(texts) for d in
            ("first_words", "yake", "keybert")]  # fmt: skip
    done = KeyphraseScorer(CONFIG, Tally())(pa.Table.from_pylist(rows, SAMPLED))  # type: ignore[arg-type]
    found: list[dict[str, Any]] = done.to_pylist()
    return found


def test_keyphrases_are_rows_like_those_of_a_model() -> None:
    assert first_words("a [b] c d e f g", 3) == ["a b", "c d", "e f"]
    rows = keyphrases([*TEXTS[:2], "of the"])
    tags = {(row["text_id"], row["decoding"]): row["candidates"][0] for row in rows}
    assert tags[0, "first_words"]["answer"] == "[The bridge][of Lyon][was built]"
    for decoding in ("yake", "keybert"):
        said = " ".join(tags[0, decoding]["tags"]).casefold()
        assert "lyon" in said or "bridge" in said
        assert tags[0, decoding]["format"] == "valid" and tags[0, decoding]["score"] > 0.3
    assert (tags[2, "keybert"]["format"], tags[2, "keybert"]["reason"]) == ("invalid", "empty")


def corpus_of(**answers: list[dict[str, Any]]) -> Corpus:
    count = len(next(iter(answers.values())))
    texts = [f"text number{place} of word{place}" for place in range(count)]
    return Corpus(list(range(count)), texts, [{"keys": [f"word{place}"]} for place in range(count)], answers)


def compared(corpus: Corpus, arms: list[Arm], resamples: int, second: Embed | None = None) -> list[dict[str, Any]]:
    measured = {arm.name: measure(corpus.texts, corpus.answers[arm.name], second) for arm in arms}
    return compare_arms(corpus, arms, measured, Evaluation(resamples=resamples), 0, letters)


def test_arms_are_compared_with_the_base_model_on_the_same_texts() -> None:
    count = 30
    base = [answer("[number]" if place % 3 else "[number") for place in range(count)]
    better = [answer(f"[word{place}]", 0.7) for place in range(count)]
    corpus = corpus_of(base=base, tuned=better, base_greedy=base, tuned_greedy=base)
    arms = [arm for arm in ARMS if arm.name in corpus.answers]
    rows = {row["name"]: row for row in compared(corpus, arms, 500)}
    assert rows["base"]["against"] is None and rows["base"]["well_formed"]["value"] == pytest.approx(2 / 3)
    assert rows["base"]["similarity"]["value"] == pytest.approx(0.5 * 2 / 3)
    assert rows["base"]["similarity_valid"]["value"] == pytest.approx(0.5)
    assert rows["base"]["defects"] == {"unbalanced": 10}
    against = rows["tuned"]["against"]
    assert against["well_formed"]["difference"]["value"] == pytest.approx(1 / 3)
    assert against["well_formed"]["p"] == pytest.approx(2 / 2**10)
    assert against["well_formed"]["p_holm"] == pytest.approx(3 * 2 / 2**10)  # the other two arms have p = 1
    assert against["similarity"]["p_holm"] < 0.05 and against["stemmed_f1"]["difference"]["value"] == 1
    assert rows["tuned"]["measures"]["found_by_words"]["value"] == 1
    assert {one["p_holm"] for one in rows["base_greedy"]["against"].values()} == {1.0}
    assert rows["tuned"]["agreement"]["exact_f1"]["value"] == 1
    nothing = [meta.clear() for meta in corpus.metas]
    assert nothing and compared(corpus, arms, 500)[0]["agreement"] is None
    json.dumps(rows)


def test_a_second_model_is_asked_for_every_arm() -> None:
    base = [answer("[number]") for _ in range(5)]
    corpus = corpus_of(base=base, tuned=[answer(f"[word{place} number{place} text of]") for place in range(5)])
    arms = [arm for arm in ARMS if arm.name in corpus.answers]
    rows = compared(corpus, arms, 500, letters)
    assert all("found_by_meaning" in row["measures"] for row in rows)


def sampled(folder: Path, rows: list[tuple[int, str, dict[str, Any] | None]]) -> None:
    folder.mkdir()
    with RowWriter(folder / "part.parquet", SAMPLED) as out:
        for id_, decoding, found in rows:
            own = {"candidates": [found] if found else [], "reason": None if found else "too_long"}
            out.write({"text_id": id_, "text": f"text {id_}", "meta": "{}", "decoding": decoding} | own)


def test_answers_are_read_for_the_texts_that_both_models_answered(tmp_path: Path) -> None:
    arms = arms_of(Evaluation(arms=["base_few_shot"]))
    plain = [(id_, decoding, answer("[a]")) for id_ in (1, 2) for decoding in ("sampled", "greedy")]
    sampled(tmp_path / "base", [*plain, (1, "few_shot", None), (2, "few_shot", answer("[b]"))])
    sampled(tmp_path / "tuned", [*plain[:3], (2, "greedy", None)])
    corpus = read_corpus(tmp_path, arms)
    assert (corpus.ids, corpus.texts) == ([1], ["text 1"])
    assert corpus.answers["base_few_shot"][0]["reason"] == "too_long" and not corpus.valid("base_few_shot")[0]
    [row] = compared(corpus, arms, 100)[2:3]
    assert (row["name"], row["missing"], row["defects"]) == ("base_few_shot", 1, {"too_long": 1})
    write_corpus(corpus, tmp_path / "answers.parquet")
    [row] = read_rows(tmp_path / "answers.parquet")
    assert row.keys() == set(ANSWERED.names)
    assert {one["arm"]: one["tags"] for one in row["answers"]}["base"] == ["a"]
    sampled(tmp_path / "nobody", [(1, "sampled", None)])
    with pytest.raises(UserError, match="No held-out text"):
        (tmp_path / "tuned" / "part.parquet").unlink()
        read_corpus(tmp_path, arms)
