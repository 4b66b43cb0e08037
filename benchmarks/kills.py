"""Kills in every step of a whole job of rounds, and whether it comes to what an undisturbed job comes to.

For `python -m benchmarks.chaos --rounds N`. Each step is ended in three ways, at three moments, which change places
from step to step: as it begins, after the first thing that it leaves on its way, and after more of them.
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from safetensors.numpy import load_file

from semtag.configs.schema import Config
from semtag.pipeline import steps_of
from semtag.store.layout import Step
from semtag.store.locations import Place
from semtag.store.parquet import count_rows, read_rows
from semtag.store.run_dir import RunDir
from semtag.store.stages import STAGES

STAGE, TERM, KILL = WAYS = ("stage, kill -9", "command line, kill", "command line, kill -9")
STATUS = {STAGE: 128 + 9, TERM: 128 + 15, KILL: -9}  # with which the command line ends
BEGIN, MISSED = "its begin", "missed: it was done"
# What a step leaves on its way, and after how many of them it is ended, as first and as second.
TRACES = {
    "texts": (r"\.partial/", 1, 2),
    "rank": (r"\.rank\.unfinished/ids/.*\.parquet", 1, 3),  # a block's ids are pending first
    "pairs": (r"\.partial/.*\.parquet", 1, 2),
    "train": (r"checkpoints/.*/trainer_state\.json", 1, 2),
    "validate": (r"\.validation\.partial", 1, 2),
    "evaluate": (r"\.partial/", 1, 3),
}
HEALED = re.compile(r"done before and are kept|blocks? lacks? rows|never committed|were computed before|resuming from")
# What a model computes for a text changes in its last digits with the batch that the text is in: sums in float32, of
# other blocks. A resumed ranking makes other batches. Log-probabilities are sums over some 20 tokens.
NEAR = ("score", "scores", "margin", "logprob", "ref_logprobs", "ref_chosen_logprob", "ref_rejected_logprob")
TOLERANCE = 1e-5
KEYS = ("text_id", "row", "chosen_sample", "rejected_sample")


class Start(NamedTuple):
    """One start of the command: the trace at which it was ended, nothing if the step was missed, and what it said."""

    hit: str
    said: str

    def healed(self, step: Step) -> str:
        """What the step said of the attempt before."""
        lines = (line.split(maxsplit=1) for line in self.said.splitlines())
        kept = [line[1] for line in lines if len(line) == 2 and line[0] == step.name and HEALED.search(line[1])]
        return "; ".join(kept) or ("ended again" if self.hit == BEGIN else "done anew")


def count_finished(finished: Place) -> int:
    """Number of rows whose ids were committed; an id is pending while its row is being written."""
    with contextlib.suppress(FileNotFoundError):  # the ranking has ended meanwhile
        files = [file for file in finished.glob("*/*.parquet") if not file.name.endswith(".pending.parquet")]
        return sum(map(count_rows, files))
    return 0


def start(arguments: list[str], run: RunDir, step: Step | None = None, way: str = KILL, after: int = 1) -> Start:
    """Start `semtag run ARGUMENTS` and end it in one of WAYS in `step`, after so many new traces; without, let it end.

    With `after` 0 the step is ended as it begins, when its log is there. Raises RuntimeError when the command ends
    otherwise.
    """
    command, hit = [sys.executable, "-m", "semtag", "run", *arguments], ""
    before = _seen(run, step) if step else set()
    with tempfile.TemporaryFile("w+") as output:
        job = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        if step:
            hit = _wait(job, run, step, before, after)
        if step and job.poll() is None:
            victim = _stage(job, step) if way == STAGE and hit else psutil.Process(job.pid)
            victim.terminate() if way == TERM and hit else victim.kill()
        status = job.wait()
        output.seek(0)
        said = output.read()
    print(said, end="", flush=True)
    if status not in ({STATUS[way]} if hit else {0, STATUS[KILL]} if step else {0}):
        raise RuntimeError(f"the command ended with status {status}, to be ended in {step}: {hit or 'not yet'}")
    return Start("" if step and run.is_done(step) else hit, said)


def _stage(job: subprocess.Popen[bytes], step: Step) -> psutil.Process:
    """The process of the step that the command line has started."""
    [stage] = [one for one in psutil.Process(job.pid).children() if STAGES[step.stage].module in one.cmdline()]
    return stage


def _seen(run: RunDir, step: Step) -> set[tuple[Path, int]]:
    """What there is of the step: its log and its traces, with their times; a file written anew is another one."""
    pattern, log, found = TRACES[step.stage][0], run.layout.log(step.name), set()
    # Not rglob, which raises when a folder goes away.
    for folder, folders, files in os.walk(run.local_dir):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path == log or re.search(pattern, str(path)):
                with contextlib.suppress(FileNotFoundError):
                    found.add((path, path.stat().st_mtime_ns))
    return found


def _wait(job: subprocess.Popen[bytes], run: RunDir, step: Step, before: set[tuple[Path, int]], after: int) -> str:
    """Wait until the step has begun and left so many traces; returns the last one, or nothing when it is over."""
    log, traces = run.layout.log(step.name), list[Path]()
    while job.poll() is None and not run.is_done(step):
        new = {path for path, _ in _seen(run, step) - before}
        traces += sorted(new - {log} - set(traces))
        if log in new and len(traces) >= after:
            return str(traces[after - 1].relative_to(run.local_dir)) if after else BEGIN
        time.sleep(0.005)
    return ""


def torment_steps(arguments: list[str], run: RunDir, config: Config, once: bool = False) -> list[dict[str, str]]:
    """Run a job to its end with each step of each round ended in each of WAYS; returns a row a kill.

    With `once` each step is ended in one of them, another one from step to step.
    """
    rows, last = list[dict[str, str]](), None
    steps = list(enumerate(steps_of(run, config)))
    ends = [(step, way) for place, step in steps for way in (WAYS[place % 3 : place % 3 + 1] if once else WAYS)]
    for number, (step, way) in (kills := list(enumerate(ends))):
        # A step has three kills: the moments are shifted by one from step to step.
        moment = (number + number // len(WAYS)) % len(WAYS)
        done = start(arguments, run, step, way, (0, *TRACES[step.stage][1:])[moment])
        if last:
            rows[-1]["healed"] = done.healed(last)
        rows.append({"step": step.name, "ended": way, "at": done.hit or MISSED})
        last = step
        print(f"{number + 1} of {len(kills)}: {way}, {step.name}, at {done.hit or MISSED}", flush=True)
    rows[-1]["healed"] = start(arguments, run).healed(last or Step("texts"))
    return rows


def compare(calm: Place, tormented: Place) -> dict[str, int]:
    """How many rows were lost, came twice, or are others than in the quiet run; those of NEAR may differ a little."""
    expected = {_key(row): row for row in read_rows(calm)}
    seen: Counter[tuple[Any, ...]] = Counter()
    different = 0
    for row in read_rows(tormented):
        seen[_key(row)] += 1
        different += not same(expected.get(_key(row)), row)
    return {
        "rows": len(expected),
        "lost": len(expected.keys() - seen.keys()),
        "twice": sum(times > 1 for times in seen.values()),
        "different": different,
    }


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEYS)


def same(left: Any, right: Any, near: bool = False) -> bool:
    """Whether two rows hold the same; floats that may be `near` differ by TOLERANCE at most."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key], key in NEAR) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(*both, near) for both in zip(left, right, strict=True))
    if near and isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= TOLERANCE
    return bool(left == right)


def compare_weights(calm: Path, tormented: Path) -> dict[str, int]:
    """The same of the tensors of two folders, bit for bit."""
    left, right = (load_file(next(folder.glob("*.safetensors"))) for folder in (calm, tormented))
    different = sum(not np.array_equal(tensor, right[name]) for name, tensor in left.items() if name in right)
    return {"rows": len(left), "lost": len(left.keys() - right.keys()), "twice": 0, "different": different}


def compare_runs(calm: RunDir, tormented: RunDir, rounds: int) -> dict[str, dict[str, int]]:
    """What these find, for everything that two runs hold."""
    here, there = calm.layout, tormented.layout
    found = {name: compare(getattr(here, name), getattr(there, name)) for name in ("texts", "rejects", "answers")}
    found["untouched model: validation"] = compare(here.round(0).validation, there.round(0).validation)
    for number in range(1, rounds + 1):
        own, other = here.round(number), there.round(number)
        for name in ("ranked", "rejects", "pairs", "lists", "validation"):
            found[f"round {number}: {name}"] = compare(getattr(own, name), getattr(other, name))
        for name in ("adapter", "merged"):
            found[f"round {number}: {name}"] = compare_weights(getattr(own, name), getattr(other, name))
    return found
