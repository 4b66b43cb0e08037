"""Arms: how each is asked, what it delivers, and how it is compared with the base model."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest

from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Arm as ArmName
from semtag.configs.schema import Evaluation
from semtag.evaluation.corpus import ANSWERED, KEYPHRASES, Arm, Corpus, arms_of, read_corpus, write_corpus
from semtag.evaluation.estimates import compare_arms
from semtag.evaluation.extractors import KeyphraseScorer, first_words
from semtag.evaluation.measures import agreement, measure
from semtag.evaluation.statistics import sign_flip
from semtag.generation.decoding import Decoding, read_examples
from semtag.generation.prompts import build_messages
from semtag.generation.records import SAMPLED, read_candidate
from semtag.scoring.similarity import Embed
from semtag.store.parquet import RowWriter, read_rows
from tests.conftest import ROOT, TEXTS

DEMO = ROOT / "configs" / "demo.yaml"
CONFIG = load_config(DEMO)
ARMS = get_args(ArmName)
EXTRACTORS = ("first_words", "yake", "keybert", "keybert_mmr")


def letters(strings: list[str]) -> np.ndarray:
    """An embedding by hand: how often each letter occurs."""
    return np.array([[string.casefold().count(chr(97 + place)) for place in range(26)] for string in strings], float)


def answer(completion: str, score: float | None = 0.5) -> dict[str, Any]:
    found = read_candidate(CONFIG.prompt, 0, completion, "stop")
    return vars(replace(found, tags=[*found.tags], score=score if found.tags else None))


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
    system = shown[0]["content"]
    assert "a maximum of 3 short labels" in system
    assert merged[0]["content"].startswith(system) and merged[0]["content"].endswith("one")
    assert system not in merged[2]["content"]


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


def corpus_of(**answers: list[dict[str, Any]]) -> Corpus:
    count = len(next(iter(answers.values())))
    texts = [f"text number{place} of word{place}" for place in range(count)]
    return Corpus(list(range(count)), texts, [{"keys": [f"word{place}"]} for place in range(count)], answers)


def arms_named(names: Iterable[str]) -> list[Arm]:
    return [Arm(name, name, f"what {name} means") for name in names]


def compared(corpus: Corpus, arms: list[Arm], resamples: int, second: Embed | None = None) -> list[dict[str, Any]]:
    measured = {arm.name: measure(corpus.texts, corpus.answers[arm.name], second) for arm in arms}
    return compare_arms(corpus, arms, measured, Evaluation(resamples=resamples), 0, letters)


def test_arms_are_compared_with_the_base_model_on_the_same_texts() -> None:
    count = 30
    base = [answer("[number]" if place % 3 else "[number") for place in range(count)]
    better = [answer(f"[word{place}]", 0.7) for place in range(count)]
    corpus = corpus_of(base=base, tuned=better, base_plain=base, round_1=base)
    arms = arms_named(corpus.answers)
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
    assert {one["p_holm"] for one in rows["base_plain"]["against"].values()} == {1.0}
    assert rows["tuned"]["agreement"]["exact_f1"]["value"] == 1
    nothing = [meta.clear() for meta in corpus.metas]
    assert nothing and compared(corpus, arms, 500)[0]["agreement"] is None
    json.dumps(rows)


def test_a_second_model_is_asked_for_every_arm() -> None:
    base = [answer("[number]") for _ in range(5)]
    corpus = corpus_of(base=base, tuned=[answer(f"[word{place} number{place} text of]") for place in range(5)])
    arms = arms_named(corpus.answers)
    rows = compared(corpus, arms, 500, letters)
    assert all("found_by_meaning" in row["measures"] for row in rows)


def sampled(folder: Path, rows: list[tuple[int, str, dict[str, Any] | None]]) -> None:
    folder.mkdir()
    with RowWriter(folder / "part.parquet", SAMPLED) as out:
        for id_, decoding, found in rows:
            own = {"candidates": [found] if found else [], "reason": None if found else "too_long"}
            out.write({"text_id": id_, "text": f"text {id_}", "meta": "{}", "decoding": decoding} | own)


def test_answers_are_read_for_the_texts_that_both_models_answered(tmp_path: Path) -> None:
    arms = arms_of(load_config(DEMO, ["evaluation.arms=[base_plain]"]), [])
    assert [(arm.name, arm.model) for arm in arms] == [("base", "base"), ("base_plain", "base"), ("tuned", "tuned")]
    given = [(id_, "base", answer("[a]")) for id_ in (1, 2)]
    sampled(tmp_path / "base", [*given, (1, "base_plain", None), (2, "base_plain", answer("[b]"))])
    sampled(tmp_path / "tuned", [(1, "tuned", answer("[a]")), (2, "tuned", None)])
    corpus = read_corpus(tmp_path, arms)
    assert (corpus.ids, corpus.texts) == ([1], ["text 1"])
    assert corpus.answers["base_plain"][0]["reason"] == "too_long" and not corpus.valid("base_plain")[0]
    row = compared(corpus, arms, 100)[1]
    assert (row["name"], row["missing"], row["defects"]) == ("base_plain", 1, {"too_long": 1})
    write_corpus(corpus, tmp_path / "answers.parquet")
    [row] = read_rows(tmp_path / "answers.parquet")
    assert row.keys() == set(ANSWERED.names)
    assert {one["arm"]: one["tags"] for one in row["answers"]}["base"] == ["a"]
    with pytest.raises(UserError, match="No held-out text"):
        (tmp_path / "tuned" / "part.parquet").unlink()
        read_corpus(tmp_path, arms)


def decodings(*overrides: str) -> dict[str, Decoding]:
    arms = arms_of(load_config(DEMO, overrides), [1, 3])
    return {arm.name: arm.decoding for arm in arms if arm.decoding}


def test_every_arm_says_how_its_model_is_asked() -> None:
    everything = f"evaluation.arms=[{', '.join(ARMS)}]"
    arms = {arm.name: arm for arm in arms_of(load_config(DEMO, [everything]), [1, 3])}
    others = {name: arm.model for name, arm in arms.items() if arm.model not in ("base", "tuned")}
    assert others == {"round_1": "round_1", "round_3": "round_3"} | dict.fromkeys(EXTRACTORS, KEYPHRASES)
    asked = decodings(everything)
    assert all(decoding.name == name for name, decoding in asked.items())
    shown = read_examples(CONFIG.prompt)
    helped = {name for name, decoding in asked.items() if decoding.examples}
    assert len(shown) == 3 and helped == {"base", "base_vote"} and asked["base"].examples == shown
    assert {name for name, one in asked.items() if one.pattern} == {*helped, "tuned_constrained"}
    votes = {name: (one.samples, one.temperature) for name, one in asked.items() if one.vote}
    assert votes == dict.fromkeys(("base_vote", "tuned_vote"), (5, 0.8))
    assert {one.temperature for name, one in asked.items() if name not in votes} == {0.0}
    assert asked["tuned"] == replace(asked["base_plain"], name="tuned") == replace(asked["round_3"], name="tuned")


def test_a_base_without_examples_is_asked_as_the_tagger_is() -> None:
    asked = decodings("prompt.examples=[]", "evaluation.arms=[base_vote, tuned_vote]")
    assert list(asked) == ["base", "base_vote", "tuned", "tuned_vote"]
    assert asked["base"] == replace(asked["tuned"], name="base")
    assert asked["base_vote"] == replace(asked["tuned_vote"], name="base_vote")
