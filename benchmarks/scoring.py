"""Scoring: ours against one raw `SentenceTransformer.encode`, and against a new encoding for each pair.

    python -m benchmarks.scoring --json scoring.json

Every contender scores the same K candidates of the same texts on the CPU, with all-MiniLM-L6-v2 in float32 and the same
batch size, and all must come to the same scores within 1e-5:

    ours     semtag.scoring.embedder.Embedder and semtag.scoring.similarity.score_texts, on the batches of texts that
             the pipeline hands them, one after another: it never sees all strings at once. Each distinct string is
             encoded once.
    raw      one call of SentenceTransformer.encode over all distinct strings, texts first, in order of appearance, and
             nothing else: no scores, no ranks. It may sort all strings by length before it pads them.
    naive    for each batch the text and the tags of each of its pairs, encoded anew.

A candidate is one to three words of its text, drawn at random, a third of them replaced by one of sixteen generic
labels. So answers repeat, within a text and from text to text; the line above the table says how many tag strings are
distinct. Neither the loading of the model nor a first batch of texts that warms it up is timed. Rounds alternate the
order of the contenders; figures are medians, ratios medians of the rounds' ratios.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import demo_texts, machine, markdown, median_ratio, order, publish
from semtag.configs.schema import Sampling
from semtag.configs.scoring import Scoring
from semtag.evaluation.measures import words_of
from semtag.generation.records import Candidate, SampledText
from semtag.scoring.embedder import Embedder
from semtag.scoring.similarity import cosine, score_texts, tag_string
from semtag.store.locations import local_folder

Texts = list[SampledText]
CONTENDERS = ("ours", "raw", "naive")
GENERIC = (
    "history", "science", "nature", "information", "overview", "general", "article", "facts",
    "description", "people", "world", "things", "knowledge", "summary", "topic", "education",
)  # fmt: skip
MOST_TAGS = 3
SHORTEST = 6  # letters of a word that may be a tag


def make_texts(texts: list[str], samples: int, seed: int) -> Texts:
    """The texts with candidates that have tags and no score yet."""
    rng, made = random.Random(seed), list[SampledText]()
    for text in texts:
        labels = sorted({word for word in words_of(text) if len(word) >= SHORTEST})
        candidates = [Candidate(place, "", tags=draw_tags(labels, rng)) for place in range(samples)]
        made.append(SampledText(len(made), text, None, "{}", "drawn", candidates=candidates))
    return made


def draw_tags(labels: list[str], rng: random.Random) -> list[str]:
    """One to three distinct tags, each of the labels or, one time in three, generic."""
    tags = [rng.choice(GENERIC if rng.random() < 1 / 3 else labels) for _ in range(rng.randint(1, MOST_TAGS))]
    return list(dict.fromkeys(tags))


def pairs_of(texts: Texts) -> list[tuple[str, str]]:
    """Text and tag string of each candidate, in order of the samples."""
    return [(text.text, tag_string(candidate.tags)) for text in texts for candidate in text.candidates]


def batches(texts: Texts, size: int) -> list[Texts]:
    """The texts as the pipeline hands them over: `size` at a time."""
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def ours(texts: Texts, scoring: Scoring, texts_per_batch: int) -> tuple[float, list[float]]:
    """Seconds, and the scores in order of text and sample."""
    embedder = Embedder(scoring)
    embedder.texts([text.text for text in texts[:texts_per_batch]])  # warm-up; texts are not remembered
    start = time.perf_counter()
    scored = list[SampledText]()
    for batch in batches(texts, texts_per_batch):
        scored += score_texts(batch, embedder.texts, embedder.tags)
    seconds = time.perf_counter() - start
    by_sample = (sorted(text.candidates, key=lambda candidate: candidate.sample) for text in scored)
    return seconds, [candidate.score or 0.0 for candidates in by_sample for candidate in candidates]


def raw(texts: Texts, scoring: Scoring, texts_per_batch: int) -> tuple[float, list[float]]:
    """Seconds of one call over all distinct strings, and the scores, made of its embeddings outside that time."""
    encode, pairs = _encoder(scoring), pairs_of(texts)
    encode([text.text for text in texts[:texts_per_batch]])
    strings = list(dict.fromkeys([*(text for text, _ in pairs), *(tags for _, tags in pairs)]))
    start = time.perf_counter()
    embeddings = encode(strings)
    seconds = time.perf_counter() - start
    place = {string: index for index, string in enumerate(strings)}
    left, right = (embeddings[[place[pair[side]] for pair in pairs]] for side in (0, 1))
    return seconds, cosine(left, right).tolist()


def naive(texts: Texts, scoring: Scoring, texts_per_batch: int) -> tuple[float, list[float]]:
    """Seconds, and the scores."""
    encode, scores = _encoder(scoring), list[float]()
    encode([text.text for text in texts[:texts_per_batch]])
    start = time.perf_counter()
    for batch in batches(texts, texts_per_batch):
        pairs = pairs_of(batch)
        left, right = encode([text for text, _ in pairs]), encode([tags for _, tags in pairs])
        scores += cosine(left, right).tolist()
    return time.perf_counter() - start, scores


def _encoder(scoring: Scoring) -> Callable[[list[str]], np.ndarray]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(local_folder(scoring.model), device="cpu", model_kwargs={"dtype": scoring.dtype})

    def encode(strings: list[str]) -> np.ndarray:
        embeddings: np.ndarray = model.encode(strings, batch_size=scoring.batch_size, show_progress_bar=False)
        return embeddings

    return encode


def check_agreement(scores: dict[str, list[float]]) -> None:
    """Raises AssertionError when two contenders came to other scores: then they did not do the same work."""
    for name, theirs in scores.items():
        apart = float(np.abs(np.array(scores["raw"]) - np.array(theirs)).max())
        assert apart < 1e-5, f"{name}: scores differ from those of raw by up to {apart:.2g}"


def run(texts: Texts, scoring: Scoring, texts_per_batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    functions = {"ours": ours, "raw": raw, "naive": naive}
    for round_ in range(rounds):
        scores: dict[str, list[float]] = {}
        for name in order(CONTENDERS, round_):
            taken, scores[name] = functions[name](texts, scoring, texts_per_batch)
            seconds[name].append(taken)
            print(f"round {round_ + 1} of {rounds}: {name} {taken:.2f} s", flush=True)
        check_agreement(scores)
    return seconds


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=512, help="texts to score (512)")
    parser.add_argument("--samples", type=int, default=4, metavar="K", help="candidates of each text (4)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each contender runs (5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the candidates (0)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    texts = make_texts(demo_texts(arguments.texts), arguments.samples, arguments.seed)
    seconds = run(texts, Scoring(model="all-MiniLM-L6-v2"), Sampling().batch_size, arguments.rounds)
    pairs = pairs_of(texts)
    result = {
        "machine": machine(),
        "texts": len(texts),
        "samples": arguments.samples,
        "distinct_tag_strings": len({tags for _, tags in pairs}),
        "seconds": seconds,
        "texts_per_second": {name: len(texts) / statistics.median(taken) for name, taken in seconds.items()},
        "ratio_to_raw": median_ratio(seconds["raw"], seconds["ours"]),
        "ratio_to_naive": median_ratio(seconds["naive"], seconds["ours"]),
    }
    print(f"{len(texts)} texts, {len(pairs)} candidates, {result['distinct_tag_strings']} distinct tag strings")
    publish(result, table(result), arguments.json)


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    ratios = {"ours": "", "raw": result["ratio_to_raw"], "naive": result["ratio_to_naive"]}
    rows = [
        (name, statistics.median(result["seconds"][name]), result["texts_per_second"][name], ratios[name])
        for name in CONTENDERS
    ]
    return markdown(["contender", "s, median", "texts/s", "ours is faster by"], rows)


if __name__ == "__main__":
    main()
