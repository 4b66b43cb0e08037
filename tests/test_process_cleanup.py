"""Processes that end with the one that they work for."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from semtag.store.process_cleanup import RAY, kill_when_parent_ends
from tests.conftest import ROOT

PARENT = """
import subprocess, sys, time
import psutil
from semtag.store.process_cleanup import RAY, kill_when_parent_ends
child = subprocess.Popen(["sleep", "600"])
kept = kill_when_parent_ends([psutil.Process(child.pid)])
print(child.pid, kept.pid, flush=True)
time.sleep(600)
"""


def test_what_a_killed_process_started_is_killed_too() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        family = [psutil.Process(int(number)) for number in parent.stdout.readline().split()]
        assert all(member.is_running() for member in family)
        parent.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive


def test_another_process_of_the_same_id_is_spared() -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        process = psutil.Process(other.pid)
        command = [sys.executable, "-m", "semtag.store.process_cleanup", f"{other.pid}:{process.create_time() - 10}"]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True, cwd=ROOT)
        assert process.is_running()
        command[-1] = f"{other.pid}:{process.create_time()}"
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True, cwd=ROOT)
        assert other.wait(timeout=30) == -9


def test_those_that_are_gone_already_do_not_matter() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    subprocess.run(
        [sys.executable, "-m", "semtag.store.process_cleanup", f"{gone.pid}:1.0"],
        stdin=subprocess.DEVNULL,
        check=True,
        cwd=ROOT,
    )


def test_a_folder_goes_with_the_process_that_it_is_for(tmp_path: Path) -> None:
    folder = tmp_path / "a folder: of sockets"
    (folder / "deep").mkdir(parents=True)
    with kill_when_parent_ends([], str(folder)) as watch:
        assert folder.exists() and watch.poll() is None
    assert not folder.exists() and watch.returncode == 0


def test_all_of_a_ray_end_with_it_whenever_they_began(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    with kill_when_parent_ends([], str(own)):
        begun = [
            subprocess.Popen(["sleep", "600"], env=os.environ | {RAY: str(folder)}, start_new_session=True)
            for folder in (own, own, other)
        ]
    *ended, spared = begun
    assert [process.wait(timeout=30) for process in ended] == [-9, -9]
    assert spared.poll() is None
    spared.kill()
    spared.wait()
