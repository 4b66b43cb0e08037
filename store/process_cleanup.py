"""The end of processes whose parent has ended, even where the parent was killed.

A killed actor cannot end its vLLM engine, because the engine is a process of its own. The engine would keep the GPU's
memory, so the next engine on that GPU would find no room.
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
# Environment variables of a process and its children: the lock file of their work, and the folder of their Ray.
WORK, RAY = "SEMTAG_WORK", "SEMTAG_RAY"
# Seconds to wait for the children of a killed process. Ray's workers end 2 seconds after their parent. Ray's agents
# take a minute if the parent was killed while Ray was starting, because they wait for a server that is gone.
PATIENCE = 90.0
CLOCK_STEPS = 2.0  # seconds by which a process's start time may seem to move when the clock is set


def end_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def left_at_work(work: str) -> list[int]:
    """Return the ids of other processes with `work` as their WORK that are still alive after PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while left := [process.pid for process in _named(WORK, work)]:
        if time.monotonic() > end:
            return left
        time.sleep(0.1)
    return []


def _named(variable: str, value: str) -> list[psutil.Process]:
    """Return the other processes that began with this value of an environment variable."""
    everyone = psutil.process_iter(["environ"])
    return [one for one in everyone if one.pid != os.getpid() and (one.info["environ"] or {}).get(variable) == value]


def kill_when_parent_ends(processes: Iterable[psutil.Process], folder: str = "") -> subprocess.Popen[bytes]:
    """Kill `processes` when this process ends in any way, or when the stdin of the returned watch is closed.

    `folder`, if given, is the folder of their Ray. All processes with `folder` as their RAY are killed too, and the
    folder is removed. `kill_as_well` adds processes to the watch.
    """
    # The watch has a session of its own, so that a signal to this process group does not end the watch.
    watch = subprocess.Popen(
        [sys.executable, "-m", "semtag.store.process_cleanup", *filter(None, [folder])],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    kill_as_well(watch, processes)
    return watch


def kill_as_well(watch: subprocess.Popen[bytes], processes: Iterable[psutil.Process]) -> None:
    """Add processes to the watch that `kill_when_parent_ends` returned."""
    assert watch.stdin
    watch.stdin.write("".join(f"{process.pid}:{process.create_time()}\n" for process in processes).encode())
    watch.stdin.flush()


def main(named: list[str]) -> None:
    """Kill the named processes when stdin ends.

    The arguments, and each line of stdin, are PID:TIME or a FOLDER. PID:TIME is a process and the time of its start;
    another process with that id is spared. FOLDER belongs to a Ray: its processes are killed and the folder is removed.
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
    """Kill all processes of a Ray and remove its folder, repeatedly, because Ray may still be starting workers."""
    end = time.monotonic() + PATIENCE
    while ((left := _named(RAY, folder)) or Path(folder).exists()) and time.monotonic() < end:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1:])
