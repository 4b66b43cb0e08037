"""Search by hand: what each method finds, fusion, passages, and figures that a second library confirms."""

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semtag.configs.errors import UserError
from semtag.configs.schema import Evaluation, Scoring
from semtag.evaluation.classification import Inference
from semtag.evaluation.documents import Directions, directions_of, document_strings, ways_to_read
from semtag.evaluation.measures import words_of
from semtag.evaluation.search import (
    cross_encoder,
    figures_of,
    fusion,
    hits_by_meaning,
    hits_by_words,
    passages,
    reranked,
    search,
)
from semtag.scoring.embedder import Embedder

EVALUATION = Evaluation(resamples=200)


def bag_of_words(strings: list[str]) -> np.ndarray:
    """Embeddings for tests: counts of words by hash, shape [N, 256]."""
    vectors = np.zeros((len(strings), 256))
    for place, string in enumerate(strings):
        for word in words_of(string):
            vectors[place, zlib.crc32(word.encode()) % 256] += 1
    return vectors


def scattered(strings: list[str]) -> np.ndarray:
    """Embeddings for tests: a random direction for each string, the same each time, shape [N, 16]."""
    return np.stack([np.random.default_rng(zlib.crc32(string.encode())).normal(size=16) for string in strings])


def tiny_classifier(folder: Path, words: list[str], labels: dict[int, str]) -> str:
    """The path of a model of the kind of a reranker or of inference, which knows some words and has learnt nothing."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: place for place, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = {"id2label": labels, "label2id": {name: place for place, name in labels.items()}}
    config = BertConfig(vocab_size=len(vocabulary), **shape, **names, initializer_range=1.0)
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def test_what_is_read_of_a_text() -> None:
    texts, tags = ["A mill", "A boat"], [["water", "corn"], []]
    assert document_strings(texts, tags, "tags") == ["water, corn", ""]
    assert document_strings(texts, tags, "both") == ["water, corn. A mill", "A boat"]
    assert [way[:2] for way in ways_to_read(texts, {"a": tags})] == [("text", "text"), ("a", "tags"), ("a", "both")]


def test_each_string_is_embedded_once_and_an_empty_one_never() -> None:
    asked: list[str] = []

    def embed(strings: list[str]) -> np.ndarray:
        asked.extend(strings)
        return bag_of_words(strings)

    directions = Directions(embed)
    vectors = directions(["a b", "", "a b"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 1])
    assert directions_of(directions)(["c", "a b"]).shape == (2, 256)
    assert asked == ["a b", "c"]
    assert not Directions(embed)([""]).any()
    assert directions([]).shape == (0, 256)  # of a model that gave no answer


def test_figures_equal_a_second_library() -> None:
    from sklearn.metrics import average_precision_score, ndcg_score

    rng = np.random.default_rng(0)
    scores_Q_N = rng.permuted(np.tile(np.arange(80.0), (60, 1)), axis=1)
    wanted_Q_N = rng.random((60, 80)) < rng.choice([0.02, 0.1, 0.4], size=(60, 1))
    wanted_Q_N[:, 0] |= ~wanted_Q_N.any(axis=1)
    found = figures_of([*np.argsort(-scores_Q_N, axis=1)], [np.flatnonzero(own).tolist() for own in wanted_Q_N])
    for query, (scores_N, wanted_N) in enumerate(zip(scores_Q_N, wanted_Q_N, strict=True)):
        assert found["map"][query] == pytest.approx(average_precision_score(wanted_N, scores_N), abs=1e-9)
        assert found["ndcg_at_10"][query] == pytest.approx(ndcg_score([wanted_N], [scores_N], k=10), abs=1e-9)
        first = np.argsort(-scores_N)[:10]
        assert found["recall_at_10"][query] == pytest.approx(wanted_N[first].sum() / wanted_N.sum(), abs=1e-9)


def test_figures_by_hand() -> None:
    found = figures_of([np.array([4, 7, 2]), np.zeros(0, dtype=int)], [[7, 9], [0]])
    assert found["map"] == pytest.approx([1 / 2 / 2, 0])  # 7 at rank 2, 9 not found
    assert found["ndcg_at_10"] == pytest.approx([(1 / math.log2(3)) / (1 + 1 / math.log2(3)), 0])
    assert found["recall_at_10"] == pytest.approx([0.5, 0])


def found(hits: list[np.ndarray]) -> list[list[int]]:
    return [own.tolist() for own in hits]


def test_by_words() -> None:
    documents = ["trains in the valley", "a train and a valley", "the long and winding road home", "", "a train"]
    assert found(hits_by_words(["valleys", "who has the train?", "nothing", "the"], documents)) == [
        [0, 1],  # stems, equal scores in their order
        [4, 0, 1],  # a shorter document first
        [],
        [],  # a stop word
    ]
    assert found(hits_by_words(["train"], ["", "the"])) == [[]]


def test_by_meaning() -> None:
    documents = ["mill", "", "mill water", "boat", "mill"]
    assert found(hits_by_meaning(["mill", "water"], documents, Directions(bag_of_words))) == [
        [0, 4, 2, 3],  # equal documents tie, the empty one is not found
        [2, 0, 3, 4],
    ]
    assert found(hits_by_meaning(["mill"], [""], Directions(bag_of_words))) == [[]]


def test_the_best_passage_of_a_long_document_counts() -> None:
    words = [f"w{place}" for place in range(500)]
    cut = passages(" ".join(words))
    assert [own.split()[0] for own in cut] == ["w0", "w150", "w300"]
    assert [len(own.split()) for own in cut] == [200, 200, 200]
    assert passages(" ".join(words[:200])) == [" ".join(words[:200])]
    assert [len(own.split()) for own in passages(" ".join(words[:201]))] == [200, 51]
    assert passages(" \n") == []
    long = " ".join(["noise"] * 150 + ["mill"] * 200 + ["noise"] * 300)
    hits = hits_by_meaning(["mill"], ["mill mill noise", long], Directions(bag_of_words))
    assert found(hits) == [[1, 0]]  # as a whole, the long one is mostly noise


def test_reciprocal_rank_fusion_by_hand() -> None:
    # 5: 1/61 + 1/62; 3: 1/62 + 1/63; 9: 1/61; 8: 1/63
    assert fusion([np.array([5, 3, 8]), np.array([9, 5, 3])]).tolist() == [5, 3, 9, 8]
    assert fusion([np.array([2]), np.array([1])]).tolist() == [1, 2]
    assert fusion([np.array([1, 2]), np.array([3, 2])], k=0).tolist() == [1, 2, 3]
    assert fusion([np.zeros(0, dtype=int)] * 2).tolist() == []


def test_the_judge_orders_the_first_fifty() -> None:
    documents = [str(place) for place in range(60)]
    hits = [np.arange(60), np.zeros(0, dtype=int), np.array([7, 9])]
    ordered = reranked(["a", "b", "c"], documents, hits, lambda pairs: np.array([float(own[1]) for own in pairs]))
    assert found(ordered) == [[*range(49, -1, -1), *range(50, 60)], [], [9, 7]]


def test_a_cross_encoder_judges(tmp_path: Path) -> None:
    name = tiny_classifier(tmp_path / "one", ["mill", "boat", "water"], {0: "score"})
    scores = cross_encoder(name)([("mill", "water"), ("mill", "boat"), ("mill", "water")])
    assert scores.shape == (3,) and scores[0] == pytest.approx(scores[2], abs=1e-5) and scores[0] != scores[1]
    asked = Evaluation(resamples=200, reranker=name)
    rows = run(["mill", "boat", "water"], [["mill"], ["boat"], ["water"]], {}, asked)["rows"]
    assert [row["method"] for row in rows] == ["bm25", "dense", "fusion", "reranked"]
    with pytest.raises(UserError, match="2 scores"):
        cross_encoder(tiny_classifier(tmp_path / "two", ["mill"], {0: "no", 1: "yes"}))
    with pytest.raises(UserError, match="Cannot load"):
        cross_encoder(str(tmp_path / "none"))


def run(
    texts: list[str], questions: list[list[str]], tags: dict[str, Any], evaluation: Evaluation = EVALUATION
) -> dict[str, Any]:
    answer = search(texts, questions, tags, bag_of_words, evaluation, 0)
    assert answer is not None
    return answer


def test_tags_that_answer_find_and_others_do_not() -> None:
    texts = [f"text {place}" for place in range(8)]
    questions = [[f"where is thing{place} kept?", "what is common?"] for place in range(8)]
    tags = {"good": [[f"thing{place}"] for place in range(8)], "bad": [["text"], *([] for _ in range(7))]}
    answer = run(texts, questions, tags)
    assert answer == run(texts, questions, tags)
    assert (answer["texts"], answer["queries"]) == (8, 9)  # one question was asked of all
    rows = {(row["arm"], row["on"], row["method"]): row for row in json.loads(json.dumps(answer["rows"]))}
    assert len(rows) == 5 * 3
    for on in ("tags", "both"):
        assert rows["good", on, "bm25"]["map"]["value"] == pytest.approx(8 / 9)
        assert rows["bad", on, "bm25"]["recall_at_10"]["value"] == 0
    assert rows["text", "text", "bm25"]["map"] == {"value": 0, "low": 0, "high": 0}
    fused = rows["good", "tags", "fusion"]["ndcg_at_10"]
    assert 8 / 9 <= fused["value"] <= 1 and fused["low"] <= fused["value"] <= fused["high"]


def test_without_questions_there_is_no_search() -> None:
    assert search(["a", "b"], [[], []], {}, bag_of_words, EVALUATION, 0) is None


@pytest.mark.parametrize(
    "load",
    [
        lambda folder: Embedder(Scoring(model=folder)),
        cross_encoder,
        lambda folder: Inference(folder, ["ship", "train"]),
    ],
    ids=["embedder", "reranker", "inference"],
)
def test_weights_that_are_no_safetensors_are_refused(load: Callable[[str], Any], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = Path(tiny_classifier(tmp_path / "model", ["mill", "boat"], {0: "entailment"}))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    load(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors"):
        load(str(folder))
