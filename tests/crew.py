"""Processes that do several small trainings one after the other, because their start takes longer than a training."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from semtag.configs.schema import Config
from semtag.store.process_cleanup import end_with_parent
from semtag.store.run_dir import RunDir
from semtag.training.processes import start_processes


class Crew:
    """The processes, as the test that gives them work sees them. `folder` holds a file for each training."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count, self._given = folder, count, 0
        folder.mkdir()
        self._processes = start_processes(count, ["tests.crew", str(folder)])

    def train(self, run: RunDir, config: Config, number: int, events: Path) -> None:
        """Do a round's training, in place of `processes._by_accelerate`."""
        self._give([str(run.path), number, str(events)])
        done = [self._folder / f"{self._given}.done-{rank}" for rank in range(self._count)]
        while not all(file.exists() for file in done):
            if self._processes.poll() is not None:
                raise RuntimeError(f"The processes ended with status {self._processes.returncode}.")
            time.sleep(0.05)

    def end(self) -> None:
        """End the processes."""
        self._give(None)
        try:
            self._processes.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._processes.kill()

    def _give(self, work: object) -> None:
        self._given += 1
        unfinished = self._folder / "unfinished"
        unfinished.write_text(json.dumps(work))
        unfinished.rename(self._folder / f"{self._given}.json")


def serve(folder: Path) -> None:
    """Do what `folder` is given, in its order, as one of the processes."""
    from accelerate.state import AcceleratorState

    from semtag.training.worker import work

    end_with_parent()
    rank, taken = int(os.environ["RANK"]), 1
    while True:
        while not (told := folder / f"{taken}.json").exists():
            time.sleep(0.05)
        given = json.loads(told.read_text())
        if given is None:
            return
        work(*given, rank)
        AcceleratorState._reset_state(reset_partial_state=True)  # or the next training would have this one's settings
        (folder / f"{taken}.done-{rank}").touch()
        taken += 1


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
