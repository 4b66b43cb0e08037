"""A million pairs: what it takes to load and tokenise them, and how soon a resumed training takes its next step.

    python -m benchmarks.scale --texts 1000000          # leaves a run of 1.2 million replayed pairs
    python -m benchmarks.many_pairs runs/scale/scale-1000000 --json many_pairs.json

The train stage runs on the run's pairs with its small base model: it loads, tokenises, computes the reference
log-probabilities (replayed candidates have none) and takes a step. Then all of it is killed, and started again by the
same command. Memory is that of the stage's processes together, sampled once a second: `rss` with the files that are
mapped into memory, which the system may drop, `own` without.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos import Family
from benchmarks.rounds import machine, markdown, publish
from cluster.parquet import count_rows
from cluster.run_dir import RunDir
from training.ranks import unfinished

SETTINGS = ["training.batch_size=64", "training.row_tokens=8192", "training.max_steps=1000", "training.save_steps=1"]


def memory_of(family: Family) -> tuple[int, int]:
    """Bytes of a job's processes: resident, and resident without what is shared with files."""
    resident = own = 0
    for member in family.look():
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = member.memory_info()
            resident, own = resident + memory.rss, own + memory.rss - memory.shared
    return resident, own


def train_until(run: RunDir, step: int) -> dict[str, float]:
    """Start the train stage, kill it at `step` optimizer steps; returns seconds from its start to marks on the way, and
    peaks of its memory in GB.

    Raises RuntimeError when the stage ends before.
    """
    marks = {"tokenised": unfinished(run) / "rows", "step": run.here / "checkpoints" / f"checkpoint-{step}"}
    command = [sys.executable, "-m", "cluster.cli", "train", str(run.path / "config.yaml"), *SETTINGS]
    found: dict[str, float] = {"rss_gb": 0.0, "own_gb": 0.0}
    start = time.monotonic()
    stage = subprocess.Popen(command, start_new_session=True)
    family = Family(stage.pid)
    try:
        while "step" not in found:
            if stage.poll() is not None:
                raise RuntimeError(f"the train stage ended by itself with status {stage.returncode}")
            time.sleep(1)
            resident, own = memory_of(family)
            found["rss_gb"], found["own_gb"] = max(found["rss_gb"], resident / 1e9), max(found["own_gb"], own / 1e9)
            found |= {mark: time.monotonic() - start for mark, at in marks.items() if mark not in found and at.exists()}
    finally:
        family.end()
        stage.kill()
        stage.wait()
    return found


def main() -> None:
    """Train, kill, train on, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of benchmarks.scale")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    pairs = count_rows(run.path / "pairs")
    for left in (unfinished(run), run.here / "checkpoints"):
        shutil.rmtree(left, ignore_errors=True)
    first, resumed = train_until(run, 1), train_until(run, 2)
    rows = [[name, *(f"{times[key]:.3g}" for key in ("tokenised", "step", "rss_gb", "own_gb"))]
            for name, times in (("first start", first), ("resumed", resumed))]  # fmt: skip
    columns = [f"{pairs:,} pairs", "s to tokenised", "s to the first step", "peak rss, GB", "peak own, GB"]
    result: dict[str, Any] = {"machine": machine(), "pairs": pairs, "first": first, "resumed": resumed}
    publish(result, markdown(columns, rows), arguments.json)


if __name__ == "__main__":
    main()
