"""A million pairs: what it takes to load and tokenise them, and how soon a resumed training takes its next step.

    python -m benchmarks.scale --texts 1000000          # leaves a run of 1.2 million replayed pairs
    python -m benchmarks.many_pairs runs/scale/scale-1000000 --json many_pairs.json

The train stage runs on the run's pairs with its small base model. It is killed with all its processes and started again
by the same command, once when the pairs are tokenised and once after the first step. The reference log-probabilities,
which replayed candidates come without, are not computed here: how long that takes is a matter of the model. Once the
pairs are tokenised, zeros are put where a finished pass keeps them. Memory is that of the stage's processes together,
sampled once a second: `rss` with the files mapped into memory, which the system may drop, `own` without.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from datasets import Dataset

from benchmarks.contest import machine, markdown, publish
from benchmarks.family import Family
from semtag.store.layout import RoundLayout
from semtag.store.parquet import count_rows
from semtag.store.run_dir import RunDir
from semtag.training.worker import last_checkpoint

SETTINGS = ["training.batch_size=64", "training.max_steps=1000", "training.save_steps=1"]


def memory_of(family: Family) -> tuple[int, int]:
    """Bytes of a job's processes: resident, and resident without what is shared with files."""
    resident = own = 0
    for member in family.look():
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = member.memory_info()
            resident, own = resident + memory.rss, own + memory.rss - memory.shared
    return resident, own


def train_until(run: RunDir, done: Callable[[], bool]) -> dict[str, float]:
    """Start the train stage and kill it when `done`; returns the seconds and peaks of memory in GB.

    Raises RuntimeError when the stage ends before.
    """
    command = [sys.executable, "-m", "semtag", "train", str(run.layout.config), *SETTINGS]
    rss = own = 0
    start = time.monotonic()
    stage = subprocess.Popen(command, start_new_session=True)
    family = Family(stage.pid)
    try:
        while not done():
            if stage.poll() is not None:
                raise RuntimeError(f"the train stage ended by itself with status {stage.returncode}")
            time.sleep(1)
            now = memory_of(family)
            rss, own = max(rss, now[0]), max(own, now[1])
    finally:
        family.end()
        stage.kill()
        stage.wait()
    return {"seconds": time.monotonic() - start, "rss_gb": rss / 1e9, "own_gb": own / 1e9}


def leave_references(layout: RoundLayout) -> None:
    """Zeros in place of the reference log-probabilities of a finished pass."""
    pairs = len(Dataset.load_from_disk(layout.training / "rows"))
    np.save(layout.training / "references.npy", np.zeros((pairs, 2)))


def main() -> None:
    """Train, kill, train on, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of benchmarks.scale")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    layout = run.layout.round(1)
    pairs, checkpoints = count_rows(layout.pairs), layout.checkpoints
    for left in (layout.training, checkpoints):
        shutil.rmtree(left, ignore_errors=True)
    starts = {"to tokenised pairs": train_until(run, (layout.training / "rows").exists)}
    leave_references(layout)
    starts["again, to the first step"] = train_until(run, lambda: last_checkpoint(checkpoints) is not None)
    before = last_checkpoint(checkpoints)
    starts["again, to the next step"] = train_until(run, lambda: last_checkpoint(checkpoints) != before)
    rows = [[name, *(f"{value:.3g}" for value in found.values())] for name, found in starts.items()]
    columns = [f"{pairs:,} pairs: a start", "s", "peak rss, GB", "peak own, GB"]
    publish({"machine": machine(), "pairs": pairs, "starts": starts}, markdown(columns, rows), arguments.json)


if __name__ == "__main__":
    main()
