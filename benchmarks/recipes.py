"""Which loss, and which pairs, make the better tagger? Each recipe on the same ranked lists, over seeds.

    python -m benchmarks.recipes --json recipes.json                                           # the demo
    python -m benchmarks.recipes data.path=squad_dev.json data.format=squad data.article_column=title data.limit=null \\
        --corpus squad --json recipes.json                                                     # texts of yours

A seed changes the split, the candidates and the training. All recipes are of one round from the untouched model. Those
of one seed learn from the same ranked lists, K = 8, for as many steps, with the same beta, learning rate and likelihood
weight. They answer the same held-out texts as a tagger is asked; the untouched model is asked as well as can be, after
the examples and within the grammar. Figures are differences to it: means over the seeds with 95 % t-intervals. Seeds
that stand in the file of --json are not run again, so a table can be made in several sittings.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from scipy import stats

from benchmarks.contest import machine, markdown
from cluster.parquet import read_rows
from cluster.progress import Progress
from cluster.run_dir import RunDir
from cluster.session import ray_session
from cluster.stage import set_environment
from configs.schema import Pairs
from configs.training import Training
from evaluation.corpus import Corpus, arms_of
from evaluation.estimates import compare
from scoring.rank_texts import sample_and_score

CONFIG = "configs/demo.yaml"
SETTINGS = ["sampling.samples=8", "rounds.count=1", "rounds.each=[]", "rounds.validation=0"]
STRATEGIES = get_args(Pairs.model_fields["strategy"].annotation)
LOSSES = get_args(Training.model_fields["loss"].annotation)
LISTS = "best_vs_worst"  # the strategy whose run the lists are taken from; they are the same under all
# Name -> strategy, and what the training is told.
RECIPES = {f"ipo, pairs: {name}": (name, ["training.loss=ipo"]) for name in STRATEGIES} | {
    f"{loss}, lists": (LISTS, ["training.data=lists", f"training.loss={loss}"]) for loss in LOSSES
}
FIGURES = ("format", "both_valid", "all_texts")

Answer = dict[str, Any]


def semtag(command: str, name: str, arguments: argparse.Namespace, *settings: str) -> RunDir:
    """Run a command of Semtag on the run of that name, and return the run."""
    where = [f"run.root={arguments.root}", f"run.name={name}"]
    overrides = [*where, *SETTINGS, *arguments.overrides, *settings]
    subprocess.run([sys.executable, "-m", "cluster.cli", command, CONFIG, *overrides], check=True)
    return RunDir(arguments.root / name)


def derived(run: RunDir, what: str, command: str, arguments: argparse.Namespace, *settings: str) -> RunDir:
    """A copy of a run with one more stage, under the run's name and what it is."""
    name = "-".join([run.here.name, *what.replace(":", "").replace(",", "").split()])
    if not (arguments.root / name).exists():
        shutil.copytree(run.here, arguments.root / name)
    return semtag(command, name, arguments, *settings)


def answers(run: RunDir, arm: str) -> dict[int, Answer]:
    """The scored answer of the run's arm `base` or `tuned` to each held-out text, by text id."""
    config = run.config()
    [decoding] = [one.decoding for one in arms_of(config, []) if one.name == arm]
    assert decoding
    model = config.model.base if arm == "base" else str(run.layout.round(1).merged)
    with ray_session(config), run.scratch("answers") as folder, Progress(arm, "answers") as progress:
        sample_and_score(run.layout.held_out, folder / "rows", config, model, [decoding], progress)
        return {row["text_id"]: row["candidates"][0] for row in read_rows(folder / "rows") if row["candidates"]}


def run_seed(seed: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The figures of each recipe for one seed."""
    of_seed = f"run.seed={seed}"
    ranked = semtag("rank", f"{arguments.corpus}-{seed}", arguments, of_seed)
    texts = {row["text_id"]: row["text"] for row in read_rows(ranked.layout.held_out, ["text_id", "text"])}
    base, found = answers(ranked, "base"), dict[str, dict[str, float]]()
    for recipe in arguments.recipes:
        strategy, settings = RECIPES[recipe]
        own = (of_seed, f"pairs.strategy={strategy}")
        paired = derived(ranked, strategy, "pairs", arguments, *own)
        tuned = derived(paired, recipe, "train", arguments, *own, *settings)
        found[recipe] = figures(texts, base, answers(tuned, "tuned"), seed)
    return found


def figures(texts: dict[int, str], base: dict[int, Answer], tuned: dict[int, Answer], seed: int) -> dict[str, float]:
    """What tuning changed: shares of well-formed answers, and similarity on both-valid and on all texts."""
    both = sorted(base.keys() & tuned.keys())
    arms = {"base": [base[id_] for id_ in both], "tuned": [tuned[id_] for id_ in both]}
    corpus = Corpus(both, [texts[id_] for id_ in both], [{} for _ in both], arms)
    base_format, tuned_format = (float(corpus.valid(arm).mean()) for arm in arms)
    similarity = compare(corpus, 100, seed)["similarity"]
    return {
        "base_format": base_format,
        "format": tuned_format - base_format,
        "both_valid": similarity["both_valid"]["difference"]["value"],
        "all_texts": similarity["all_texts"]["difference"]["value"],
    }


def mean_and_interval(values: Sequence[float | None], digits: int) -> str:
    """Mean with its 95 % t-interval, the latter from two values on; a dash where there is none."""
    known, form = [value for value in values if value is not None], f"+.{digits}f"
    if not known:
        return "-"
    mean = statistics.fmean(known)
    if len(known) < 2:
        return format(mean, form)
    half = stats.t.ppf(0.975, len(known) - 1) * statistics.stdev(known) / math.sqrt(len(known))
    return f"{mean:{form}} [{mean - half:{form}}, {mean + half:{form}}]"


def table(done: dict[str, dict[str, dict[str, float]]]) -> str:
    """The seeds of one corpus as a Markdown table."""
    rows = []
    for recipe in RECIPES:
        of_seeds = [seed[recipe] for seed in done.values() if recipe in seed]
        points = [100 * one["format"] for one in of_seeds]
        similar = [[one[name] for one in of_seeds] for name in FIGURES[1:]]
        rows.append([recipe, mean_and_interval(points, 1), *(mean_and_interval(values, 3) for values in similar)])
    return markdown(["recipe", "well formed, points", "similarity, both well formed", "all texts"], rows)


def seeds_parser(doc: str | None, root: str) -> argparse.ArgumentParser:
    """The command line of a benchmark over seeds."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="demo", help="name of the corpus in the tables (demo)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to run (0 1 2)")
    parser.add_argument("--root", type=Path, default=Path(root), help="folder of the runs")
    parser.add_argument("--json", type=Path, required=True, help="the file of all figures so far")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides for every run")
    return parser


def over_seeds(
    parser: argparse.ArgumentParser,
    run_seed: Callable[[int, argparse.Namespace], Any],
    show: Callable[[str, Any], None],
) -> None:
    """Run the seeds that the file of figures lacks, keep theirs there, and show each of its corpora."""
    arguments = parser.parse_args()
    corpora = json.loads(arguments.json.read_text(encoding="utf-8")) if arguments.json.exists() else {}
    done = corpora.setdefault(arguments.corpus, {})
    for seed in arguments.seeds:
        if str(seed) not in done:
            done[str(seed)] = run_seed(seed, arguments)
            arguments.json.write_text(json.dumps(corpora, indent=1) + "\n", encoding="utf-8")
    print(machine())
    for corpus, seeds in corpora.items():
        show(corpus, seeds)


def show(corpus: str, seeds: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the table of a corpus."""
    base = ", ".join(f"{next(iter(found.values()))['base_format']:.1%}" for found in seeds.values())
    print(f"\n{corpus}, base well formed {base}:\n\n{table(seeds)}")


def main() -> None:
    """Run all seeds and print the table of each corpus."""
    set_environment()
    parser = seeds_parser(__doc__, "runs/recipes")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="those to compare (all)")
    over_seeds(parser, run_seed, show)


if __name__ == "__main__":
    main()
