"""A whole run over several seeds: what training is worth, beside the untrained model and extractors.

    python -m benchmarks.seeds configs/demo.yaml --json docs/demo.json
    python -m benchmarks.seeds configs/demo.yaml data.path=squad.json ... --name squad --json docs/squad.json

A seed changes the samples, the rounds' texts and the training, and the split unless data.split_seed holds it. Runs lie
in runs/NAME-SEED and are resumed, so a seed that is done costs nothing.

The tables come from the rows that each run's evaluation wrote. Measures are means over all texts of what the arm
delivers; extractors and people are cut to the tagger's number of words, text by text. Contrasts are paired and pooled
over the seeds: the mean of a text over its seeds, then the 95 % interval and the test over texts, or over articles
where there are enough of them. The p values are Holm's over the table. The texts at the end are chosen by hash.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contest import machine, markdown
from semtag.evaluation.arms import BASE, TUNED, UNTRAINED
from semtag.evaluation.estimates import estimate
from semtag.evaluation.evaluate import AGREED, CONTRASTED
from semtag.evaluation.measures import MEASURES
from semtag.evaluation.report.records import Report
from semtag.evaluation.report.terminal import read_report
from semtag.evaluation.rows import Key, Rows, read_rows_table
from semtag.evaluation.statistics import difference_interval, holm, sign_flip
from semtag.generation.parse import answer_of
from semtag.store.hashing import hash64
from semtag.store.parquet import read_rows
from semtag.store.run_dir import RunDir

SHOWN = 50  # texts
COLUMNS = ("well_formed", "similarity", "found_by_meaning", "found_by_words", "words", "copied_share")


class Seed(NamedTuple):
    """What the evaluation of one seed wrote: report, rows, and the name of each cluster of the rows."""

    report: Report
    rows: Rows
    clusters: list[str]


class Pooled(NamedTuple):
    """A contrast over all seeds: first minus second."""

    first: str
    second: str
    measure: str
    value: float
    low: float | None
    high: float | None
    n: int
    p: float


def run_seed(config: str, name: str, seed: int, root: str, overrides: list[str]) -> RunDir:
    """Run one seed, or what is left of it."""
    settings = [f"run.name={name}-{seed}", f"run.root={root}", f"run.seed={seed}", *overrides]
    subprocess.run([sys.executable, "-m", "semtag", "run", config, *settings], check=True)
    return RunDir(Path(root) / f"{name}-{seed}")


def read_seed(run: RunDir) -> Seed:
    """Read what the evaluation of a run wrote."""
    answered = list(read_rows(run.layout.answers, ["text_id", "article"]))
    report = read_report(run)
    name = "article" if report.resampled == "articles" else "text_id"
    clusters = list(dict.fromkeys(str(row[name]) for row in answered))
    return Seed(report, read_rows_table(run.layout.rows), clusters)


def keys_of(arm: str) -> list[Key]:
    """Return the series by which arms are compared."""
    tags = [Key(arm, "tags", "tags", "", name) for name in CONTRASTED]
    questions = Key(arm, "tags", "search", "dense", "ndcg_at_10")
    return [*tags, Key(arm, "tags", "agreement", "", AGREED), questions]


def pool(seeds: Sequence[Seed], first: Key, second: Key, resamples: int = 10_000) -> Pooled | None:
    """Estimate first minus second over the seeds that have both; None where none has."""
    values: dict[int, list[tuple[float, float]]] = {}
    clusters: dict[int, str] = {}
    for seed in seeds:
        if first not in seed.rows or second not in seed.rows:
            continue
        one, other = seed.rows[first], seed.rows[second]
        for unit, cluster, *pair in zip(one.units_N, one.clusters_N, one.values_N, other.values_N, strict=True):
            if not np.isnan(pair).any():
                values.setdefault(int(unit), []).append((pair[0], pair[1]))
                clusters[int(unit)] = seed.clusters[cluster]
    if not values:
        return None
    first_N, second_N = np.array([np.mean(own, axis=0) for own in values.values()]).T
    clusters_N = np.unique([clusters[unit] for unit in values], return_inverse=True)[1]
    found = difference_interval(first_N, second_N, clusters_N, MEASURES[first.measure].bounded)
    value, low, high = found.if_enough(len(np.unique(clusters_N)))
    assert value is not None
    p = sign_flip(first_N - second_N, clusters_N, resamples, 0)
    return Pooled(first.arm, second.arm, first.measure, value, low, high, len(values), p)


def pooled_contrasts(seeds: Sequence[Seed]) -> list[Pooled]:
    """Pool the contrasts of the tagger with every other arm; p values are Holm's over all of them."""
    arms = dict.fromkeys(arm.name for seed in seeds for arm in seed.report.arms)
    others = [*UNTRAINED, *(arm for arm in arms if arm not in (TUNED, *UNTRAINED))]
    pairs = [pair for other in others for pair in zip(keys_of(TUNED), keys_of(other), strict=True)]
    found = [one for pair in pairs if (one := pool(seeds, *pair))]
    corrected = holm([one.p for one in found])
    return [one._replace(p=p) for one, p in zip(found, corrected, strict=True)]


def arms_table(seeds: Sequence[Seed]) -> str:
    """Return the means over the seeds, and the least well-formed share of a seed."""
    arms = dict.fromkeys(arm.name for seed in seeds for arm in seed.report.arms)
    return markdown(["arm", *COLUMNS, "least well formed", "questions"], [_arm_row(seeds, arm) for arm in arms])


def _arm_row(seeds: Sequence[Seed], arm: str) -> list[object]:
    keys = [*(Key(arm, "tags", "tags", "", name) for name in COLUMNS), Key(arm, "tags", "search", "dense", "map")]
    means = []
    for key in keys:
        values = [estimate(seed.rows, key).value for seed in seeds if key in seed.rows]
        means.append([value for value in values if value is not None])
    *columns, questions = (statistics.fmean(own) if own else None for own in means)
    least = min(means[0]) if means[0] else None
    kinds = [*(MEASURES[name].kind for name in COLUMNS), "percent", "figure"]
    return [arm, *(_cell(value, kind) for value, kind in zip([*columns, least, questions], kinds, strict=True))]


def _cell(value: float | None, kind: str) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if kind == "percent" else f"{value:.1f}" if kind == "number" else f"{value:.3f}"


def contrasts_table(contrasts: Sequence[Pooled]) -> str:
    """Return the pooled contrasts as a table."""
    rows = []
    for one in contrasts:
        interval = "" if one.low is None else f" [{one.low:+.3f}, {one.high:+.3f}]"
        rows.append([one.first, one.second, one.measure, f"{one.value:+.3f}{interval}", f"{one.p:.2g}", one.n])
    return markdown(["arm", "less", "measure", "difference [95 %]", "Holm's p", "n"], rows)


def gates_table(seeds: dict[int, Seed]) -> str:
    """Return the outcome of each gate in each seed."""
    names = [gate.name for gate in next(iter(seeds.values())).report.gates]
    outcomes_SG = [[gate.outcome for gate in seed.report.gates] for seed in seeds.values()]
    rows = [list(row) for row in zip(names, *outcomes_SG, strict=True)]
    return markdown(["gate", *(f"seed {number}" for number in seeds)], rows)


def examples_table(run: RunDir) -> str:
    """Return texts chosen by hash, with the tags of the untrained model and of the tagger."""
    rows = sorted(read_rows(run.layout.answers), key=lambda row: hash64("shown", row["text_id"]))[:SHOWN]
    return markdown(["text", BASE, TUNED], [_example(row["text"], row["answers"]) for row in rows])


def _example(text: str, answers: list[dict[str, Any]]) -> list[object]:
    tags = {answer["arm"]: answer["tags"] for answer in answers}
    return [" ".join(text.split()[:22]) + " …", *(answer_of(tags[arm]) for arm in (BASE, TUNED))]


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Return the command line, and the overrides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file, for example configs/demo.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to run (0 1 2)")
    parser.add_argument("--name", default="demo", help="name of the runs, before the seed (%(default)s)")
    parser.add_argument("--root", default="runs", help="folder of the runs (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_known_args()


def recipe_hash(report: Report) -> str:
    """Hash the config, without the run's own section, and the versions that made a report."""
    made = [{key: value for key, value in report.config.items() if key != "run"}, report.versions]
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]


def main() -> None:
    """Run all seeds and print the tables."""
    arguments, overrides = parse_arguments()
    name, root = arguments.name, arguments.root
    runs = {number: run_seed(arguments.config, name, number, root, overrides) for number in arguments.seeds}
    seeds = {number: read_seed(run) for number, run in runs.items()}
    recipes = {recipe_hash(seed.report) for seed in seeds.values()}
    if len(recipes) > 1:
        sys.exit(f"the seeds were made by several recipes or versions: {', '.join(sorted(recipes))}")
    contrasts = pooled_contrasts([*seeds.values()])
    [recipe] = recipes
    tables = [arms_table([*seeds.values()]), contrasts_table(contrasts), gates_table(seeds)]
    print("\n\n".join([f"{machine()}, recipe {recipe}", *tables, examples_table(runs[arguments.seeds[0]])]))
    if arguments.json:
        pooled = [one._asdict() for one in contrasts]
        result = {"machine": machine(), "recipe": recipe, "overrides": overrides, "contrasts": pooled}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
