"""Which cheats would the score reward? Eight answers that tag nothing, against the best of a run's sampled candidates.

    python -m benchmarks.cheats runs/demo --json cheats.json

All cheats keep to the form of an answer. Each is scored as a candidate is, on the texts of the run's first round. It
wins where its mean score is above that of the best valid candidate of each text. What the tagger has of the kinds that
win is watched in training: `cheats` of the validate steps in manifest.json.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import machine, markdown, publish
from semtag.configs.schema import Prompt
from semtag.evaluation.measures import words_of
from semtag.scoring.embedder import Embedder
from semtag.scoring.similarity import cosine, tag_string
from semtag.store.parquet import read_rows
from semtag.store.run_dir import RunDir

COMMON = 0.25  # a word in more than this share of the texts counts as a stop word


def cut(words: list[str], prompt: Prompt) -> list[str]:
    """Words in their order as tags of as many words as a tag may have, as many tags as an answer may have."""
    size = prompt.max_tag_words
    return [" ".join(words[at : at + size]) for at in range(0, min(len(words), size * prompt.max_tags), size)]


def cheats(text: str, title: str, frequency: Counter[str], texts: int, prompt: Prompt) -> dict[str, list[str]]:
    """The cheats that need the text alone, by name; `frequency` is the number of the `texts` that have a word."""
    words = words_of(text)
    distinct = list(dict.fromkeys(words))
    rare = sorted(distinct, key=lambda word: frequency[word])
    most = prompt.max_tags * prompt.max_tag_words
    middle = max(0, len(words) // 2 - most // 2)
    return {
        "all words by rarity": cut(rare, prompt),
        "first words": cut(words, prompt),
        "title words": cut(words_of(title), prompt) or [rare[0]],
        "a run cut in pieces": cut(words[middle:], prompt),
        "plural twins": [rare[0], f"{rare[0]}s"],
        "stop words": cut([word for word in distinct if frequency[word] > COMMON * texts] or [rare[-1]], prompt),
        "the prompt's words": cut(words_of(prompt.user.replace("{text}", "")), prompt),
    }


def compare(rows: list[dict[str, Any]], title_column: str, prompt: Prompt, embedder: Embedder) -> list[list[Any]]:
    """Name, mean score, and share of texts on which it beats the best candidate: of candidates and of each cheat."""
    best = [max((c for c in row["candidates"] if c["format"] == "valid"), key=lambda c: c["score"]) for row in rows]
    texts_N_D, best_N = embedder.texts([row["text"] for row in rows]), np.array([c["score"] for c in best])
    frequency = Counter(word for row in rows for word in set(words_of(row["text"])))
    answers: dict[str, list[list[str]]] = {
        "another text's tags": [best[place - 1]["tags"] for place in range(len(best))]
    }
    for row in rows:
        title = str(json.loads(row["meta"]).get(title_column) or "")
        for name, tags in cheats(row["text"], title, frequency, len(rows), prompt).items():
            answers.setdefault(name, []).append(tags)
    lines: list[list[Any]] = [["the best candidate", float(best_N.mean()), ""]]
    for name, tags_N in answers.items():
        scores_N = cosine(texts_N_D, np.stack([embedder.tags([tag_string(tags)])[0] for tags in tags_N]))
        lines.append([name, float(scores_N.mean()), f"{(scores_N > best_N).mean():.0%}"])
    return lines


def main() -> None:
    """Print the table of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run directory with a ranked first round")
    parser.add_argument("--title", default="title", help="column with the title of a text (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    config = run.config()
    rows = [
        row
        for row in read_rows(run.layout.round(1).ranked, ["text", "meta", "candidates"])
        if any(candidate["format"] == "valid" for candidate in row["candidates"])
    ]
    lines = compare(rows, arguments.title, config.prompt, Embedder(config.scoring))
    table = markdown(["answer", "mean score", "beats the best candidate"], lines)
    publish({"machine": machine(), "texts": len(rows), "lines": lines}, table, arguments.json)


if __name__ == "__main__":
    main()
