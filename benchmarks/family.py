"""The processes of a job, and their end."""

import time

import psutil

KINDS = ("engine", "actor", "worker", "raylet", "driver")
LOOK_EVERY = 0.2  # seconds between looks, which take longer than what is waited for meanwhile


class Family:
    """The processes of a job, remembered also when their parents are gone."""

    def __init__(self, pid: int) -> None:
        self.first = psutil.Process(pid)
        self.members: dict[int, psutil.Process] = {}
        self._looked = 0.0

    def watch(self) -> None:
        """Look now and then; called all the time while something is waited for."""
        if time.monotonic() - self._looked > LOOK_EVERY:
            self.look()
            self._looked = time.monotonic()

    def look(self) -> list[psutil.Process]:
        """All living members but the first one, those that came since the last look included."""
        everyone = {process.pid: process for process in psutil.process_iter(["ppid"])}
        self.members = {pid: member for pid, member in self.members.items() if member.is_running()}
        known = set(self.members) | ({self.first.pid} if self.first.is_running() else set())
        while new := {pid for pid in everyone.keys() - known if everyone[pid].info["ppid"] in known}:
            self.members |= {pid: everyone[pid] for pid in new}
            known |= new
        return list(self.members.values())

    def of_kind(self, kind: str) -> list[psutil.Process]:
        """The living members that one of KINDS names."""
        return [member for member in self.look() if kind_of(member) == kind]

    def end(self) -> None:
        """Kill the job, but not what clears up behind it: that is in a session of its own."""
        # At once, because a look takes a while. The last that came are the first to go: one of them writes.
        _kill_all([*reversed(self.members.values()), self.first])
        _kill_all(self.look())


def _kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        if "semtag.store.process_cleanup" not in title_of(process):
            kill(process)


def title_of(process: psutil.Process) -> str:
    """The title that a process gave itself; nothing where it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kind_of(process: psutil.Process) -> str | None:
    """Which of KINDS a process is, if any, by its title."""
    title = title_of(process)
    if "EngineCore" in title:
        return "engine"
    if title.startswith("ray::"):
        return "actor" if "Sampler" in title or "Scorer" in title else "worker"
    if "/raylet/raylet " in title:
        return "raylet"
    return "driver" if "semtag.scoring.rank" in title else None


def kill(process: psutil.Process) -> None:
    """`kill -9`, unless it is gone already."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
