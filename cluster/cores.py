"""Who runs on which core of a machine whose engine computes on its CPUs.

vLLM binds a thread to each core but the last one, which it leaves to the process that feeds them. Ray's processes, a
dozen that wake up a hundred times a second, know nothing of that: with 2 cores they cost sampling a tenth of its speed.
"""

import contextlib
import os
from collections.abc import Iterator

import psutil

CORES = "SEMTAG_CORES"  # in the environment of all that a run on this machine starts: the cores that it may use


@contextlib.contextmanager
def kept_aside() -> Iterator[None]:
    """Keep this process and those that it starts in the block to the last quarter of its cores, at least one."""
    cores = sorted(os.sched_getaffinity(0))
    os.environ[CORES] = ",".join(map(str, cores))
    _move(os.getpid(), _aside(cores))
    try:
        yield
    finally:
        del os.environ[CORES]
        _move(os.getpid(), cores)


def take_all() -> None:
    """Give this process, and those that it starts from now on, all cores of the run."""
    _move(os.getpid(), _of_the_run())


def step_aside() -> None:
    """Keep this process and its children to the last quarter again; what feeds an engine, not the children's own."""
    for process in (os.getpid(), *(child.pid for child in psutil.Process().children())):
        _move(process, _aside(_of_the_run()))


def _of_the_run() -> list[int]:
    """The run's cores; none where nobody is kept aside, as on a cluster."""
    return [int(core) for core in os.environ.get(CORES, "").split(",") if core]


def _aside(cores: list[int]) -> list[int]:
    # With two threads a core vLLM takes one of them, and the other ones are there for everybody.
    if psutil.cpu_count(logical=True) != psutil.cpu_count(logical=False):
        return cores
    return cores[-max(1, len(cores) // 4) :]


def _move(process: int, cores: list[int]) -> None:
    if not cores:
        return
    for thread in psutil.Process(process).threads():
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(thread.id, cores)
