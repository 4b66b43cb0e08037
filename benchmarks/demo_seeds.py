"""The demo over several seeds: does the tuned model beat its base each time, and by how much?

    python -m benchmarks.demo_seeds --seeds 0 1 2 --json demo_seeds.json

A seed changes the split into train and held-out texts, the base model, the samples and the training. Runs lie in
runs/demo-seed-N and are resumed, so a seed that is done costs nothing.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.rounds import machine, markdown
from cluster.run_dir import RunDir
from cluster.summary import read_report


def run_seed(seed: int, root: str, overrides: list[str]) -> dict[str, Any]:
    """Run the demo with one seed; returns its figures and the seconds that this call took."""
    name = f"demo-seed-{seed}"
    command = [sys.executable, "-m", "cluster.cli", "run", "configs/demo.yaml", f"run.name={name}", f"run.root={root}"]
    start = time.monotonic()
    subprocess.run([*command, f"run.seed={seed}", *overrides], check=True)
    report = read_report(RunDir(Path(root) / name))
    rate, similarity = report["format_rate"], report["similarity"]
    return {
        "seed": seed,
        "held_out_texts": report["held_out_texts"],
        "base_format": rate["base"]["value"],
        "tuned_format": rate["tuned"]["value"],
        "base_similarity": similarity["both_valid"]["base"]["mean"],
        "both_valid": similarity["both_valid"]["difference"],
        "all_texts": similarity["all_texts"]["difference"],
        "seconds": round(time.monotonic() - start),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    columns = ["seed", "texts", "well formed, base", "tuned", "similarity, both well formed [95 %]", "all texts [95 %]"]
    cells = []
    for row in rows:
        intervals = [
            f"{row[kind]['value']:+.3f} [{row[kind]['low']:+.3f}, {row[kind]['high']:+.3f}]"
            for kind in ("both_valid", "all_texts")
        ]
        rates = [f"{row['base_format']:.1%}", f"{row['tuned_format']:.1%}"]
        cells.append([row["seed"], row["held_out_texts"], *rates, *intervals])
    return markdown(columns, cells)


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", default="runs", help="folder of the runs")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides for every seed")
    arguments = parser.parse_args()
    rows = [run_seed(seed, arguments.root, arguments.overrides) for seed in arguments.seeds]
    print(f"{machine()}\n\n{table(rows)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
