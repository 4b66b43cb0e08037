"""The stages of a run, each as a process of its own, so that each gives its memory and its GPU back.

This module knows the stages by name alone; it imports none.
"""

import signal
import subprocess
import sys

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


def run_stages(run: RunDir, config: Config, wanted: list[str], verbose: bool) -> int:
    """Do the wanted stages that are not done yet; returns the exit status of the first that fails, or 0.

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
        status = run_module(MODULES[stage], [str(run.path), *(["--verbose"] if verbose else [])])
        if status:
            return status
    return 0


def _command_of(stage: str) -> str:
    return "rank" if stage in ("texts", "base") else stage


def run_module(module: str, arguments: list[str]) -> int:
    """`python -m MODULE ARGUMENTS` in the foreground; an interrupt reaches it first, and it is waited for."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments])
    # The terminal sends Ctrl-C to the child as well; this process lives on to report how the child ended.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
