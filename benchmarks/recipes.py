"""Which loss, and which pairs, make the better tagger? Each recipe on the same ranked lists, over seeds.

    python -m benchmarks.recipes --json recipes.json                                           # the demo
    python -m benchmarks.recipes data.path=squad_dev.json data.format=squad model.base=PATH \\
        --json recipes.json --corpus squad                                                     # texts of yours

A seed changes the split, the base model where it is built on the spot, the candidates (K = 8) and the training. Of one
seed all recipes learn from the same ranked lists for as many steps (100, of 8 pairs or lists), with
the same beta, learning rate and likelihood weight; base and tuned models answer the same held-out texts, each text once
at the sampling temperature. Figures are differences to the base model: means over the seeds with 95 % t-intervals.
Seeds that stand in the file of --json are not run again, so a table can be made in several sittings.
"""

import argparse
import asyncio
import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from scipy import stats

from benchmarks.rounds import machine, markdown
from cluster.parquet import read_rows
from cluster.run_dir import RunDir
from configs.schema import Config, Pairs
from configs.training import Training
from evaluation.metrics import Answers, compare
from scoring.rank_texts import base_model

CONFIG = "configs/demo.yaml"
SETTINGS = ["sampling.samples=8", "training.max_steps=100", "training.batch_size=8"]
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


def answer(config: Config, model: str, adapters: list[Path], texts: list[dict[str, Any]]) -> list[dict[int, Answer]]:
    """One scored answer a text from the base model and from each adapter, by text id, drawn by one engine in turn."""
    from vllm.lora.request import LoRARequest

    from generation.sampler import Sampler
    from generation.widen_heads import widen_checkpoint
    from scoring.embedder import Embedder
    from scoring.similarity import score_rows

    sampler = Sampler(config, model, str(adapters[0]))

    async def from_all() -> list[list[dict[str, Any]]]:
        drawn = []
        for number, adapter in enumerate([None, *adapters]):
            sampler.adapter = adapter and LoRARequest(
                adapter.parent.name, number, widen_checkpoint(model, str(adapter))[1]
            )
            drawn.append(await sampler.sample([dict(row) for row in texts]))
        sampler.engine.shutdown()
        return drawn

    drawn, embedder = asyncio.run(from_all()), Embedder(config.scoring)
    scored = [score_rows(rows, embedder.texts, embedder.tags) for rows in drawn]
    return [{row["text_id"]: row["candidates"][0] for row in rows if row["candidates"]} for rows in scored]


def run_seed(seed: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The figures of each recipe for one seed."""
    of_seed = f"run.seed={seed}"
    ranked = semtag("rank", f"{arguments.corpus}-{seed}", arguments, of_seed)
    paired, adapters = {}, []
    for name in STRATEGIES:
        paired[name] = derived(ranked, name, "pairs", arguments, of_seed, f"pairs.strategy={name}")
    for recipe, (name, settings) in RECIPES.items():
        tuned = derived(paired[name], recipe, "train", arguments, of_seed, f"pairs.strategy={name}", *settings)
        adapters.append(tuned.here / "model")
    config = ranked.config()
    config = config.model_copy(update={"sampling": config.sampling.model_copy(update={"samples": 1})})
    texts = [row | {"decoding": "sampled"} for row in read_rows(ranked.path / "texts" / "held_out.parquet")]
    base, *each = answer(config, base_model(ranked, config), adapters, texts)
    return {recipe: figures(texts, base, own, seed) for recipe, own in zip(RECIPES, each, strict=True)}


def figures(
    texts: list[dict[str, Any]], base: dict[int, Answer], tuned: dict[int, Answer], seed: int
) -> dict[str, float]:
    """What tuning changed: shares of well-formed answers, and similarity on both-valid and on all texts."""
    both = [row for row in texts if row["text_id"] in base.keys() & tuned.keys()]
    arms = [[arm[row["text_id"]] for row in both] for arm in (base, tuned)]
    found = compare(Answers([row["text"] for row in both], *arms), 100, seed)
    rate, similarity = found["format_rate"], found["similarity"]
    return {
        "base_format": rate["base"]["value"],
        "format": rate["tuned"]["value"] - rate["base"]["value"],
        "both_valid": similarity["both_valid"]["difference"]["value"],
        "all_texts": similarity["all_texts"]["difference"]["value"],
    }


def mean_and_interval(values: list[float], digits: int) -> str:
    """Mean with its 95 % t-interval, the latter from two values on."""
    mean, form = statistics.fmean(values), f"+.{digits}f"
    if len(values) < 2:
        return format(mean, form)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:{form}} [{mean - half:{form}}, {mean + half:{form}}]"


def table(done: dict[str, dict[str, dict[str, float]]]) -> str:
    """The seeds of one corpus as a Markdown table."""
    rows = []
    for recipe in RECIPES:
        points = [100 * seed[recipe]["format"] for seed in done.values()]
        similar = [[seed[recipe][name] for seed in done.values()] for name in FIGURES[1:]]
        rows.append([recipe, mean_and_interval(points, 1), *(mean_and_interval(values, 3) for values in similar)])
    return markdown(["recipe", "well formed, points", "similarity, both well formed", "all texts"], rows)


def over_seeds(
    doc: str | None, root: str, run_seed: Callable[[int, argparse.Namespace], Any], show: Callable[[str, Any], None]
) -> None:
    """Run the seeds that the file of figures lacks, keep theirs there, and show each of its corpora."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="demo", help="name of the corpus in the tables (demo)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to run (0 1 2)")
    parser.add_argument("--root", type=Path, default=Path(root), help="folder of the runs")
    parser.add_argument("--json", type=Path, required=True, help="the file of all figures so far")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides for every run")
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


if __name__ == "__main__":
    over_seeds(__doc__, "runs/recipes", run_seed, show)
