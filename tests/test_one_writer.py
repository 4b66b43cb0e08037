"""Lock and stage live and die together, whatever ends the command line."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest

from semtag.cli import main
from semtag.cluster.progress import Progress
from semtag.cluster.stage_process import stage_main
from semtag.configs.schema import Config
from semtag.store.run_dir import RunDir
from semtag.store.stages import STAGES
from tests.conftest import ROOT

# What a stage process does until the file of that name is there.
CHILD = "import sys, time, pathlib\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.02)"


def work(run: RunDir, config: Config, progress: Progress, number: int) -> dict[str, Any]:
    """Run until there is a file `done`, in ways that files of other names ask for."""

    def linger(number: int, frame: FrameType | None) -> None:
        (run.path / "signal").write_text(str(number))
        wait_for((run.path / "may_end").exists)
        os._exit(1)

    signal.signal(signal.SIGTERM, linger)
    signal.signal(signal.SIGHUP, linger)
    if (run.path / "outlive").exists():
        ctypes.CDLL(None).prctl(1, 0)
    if (run.path / "have_child").exists():
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(run.path / "child_may_end")])
        (run.path / "child").write_text(str(child.pid))
    (run.path / "stage").write_text(str(os.getpid()))
    wait_for((run.path / "done").exists)
    return {}


def wait_for(what: Callable[[], Any], seconds: float = 60) -> None:
    """Raises TimeoutError when it does not come."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


class Job:
    """The command line with `work` in place of ranking, and no texts."""

    def __init__(self, root: Path) -> None:
        self.run = root / "demo"
        self.command = [sys.executable, "-m", "tests.test_one_writer", "rank", "configs/demo.yaml", f"run.root={root}"]
        self.processes: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        """Another process with the same command."""
        process = subprocess.Popen(
            self.command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.processes.append(process)
        return process

    def begin(self, *ways: str) -> tuple[subprocess.Popen[str], psutil.Process]:
        """A command line whose stage is at work."""
        self.run.mkdir()
        for way in ways:
            (self.run / way).touch()
        process = self.start()
        wait_for((self.run / "stage").exists)
        wait_for((self.run / "stage").read_text)
        return process, psutil.Process(int((self.run / "stage").read_text()))

    def is_refused(self) -> bool:
        """Whether the same command ends at once because of another one."""
        said, _ = (process := self.start()).communicate(timeout=120)
        return process.returncode == 2 and "Another process works on" in said

    def goes_on(self) -> bool:
        """Whether the same command does its work."""
        (self.run / "done").touch()
        said, _ = (process := self.start()).communicate(timeout=120)
        return process.returncode == 0 and "done" in said


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    for process in job.processes:
        process.kill()
        process.wait()
    with contextlib.suppress(OSError, psutil.NoSuchProcess):
        psutil.Process(int((job.run / "stage").read_text())).kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_the_stages_and_the_lock_waits_for_its_end(job: Job, number: int) -> None:
    command, stage = job.begin()
    command.send_signal(number)
    wait_for((job.run / "signal").exists)
    assert job.is_refused()
    assert command.poll() is None and stage.is_running()
    (job.run / "may_end").touch()
    assert command.wait(timeout=60) == 128 + number
    assert (job.run / "signal").read_text() == str(int(number))
    assert not stage.is_running()
    assert job.goes_on()


def test_a_signal_that_was_ignored_from_the_start_stays_so(job: Job) -> None:
    job.command = ["nohup", *job.command]
    command, _ = job.begin()
    command.send_signal(signal.SIGHUP)
    assert job.is_refused()
    (job.run / "done").touch()
    assert command.wait(timeout=60) == 0
    assert not (job.run / "signal").exists()


def test_a_killed_command_line_takes_its_stage_along(job: Job) -> None:
    command, stage = job.begin()
    command.kill()
    psutil.wait_procs([stage], timeout=30)
    assert not stage.is_running()
    assert job.goes_on()


def test_a_stage_that_outlives_its_command_line_keeps_the_lock(job: Job) -> None:
    command, stage = job.begin("outlive")
    command.kill()
    command.wait()
    assert job.is_refused()
    assert stage.is_running()
    stage.kill()
    psutil.wait_procs([stage], timeout=30)
    assert job.goes_on()


def test_what_the_stage_started_is_waited_for(job: Job) -> None:
    command, stage = job.begin("have_child")
    child = psutil.Process(int((job.run / "child").read_text()))
    command.kill()
    psutil.wait_procs([stage], timeout=30)
    (job.run / "stage").unlink()
    again = job.start()
    time.sleep(2)
    assert child.is_running() and again.poll() is None and not (job.run / "stage").exists()
    (job.run / "child_may_end").touch()
    (job.run / "done").touch()
    assert again.wait(timeout=120) == 0


def test_a_stage_that_was_killed_gives_its_signal_as_status(job: Job) -> None:
    command, stage = job.begin()
    stage.kill()
    assert command.wait(timeout=60) == 128 + signal.SIGKILL


if __name__ == "__main__":
    if Path(sys.argv[1]).is_dir():
        stage_main(*(("rank", work) if "--round" in sys.argv else ("texts", lambda *_: {})))
    else:
        for name in ("texts", "rank"):
            STAGES[name] = STAGES[name]._replace(module="tests.test_one_writer")
        sys.exit(main(sys.argv[1:]))
