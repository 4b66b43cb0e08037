"""The steps of a run, each as a process of its own, so that each gives its memory and its GPU back.

Their modules are known by name alone; none is imported here.
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
    """The steps of a whole run, in order; without the rounds that follow one that gained nothing."""
    stages = [name for name, stage in STAGES.items() if stage.in_each_round]
    if not config.rounds.validation:
        stages.remove("validate")
    rounds = [Step(stage, number) for number in range(1, last_round(run, config) + 1) for stage in stages]
    return [Step("texts"), *rounds, Step("evaluate")]


def run_steps(run: RunDir, config: Config, wanted: Callable[[Step], bool], verbose: bool, lock: TextIO) -> int:
    """Do the wanted steps that are not done yet; returns the exit status of the first that fails, or 0.

    Each of them holds the run's `lock` as well.
    Raises UserError when a step that the first one builds on is not done.
    """
    # Asked again after each step, because a round that gains nothing is the last one.
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
    """`python -m MODULE ARGUMENTS` in the foreground; returns its exit status, or 128 plus the signal that ended it.

    What would end this process goes to that one first, and is waited for; a kill ends both. The file of a run's `lock`
    is held by both, so that the run is free when none is left.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | ({WORK: lock.name} if lock else {}),
        pass_fds=[lock.fileno()] if lock else [],
        preexec_fn=end_with_parent,
    )
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        process.send_signal(number)

    # The terminal sends Ctrl-C to the child as well; this process lives on to report how the child ended.
    handlers: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.SIG_IGN,
        signal.SIGTERM: pass_on,
        signal.SIGHUP: pass_on,
    }
    before = {number: signal.getsignal(number) for number in handlers}
    for number in handlers:
        if before[number] != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, handlers[number])
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + received[0] if received else 128 - status if status < 0 else status
