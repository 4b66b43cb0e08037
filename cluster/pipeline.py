"""The stages of a run, each as a process of its own, so that each gives its memory and its GPU back.

This module knows the stages by name alone; it imports none.
"""

import os
import signal
import subprocess
import sys
from types import FrameType
from typing import Any, TextIO

from cluster.orphans import WORK, end_with_parent
from cluster.run_dir import RunDir
from configs.errors import UserError
from configs.schema import Config

MODULES = {
    "texts": "generation.texts",
    "base": "training.build_base",
    "rank": "scoring.rank_texts",
    "pairs": "scoring.build_pairs",
    "train": "training.launch",
    "evaluate": "evaluation.evaluate",
}


def stages_of(config: Config) -> list[str]:
    """The stages of a whole run, in order; `base` only where the demo's model has to be built."""
    return [stage for stage in MODULES if stage != "base" or config.model.base == "demo"]


def run_stages(run: RunDir, config: Config, wanted: list[str], verbose: bool, lock: TextIO) -> int:
    """Do the wanted stages that are not done yet; returns the exit status of the first that fails, or 0.

    Each of them holds the run's `lock` as well.
    Raises UserError when a stage that the first one builds on is not done.
    """
    pending = [stage for stage in wanted if not run.is_done(stage)]
    everything = stages_of(config)
    if pending:
        missing = [stage for stage in everything[: everything.index(pending[0])] if not run.is_done(stage)]
        if missing:
            raise UserError(
                f"The {pending[0]} stage needs {', '.join(missing)}, which {run.path} does not hold yet.",
                f"Do `semtag {_command_of(missing[0])}` first, or all with `semtag run`.",
            )
    for stage in pending:
        status = run_module(MODULES[stage], [str(run.path), *(["--verbose"] if verbose else [])], lock)
        if status:
            return status
    return 0


def _command_of(stage: str) -> str:
    return "rank" if stage in ("texts", "base") else stage


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
