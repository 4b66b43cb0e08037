"""The steps of a run, in order, and the start of each step as a process.

A step is a process because it must give back its memory and its GPU before the next step begins. The table is a map of
the whole job: paths are below the run, N is a round, and `start` is the model that round N starts from.

step        module                   reads                             writes
texts       generation/texts.py      data.path                         texts/, rejects/
rank-N      scoring/rank.py          texts/train-N.parquet, start      round-N/ranked/, round-N/rejects/
pairs-N     scoring/build_pairs.py   round-N/ranked/                   round-N/pairs/, round-N/lists/
train-N     training/train.py        round-N/pairs/ or lists/, start   round-N/model/, round-N/merged/
validate-N  evaluation/validate.py   texts/validation.parquet, merged  round-N/validation/
evaluate    evaluation/evaluate.py   texts/held_out.parquet, models    evaluation/

Round 1 starts from model.base, and round N from round-(N-1)/merged/. The rounds end at rounds.count, or with a round
that gained nothing. validate-1 also writes the answers of model.base to round-0/validation/. The models of evaluate are
model.base and the merged weights of all rounds. Each step records its state in manifest.json, and texts, rank, pairs
and train count their drops in ledger.json. store/stages.py names the modules, because nothing here imports them.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO

from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.store.layout import Step
from semtag.store.process_cleanup import WORK, end_with_parent
from semtag.store.rounds import last_round
from semtag.store.run_dir import RunDir
from semtag.store.stages import STAGES


def steps_of(run: RunDir, config: Config) -> list[Step]:
    """Return the steps of a whole run, in order, without the rounds after a round that gained nothing."""
    stages = [name for name, stage in STAGES.items() if stage.in_each_round]
    if not config.rounds.validation:
        stages.remove("validate")
    rounds = [Step(stage, number) for number in range(1, last_round(run, config) + 1) for stage in stages]
    return [Step("texts"), *rounds, Step("evaluate")]


def run_steps(run: RunDir, config: Config, wanted: Callable[[Step], bool], verbose: bool, lock: TextIO) -> int:
    """Do the wanted steps that are not done yet; return the exit status of the first step that fails, or 0.

    The process of each step holds the run's `lock` as well.
    Raises UserError when a step before a wanted step is neither done nor wanted.
    """
    # The list is made again after each step, because a round that gains nothing is the last round.
    while pending := [step for step in steps_of(run, config) if wanted(step) and not run.is_done(step)]:
        step = pending[0]
        _check_ready(run, config, step)
        flags = [*(["--round", str(step.round)] if step.round else []), *(["--verbose"] if verbose else [])]
        status = run_module(STAGES[step.stage].module, [str(run.path), *flags], lock)
        if status:
            return status
    return 0


def _check_ready(run: RunDir, config: Config, step: Step) -> None:
    everything = steps_of(run, config)
    missing = [one for one in everything[: everything.index(step)] if not run.is_done(one)]
    if missing:
        first = missing[0]
        command = "rank" if first.stage == "texts" else first.stage
        number = f" --round {first.round}" if first.round > 1 else ""
        alone = f"Do `semtag {command}{number}` first, or all with `semtag run`."
        raise UserError(
            f"The step {step.name} needs {', '.join(one.name for one in missing)}, which {run.path} does not hold yet.",
            "Do `semtag run`, which validates as well." if first.stage == "validate" else alone,
        )


def run_module(module: str, arguments: list[str], lock: TextIO | None = None) -> int:
    """Run `python -m MODULE ARGUMENTS` as a child; return its exit status, or 128 plus the signal that ended the child.

    SIGTERM and SIGHUP go to the child, and this process waits for the child's end. SIGKILL of this process ends both.
    Both hold the file of a run's `lock`, so the run is free once both have ended.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | ({WORK: lock.name} if lock else {}),
        pass_fds=[lock.fileno()] if lock else [],
        preexec_fn=end_with_parent,
    )
    received: list[int] = []

    # Pass signals on to the child until the child ends, then restore the handlers.
    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        process.send_signal(number)

    # The terminal sends Ctrl-C to the child as well. This process ignores Ctrl-C, because it reports the child's end.
    handlers: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.SIG_IGN,
        signal.SIGTERM: pass_on,
        signal.SIGHUP: pass_on,
    }
    before = {number: signal.getsignal(number) for number in handlers}
    for number in handlers:
        if before[number] != signal.SIG_IGN:  # under nohup, SIGHUP stays ignored
            signal.signal(number, handlers[number])
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + received[0] if received else 128 - status if status < 0 else status
