"""Are the tags better, and what are they good for? Whole runs on texts of yours, over seeds, and their figures.

    python -m benchmarks.results data.path=squad_dev.json data.format=squad data.article_column=title data.limit=null \\
        --corpus squad --json results.json

A seed changes the split, the candidates and the training. The table of each corpus shows means over the seeds: of the
arms' shares of well-formed answers, similarity and ranks, of agreement with people's keyphrases where the texts have
any, and of search, classification and topics, each where the texts have what it takes. Seeds that stand in the file of
--json are not run again, and runs are resumed, so a table can be made in several sittings.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.contest import markdown
from benchmarks.recipes import mean_and_interval, over_seeds, seeds_parser
from cluster.run_dir import RunDir
from cluster.summary import failed_gates, read_report

CONFIG = "configs/demo.yaml"
KEPT = ("held_out_texts", "arms", "gates", "downstream", "similarity")
Report = dict[str, Any]


def run_seed(seed: int, arguments: argparse.Namespace) -> Report:
    """Run Semtag with one seed; returns the report, less what it holds of single texts."""
    name = f"{arguments.corpus}-{seed}"
    where = [f"run.root={arguments.root}", f"run.name={name}", f"run.seed={seed}"]
    command = [sys.executable, "-m", "cluster.cli", "run", CONFIG, *where, *arguments.overrides]
    subprocess.run(command, check=True)
    report = read_report(RunDir(arguments.root / name))
    kept = {key: report[key] for key in KEPT}
    (kept["downstream"]["topics"] or {}).pop("map", None)
    return kept


def mean(values: list[float | None]) -> str:
    """Mean over the seeds, with its range where there are several."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return f"{known[0]:.3f}" if known else "-"
    return f"{statistics.fmean(known):.3f} ({min(known):.3f} to {max(known):.3f})"


def arms_table(seeds: list[Report]) -> str:
    """Every arm's shares and measures, and its gain in similarity over the base model with a 95 % t-interval."""
    columns: dict[str, Callable[[Report], float | None]] = {
        "well formed": lambda arm: arm["well_formed"]["value"],
        "similarity, all texts": lambda arm: arm["similarity"]["value"],
        "BM25 finds the text": lambda arm: arm["measures"]["found_by_words"]["value"],
        "copied words": lambda arm: arm["measures"]["copied_share"]["value"],
    }
    for name in seeds[0]["arms"][0]["agreement"] or ():
        columns[f"keys, {name.replace('_', ' ')}"] = partial(_agreement, name)
    # Seeds differ in the rounds that they have, and in the one that delivers.
    by_name: dict[str, list[Report]] = {}
    for arm in (arm for report in seeds for arm in report["arms"]):
        by_name.setdefault(arm["name"], []).append(arm)
    rows = []
    for name, of_seeds in by_name.items():
        gains = [one["against"]["similarity"]["difference"]["value"] for one in of_seeds if one["against"]]
        cells = [mean([figure(one) for one in of_seeds]) for figure in columns.values()]
        rows.append([name, *cells, mean_and_interval(gains, 3) if gains else ""])
    return markdown(["arm", *columns, "similarity against base [95 %]"], rows)


def _agreement(name: str, arm: Report) -> float | None:
    return _value(arm["agreement"][name])


def task_table(seeds: list[Report], task: str, names: list[str], figures: list[str]) -> str:
    """The rows of a task; `names` say which row it is, `figures` are its means over the seeds."""
    rows = []
    for place, row in enumerate(seeds[0]["downstream"][task]["rows"]):
        of_seeds = [report["downstream"][task]["rows"][place] for report in seeds]
        cells = [mean([_value(one[figure]) for one in of_seeds]) for figure in figures]
        rows.append([*(row[name] for name in names), *cells])
    return markdown([*names, *(figure.replace("_", " ") for figure in figures)], rows)


def _value(figure: Any) -> float | None:
    found: float | None = figure["value"] if isinstance(figure, dict) else figure
    return found


def show(corpus: str, done: dict[str, Report]) -> None:
    """Print all tables of one corpus."""
    seeds = list(done.values())
    texts = ", ".join(str(report["held_out_texts"]) for report in seeds)
    failed = [", ".join(failed_gates(report)) or "none" for report in seeds]
    print(f"\n## {corpus}\n\n{texts} held-out texts; gates failed: {'; '.join(failed)}.\n\n{arms_table(seeds)}")
    tasks = {
        "search": (["arm", "on", "method"], ["map", "ndcg_at_10", "recall_at_10"]),
        "classification": (["arm", "on", "method"], ["accuracy", "macro_f1"]),
        "topics": (["arm", "on"], ["nmi", "ari", "coherence", "diversity", "topics", "outliers"]),
    }
    for task, (names, figures) in tasks.items():
        if all(report["downstream"][task] for report in seeds):
            print(f"\n### {task}\n\n{task_table(seeds, task, names, figures)}")


if __name__ == "__main__":
    over_seeds(seeds_parser(__doc__, "runs/results"), run_seed, show)
