"""A whole run over several seeds: what each round is worth, beside the untrained model and extractors.

    python -m benchmarks.seeds configs/demo.yaml --json docs/demo.json
    python -m benchmarks.seeds configs/demo.yaml data.path=squad.json ... --name squad --json docs/squad.json

A seed changes the samples, the rounds' texts and the training, and the split unless data.split_seed holds it. Runs lie
in runs/NAME-SEED and are resumed, so a seed that is done costs nothing.

For each arm the table has the share of well formed answers, the score, the reciprocal rank at which
evaluation.second_model finds a text by its tags, the reciprocal rank at which the questions that come with the texts
(SQuAD has some) find them by their tags alone, the words of an answer, and the share of them that is copied.

Contrasts are paired, on texts where both arms are well formed, and pooled over the seeds: the mean of a text over its
seeds, then a 95 % bootstrap interval over texts. The texts at the end are chosen by hash.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest import machine, markdown
from semtag.evaluation import measures
from semtag.evaluation.corpus import valid_of
from semtag.evaluation.documents import Directions
from semtag.evaluation.search import hits_by_meaning
from semtag.evaluation.statistics import bootstrap_mean
from semtag.scoring.embedder import Embedder
from semtag.scoring.similarity import tag_string
from semtag.store.hashing import hash64
from semtag.store.parquet import read_rows
from semtag.store.rounds import delivered_round, trained_rounds
from semtag.store.run_dir import RunDir

SHOWN = 20  # texts
Figures = dict[str, Any]


def run_seed(config: str, name: str, seed: int, root: str, overrides: list[str]) -> RunDir:
    """Run one seed, or what is left of it."""
    settings = [f"run.name={name}-{seed}", f"run.root={root}", f"run.seed={seed}", *overrides]
    subprocess.run([sys.executable, "-m", "semtag", "run", config, *settings], check=True)
    return RunDir(Path(root) / f"{name}-{seed}")


def arms_of(run: RunDir) -> dict[str, str]:
    """Name of each arm in the answers -> its name in the tables: rounds by their number, the tagger's too."""
    rounds = {"tuned" if n == delivered_round(run) else f"round_{n}": f"round {n}" for n in trained_rounds(run)}
    known = {"base_plain": "untouched", "base": "untouched, examples and grammar"} | rounds
    return known | {"yake": "YAKE", "keybert": "KeyBERT", "keybert_mmr": "KeyBERT with MMR"}


def measure(run: RunDir, judge: Directions) -> tuple[list[int], list[str], dict[str, Figures]]:
    """Ids and texts, and for each arm its tags and its measures of each text [N], under its name in the tables."""
    rows = list(read_rows(run.layout.answers))
    texts, metas = [row["text"] for row in rows], [json.loads(row["meta"]) for row in rows]
    answers: dict[str, list[Figures]] = {}
    for row in rows:
        for answer in row["answers"]:
            answers.setdefault(answer["arm"], []).append(answer)
    found: dict[str, Figures] = {}
    for arm, name in arms_of(run).items():
        if arm not in answers:
            continue
        tags = [answer["tags"] for answer in answers[arm]]
        own = measures.measure(texts, answers[arm], judge)
        found[name] = {
            "tags": tags,
            "valid": valid_of(answers[arm]),
            "score": own["similarity"],
            "found": own["found_by_meaning"],
            "questions": _questions(metas, tags, judge),
            "words": own["words"],
            "copied": own["copied_share"],
        }
    return [row["text_id"] for row in rows], texts, found


def _questions(metas: list[Figures], tags: list[list[str]], judge: Directions) -> np.ndarray:
    """Reciprocal rank of each question's text among all, by their tags alone, as a mean over a text's questions [N].

    NaN for a text without questions.
    """
    asked = [(place, question) for place, meta in enumerate(metas) for question in meta.get("questions") or []]
    ranks: dict[int, list[float]] = {}
    if asked:
        hits = hits_by_meaning([question for _, question in asked], [tag_string(own) for own in tags], judge)
        for (place, _), own in zip(asked, hits, strict=True):
            where = np.flatnonzero(own == place)
            ranks.setdefault(place, []).append(1 / (1 + int(where[0])) if len(where) else 0.0)
    return np.array([statistics.fmean(ranks[place]) if place in ranks else np.nan for place in range(len(tags))])


def figures_of(found: dict[str, Figures]) -> dict[str, Figures]:
    """The means of each arm; words and copied share are of the well formed answers."""
    means = {}
    for name, own in found.items():
        valid = own["valid"]
        questions = own["questions"][~np.isnan(own["questions"])]
        means[name] = {
            "well_formed": float(valid.mean()),
            "score": float(own["score"].mean()),
            "found": float(own["found"].mean()),
            "questions": float(questions.mean()) if len(questions) else None,
            "words": float(own["words"][valid].mean()) if valid.any() else None,
            "copied": float(own["copied"][valid].mean()) if valid.any() else None,
        }
    return means


def contrast(seeds: list[tuple[list[int], dict[str, Figures]]], arm: str, other: str, figure: str) -> Figures:
    """Arm less other on the texts where both are well formed in a seed, pooled over the seeds."""
    by_text: dict[int, list[float]] = {}
    for ids, found in seeds:
        if not {arm, other} <= found.keys():
            continue  # this seed's rounds stopped early
        both = found[arm]["valid"] & found[other]["valid"]
        for place in np.flatnonzero(both):
            by_text.setdefault(ids[place], []).append(float(found[arm][figure][place] - found[other][figure][place]))
    differences = np.array([statistics.fmean(values) for values in by_text.values()])
    return {"texts": len(differences), **bootstrap_mean(differences, 10_000, 0)._asdict()}


def arms_table(seeds: dict[str, dict[str, Figures]]) -> str:
    """Means over the seeds, and the least well formed share of a seed."""
    columns = ["arm", "well formed", "least of a seed", "score", "text found", "question found", "words", "copied"]
    rows = []
    for arm in dict.fromkeys(arm for found in seeds.values() for arm in found):
        own = [found[arm] for found in seeds.values() if arm in found]
        cells: list[object] = [f"{_mean(own, 'well_formed'):.1%}", f"{min(one['well_formed'] for one in own):.1%}"]
        for name in ("score", "found", "questions", "words", "copied"):
            mean = _mean(own, name)
            cells.append("-" if mean is None else f"{mean:.3f}" if name != "words" else f"{mean:.1f}")
        rows.append([arm, *cells])
    return markdown(columns, rows)


def _mean(own: list[Figures], name: str) -> Any:
    values = [one[name] for one in own if one[name] is not None]
    return statistics.fmean(values) if values else None


def contrasts_table(contrasts: list[Figures]) -> str:
    """The pooled contrasts."""
    rows = []
    for one in contrasts:
        interval = f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]" if one["texts"] else "-"
        rows.append([one["arm"], one["other"], one["figure"], interval, one["texts"]])
    return markdown(["arm", "less", "figure", "difference [95 %]", "texts"], rows)


def examples_table(ids: list[int], texts: list[str], tags: list[list[str]]) -> str:
    """Texts chosen by hash, with their tags."""
    chosen = sorted(range(len(ids)), key=lambda place: hash64("shown", ids[place]))[:SHOWN]
    rows = [
        [" ".join(texts[place].split()[:22]) + " …", "".join(f"[{tag}]" for tag in tags[place])] for place in chosen
    ]
    return markdown(["text", "tags"], rows)


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the overrides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file, for example configs/demo.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to run (0 1 2)")
    parser.add_argument("--name", default="demo", help="name of the runs, before the seed (%(default)s)")
    parser.add_argument("--root", default="runs", help="folder of the runs (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_known_args()


def main() -> None:
    """Run all seeds and print the tables."""
    arguments, overrides = parse_arguments()
    name, root = arguments.name, arguments.root
    runs = {seed: run_seed(arguments.config, name, seed, root, overrides) for seed in arguments.seeds}
    config = runs[arguments.seeds[0]].config()
    second = config.evaluation.second_model or config.scoring.model
    judge = Directions(Embedder(config.scoring.model_copy(update={"model": second})).texts)
    measured = {seed: measure(run, judge) for seed, run in runs.items()}
    seeds = {str(seed): figures_of(found) for seed, (_, _, found) in measured.items()}
    pooled = [(ids, found) for ids, _, found in measured.values()]
    last = max(trained_rounds(run)[-1] for run in runs.values())
    contrasts = []
    for other in [*(f"round {number}" for number in range(1, last)), "untouched, examples and grammar"]:
        for figure in ("score", "found", "copied"):
            pair = {"arm": f"round {last}", "other": other, "figure": figure}
            contrasts.append(pair | contrast(pooled, pair["arm"], other, figure))
    ids, texts, found = measured[arguments.seeds[0]]
    print(f"{machine()}\n\n{arms_table(seeds)}\n\n{contrasts_table(contrasts)}\n")
    print(examples_table(ids, texts, found[arms_of(runs[arguments.seeds[0]])["tuned"]]["tags"]))
    if arguments.json:
        result = {"machine": machine(), "overrides": overrides, "seeds": seeds, "contrasts": contrasts}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
