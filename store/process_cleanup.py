"""No process outlives the one that it works for, not even where that one was killed.

A killed actor cannot end vLLM's engine, which is a process of its own and would keep the GPU's memory for ever: the
next engine on that GPU would find no room.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

LIBC = ctypes.CDLL(None)
# The environment variables that say what a process and all that it starts work on, and in the folder of which Ray.
WORK, RAY = "SEMTAG_WORK", "SEMTAG_RAY"
# Seconds for what a killed process leaves. Ray's workers end 2 seconds after it, and where it was killed while Ray was
# starting, agents of Ray's wait for a minute for a server that is gone.
PATIENCE = 90.0
CLOCK_STEPS = 2.0  # seconds that a process's start may seem to move while the clock is being set


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is gone: none works on for nobody."""
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def left_at_work(work: str) -> list[int]:
    """Ids of other processes with `work` as their WORK, that are alive still after some patience."""
    end = time.monotonic() + PATIENCE
    while left := [process.pid for process in _named(WORK, work)]:
        if time.monotonic() > end:
            return left
        time.sleep(0.1)
    return []


def _named(variable: str, value: str) -> list[psutil.Process]:
    """Other processes that began with this value of an environment variable."""
    everyone = psutil.process_iter(["environ"])
    return [one for one in everyone if one.pid != os.getpid() and (one.info["environ"] or {}).get(variable) == value]


def end_with_this(processes: Iterable[psutil.Process], folder: str = "") -> subprocess.Popen[bytes]:
    """Have the processes killed once this one is gone, however it ends, or lets go of what is returned here.

    The folder, if one is named, is that of their Ray: all processes with it as their RAY are killed too, and it is
    removed. `end_as_well` names more processes.
    """
    # In a session of its own, so that what ends a whole group of processes leaves it alone.
    watch = subprocess.Popen(
        [sys.executable, "-m", "semtag.store.process_cleanup", *filter(None, [folder])],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    end_as_well(watch, processes)
    return watch


def end_as_well(watch: subprocess.Popen[bytes], processes: Iterable[psutil.Process]) -> None:
    """Name more processes to what `end_with_this` returned."""
    assert watch.stdin
    watch.stdin.write("".join(f"{process.pid}:{process.create_time()}\n" for process in processes).encode())
    watch.stdin.flush()


def main(named: list[str]) -> None:
    """`python -m semtag.store.process_cleanup [FOLDER] PID:TIME ...`, and more of them on stdin, a line each.

    Kills those processes when stdin ends, and what works in the folder, and removes that. Another process of such an id
    is spared.
    """
    named += sys.stdin.read().splitlines()
    folders = [name for name in named if name.startswith("/")]
    for name in named:
        if name in folders:
            continue
        number, started = name.split(":")
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(number))
            if abs(process.create_time() - float(started)) < CLOCK_STEPS:
                process.kill()
    for folder in folders:
        _clear(folder)


def _clear(folder: str) -> None:
    """Kill all processes that a Ray started, early or late, and remove its folder: a worker may hang and end never."""
    end = time.monotonic() + PATIENCE
    while ((left := _named(RAY, folder)) or Path(folder).exists()) and time.monotonic() < end:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1:])
