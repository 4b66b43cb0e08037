"""Search by hand: what each method finds, ties, fusion, passages, and figures that a second library confirms."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semtag.configs.errors import UserError
from semtag.configs.evaluation import Evaluation
from semtag.configs.scoring import Scoring
from semtag.evaluation.answers import Corpus
from semtag.evaluation.embeddings import Judge
from semtag.evaluation.measures import Lists, words_of
from semtag.evaluation.rows import Rows, by_key
from semtag.evaluation.tasks.classification import Inference
from semtag.evaluation.tasks.inputs import strings_of, ways_to_read
from semtag.evaluation.tasks.search import (
    figures_of,
    fusion,
    hits_by_meaning,
    hits_by_words,
    passages,
    questions_of,
    reranked,
    search,
)
from semtag.scoring.criteria import cross_encoder
from semtag.scoring.embedder import Embedder

EVALUATION = Evaluation()
Found = dict[tuple[str, ...], np.ndarray]


def bag_of_words(strings: list[str]) -> np.ndarray:
    """Embeddings for tests: counts of words by hash, shape [N, 2048]."""
    vectors = np.zeros((len(strings), 2048))
    for place, string in enumerate(strings):
        for word in words_of(string):
            vectors[place, zlib.crc32(word.encode()) % 2048] += 1
    return vectors


def judge_of_words() -> Judge:
    return Judge("bag of words", False, bag_of_words, bag_of_words)


def corpus_of(texts: Sequence[str], **columns: Sequence[Any]) -> Corpus:
    """A corpus of texts and their columns, with an id for each text that depends on the text alone."""
    metas = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    ids = [zlib.crc32(text.encode()) for text in texts]
    return Corpus(ids, list(texts), [None] * len(texts), metas or [{} for _ in texts], {})


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
    ways = ways_to_read(["A mill", "A boat"], {"a": [["water", "corn"], []]})
    assert [tuple(way) for way in ways] == [
        ("text", "text", ["A mill", "A boat"]),
        ("a", "tags", ["water, corn", ""]),
        ("a", "both", ["water, corn. A mill", "A boat"]),
    ]


def test_a_column_as_strings() -> None:
    corpus = corpus_of(["a", "b", "c", "d"], label=[3, " ", None, "x"])
    assert strings_of(corpus, "label") == ["3", None, None, "x"]
    assert strings_of(corpus, "other") == [None] * 4


def figures(hits: list[np.ndarray], relevant: list[list[int]]) -> dict[str, np.ndarray]:
    return dict(figures_of(hits, relevant))


def test_figures_equal_a_second_library() -> None:
    from sklearn.metrics import average_precision_score, ndcg_score

    rng = np.random.default_rng(0)
    scores_Q_N = rng.permuted(np.tile(np.arange(80.0), (60, 1)), axis=1)
    wanted_Q_N = rng.random((60, 80)) < rng.choice([0.02, 0.1, 0.4], size=(60, 1))
    wanted_Q_N[:, 0] |= ~wanted_Q_N.any(axis=1)
    found = figures([*np.argsort(-scores_Q_N, axis=1)], [np.flatnonzero(own).tolist() for own in wanted_Q_N])
    for query, (scores_N, wanted_N) in enumerate(zip(scores_Q_N, wanted_Q_N, strict=True)):
        assert found["map"][query] == pytest.approx(average_precision_score(wanted_N, scores_N), abs=1e-9)
        assert found["ndcg_at_10"][query] == pytest.approx(ndcg_score([wanted_N], [scores_N], k=10), abs=1e-9)
        first = np.argsort(-scores_N)[:10]
        assert found["recall_at_10"][query] == pytest.approx(wanted_N[first].sum() / wanted_N.sum(), abs=1e-9)


def test_figures_by_hand() -> None:
    found = figures([np.array([4, 7, 2]), np.zeros(0, dtype=int)], [[7, 9], [0]])
    assert found["map"] == pytest.approx([1 / 2 / 2, 0])  # 7 at rank 2, 9 not found
    assert found["ndcg_at_10"] == pytest.approx([(1 / math.log2(3)) / (1 + 1 / math.log2(3)), 0])
    assert found["recall_at_10"] == pytest.approx([0.5, 0])


def by_words(questions: list[str], documents: list[str]) -> list[list[int]]:
    asked = questions_of([questions], range(len(documents)))
    return [own.tolist() for own in hits_by_words(asked, documents)]


def by_meaning(questions: list[str], documents: list[str]) -> list[list[int]]:
    asked = questions_of([questions], range(len(documents)))
    cut_N = [passages(document) for document in documents]
    return [own.tolist() for own in hits_by_meaning(asked, cut_N, judge_of_words())]


def test_by_words() -> None:
    documents = ["trains in the valley", "a train and the valley", "the long and winding road home", "", "train"]
    some, trains, nothing = by_words(["valleys", "a train?", "nothing"], documents)
    assert sorted(some) == [0, 1] and nothing == []  # by stems
    assert trains[0] == 1 and set(trains) == {0, 1, 4}  # `a` is a word too
    assert by_words(["train"], ["", "?!"]) == [[]]


def test_by_meaning() -> None:
    mill, water = by_meaning(["mill", "water"], ["mill", "", "mill water", "boat", "mill"])
    assert sorted(mill[:2]) == [0, 4] and mill[2:] == [2, 3]  # equal documents tie, the empty one is not found
    assert water[0] == 2 and sorted(water[1:]) == [0, 3, 4]
    assert by_meaning(["mill"], [""]) == [[]]


def test_ties_are_in_an_order_of_chance_that_each_question_has_of_its_own() -> None:
    questions = [f"mill {place}" for place in range(400)]
    for hits in (by_words(questions, ["a mill"] * 8), by_meaning(questions, ["a mill"] * 8)):
        ranks_Q_N = np.argsort(hits, axis=1)
        assert np.abs(ranks_Q_N.mean(axis=0) - 3.5).max() < 0.5  # standard error 0.11
        assert len({tuple(own) for own in hits}) > 100


def test_the_order_of_the_texts_changes_no_question() -> None:
    things = ["mill", "boat", "train"]
    texts = [f"the {things[place % 3]} of place{place}" for place in range(30)]
    questions = [[f"where is the {text.split()[1]} {place}?"] for place, text in enumerate(texts)]
    tags = [[things[place % 3]] for place in range(30)]  # ten texts tie for each question

    def found_in(order: np.ndarray) -> Rows:
        own: list[Any] = [[*map(column.__getitem__, order)] for column in (texts, questions, tags)]
        return by_key(search(corpus_of(own[0], questions=own[1]), {"same": own[2]}, judge_of_words(), EVALUATION))

    shuffled = np.random.default_rng(0).permutation(30)
    found = [found_in(order) for order in (np.arange(30), shuffled)]
    assert len(found[0]) == 3 * 3 * 3
    for key, one in found[0].items():
        other = found[1][key]
        assert one.values_N[shuffled] == pytest.approx(other.values_N), key
        assert one.units_N[shuffled].tolist() == other.units_N.tolist()


def test_the_best_passage_of_a_long_document_counts() -> None:
    words = [f"w{place}" for place in range(380)]
    cut = passages(" ".join(words))
    assert [own.split()[0] for own in cut] == ["w0", "w100", "w200", "w300"]
    assert [len(own.split()) for own in cut] == [150, 150, 150, 80]
    assert passages(" ".join(words[:150])) == [" ".join(words[:150])]
    assert [len(own.split()) for own in passages(" ".join(words[:151]))] == [150, 51]
    assert passages(" \n") == []
    long = " ".join(["noise"] * 100 + ["mill"] * 150 + ["noise"] * 300)
    assert by_meaning(["mill"], ["mill mill noise", long]) == [[1, 0]]  # as a whole, the long one is mostly noise


def test_reciprocal_rank_fusion_by_hand() -> None:
    ties_N = np.arange(10)
    # 5: 1/61 + 1/62; 3: 1/62 + 1/63; 9: 1/61; 8: 1/63
    assert fusion([np.array([5, 3, 8]), np.array([9, 5, 3])], ties_N).tolist() == [5, 3, 9, 8]
    assert fusion([np.array([2]), np.array([1])], ties_N).tolist() == [1, 2]
    assert fusion([np.array([2]), np.array([1])], -ties_N).tolist() == [2, 1]
    assert fusion([np.array([1, 2]), np.array([3, 2])], ties_N, k=0).tolist() == [1, 2, 3]
    assert fusion([np.zeros(0, dtype=int)] * 2, ties_N).tolist() == []


def test_the_cross_encoder_orders_the_first_fifty_by_their_best_passage() -> None:
    def score(pairs: list[tuple[str, str]]) -> np.ndarray:
        return np.array([float(passage) for _, passage in pairs])

    cut_N = [[str(place)] for place in range(60)]
    ordered = reranked("a", cut_N, np.arange(60), score)
    assert ordered.tolist() == [*range(49, -1, -1), *range(50, 60)]
    assert reranked("a", cut_N, np.zeros(0, dtype=int), score).tolist() == []
    assert reranked("a", [["3"], ["1", "5", "2"], ["4"]], np.array([0, 1, 2]), score).tolist() == [1, 2, 0]


def test_a_cross_encoder_judges(tmp_path: Path) -> None:
    name = tiny_classifier(tmp_path / "one", ["mill", "boat", "water"], {0: "score"})
    scores = cross_encoder(name, "the key")([("mill", "water"), ("mill", "boat"), ("mill", "water")])
    assert scores.shape == (3,) and scores[0] == pytest.approx(scores[2], abs=1e-5) and scores[0] != scores[1]
    found = run(["mill", "boat", "water"], [["mill"], ["boat"], ["water"]], {}, Evaluation(reranker=name))
    assert [key[2] for key in found] == [*["bm25"] * 3, *["dense"] * 3, *["fusion"] * 3, *["reranked"] * 3]
    with pytest.raises(UserError, match="2 scores"):
        cross_encoder(tiny_classifier(tmp_path / "two", ["mill"], {0: "no", 1: "yes"}), "the key")
    with pytest.raises(UserError, match="Cannot load"):
        cross_encoder(str(tmp_path / "none"), "the key")


def run(
    texts: list[str], questions: Sequence[Any], tags: Mapping[str, Lists], evaluation: Evaluation = EVALUATION
) -> Found:
    """Values by arm, input, method and measure."""
    found = search(corpus_of(texts, questions=questions), tags, judge_of_words(), evaluation)
    return {(one.key.arm, one.key.input, *one.key[3:]): one.values_N for one in found}


def test_tags_that_answer_find_and_others_do_not() -> None:
    texts = [f"text {place}" for place in range(8)]
    questions = [[f"where is thing{place} kept?", "what is common?"] for place in range(8)]
    tags = {"good": [[f"thing{place}"] for place in range(8)], "bad": [["text"], *([] for _ in range(7))]}
    found = run(texts, questions, tags)
    assert len(found) == 5 * 3 * 3
    for read in ("tags", "both"):
        assert found["good", read, "bm25", "map"].tolist() == [1, 0, *[1] * 7]  # the second was asked of all
        assert not found["bad", read, "bm25", "recall_at_10"].any()
    assert not found["text", "text", "bm25", "map"].any()
    # By meaning the documents tie for the second question, and each of them is wanted.
    assert found["good", "tags", "dense", "ndcg_at_10"] == pytest.approx(np.ones(9))


def test_a_question_is_resampled_with_the_article_of_its_text() -> None:
    corpus = corpus_of(
        [f"text {place}" for place in range(40)], questions=[["the same", f"{place}"] for place in range(40)]
    )
    corpus.articles[:] = [f"article {place // 2}" for place in range(40)]
    one = search(corpus, {}, judge_of_words(), EVALUATION)[0]
    assert one.clusters_N.tolist() == [0, *(place // 2 for place in range(40))]  # `the same` was first asked of text 0
    assert len(set(one.units_N.tolist())) == 41


@pytest.mark.parametrize("questions", [[[], [" ", None]], ["no list", None]])
def test_without_questions_there_is_no_search(questions: list[Any]) -> None:
    assert run(["a", "b"], questions, {"none": [[], []]}) == {}


def test_texts_without_words_and_other_scripts_break_nothing() -> None:
    texts = ["!!!", "水车在河边", "  ", "Мельница"]
    questions = [["水车在哪里?"], ["???"], ["Где мельница?"], ["x"]]
    found = run(texts, questions, {"none": [[]] * 4, "one": [["水车"], [], [], []]})
    assert all(((values >= 0) & (values <= 1)).all() for values in found.values())
    assert found["text", "text", "bm25", "recall_at_10"].tolist() == [0, 0, 0, 0]  # asked of other texts
    assert found["one", "tags", "bm25", "map"].tolist() == [1, 0, 0, 0]
    assert not found["none", "tags", "fusion", "map"].any()


@pytest.mark.parametrize(
    "load",
    [
        lambda folder: Embedder(Scoring(model=folder)),
        lambda folder: cross_encoder(folder, "the key"),
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
