"""Which processes keep to which cores."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from cluster.cores import kept_aside, step_aside, take_all

# A child with a child of its own, each told apart by what it prints.
FAMILY = "import subprocess; own = subprocess.Popen(['sleep', '60']); print(own.pid, flush=True); own.wait()"


@pytest.fixture
def cores() -> Iterator[list[int]]:
    """The cores of this process, which gets them back."""
    before = sorted(os.sched_getaffinity(0))
    yield before
    os.sched_setaffinity(0, before)


@pytest.fixture
def one_thread_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)


def mask(process: int = 0) -> list[int]:
    return sorted(os.sched_getaffinity(process))


def test_the_last_quarter_of_the_cores_is_kept(cores: list[int], one_thread_a_core: None) -> None:
    quarter = cores[-max(1, len(cores) // 4) :]
    with kept_aside():
        assert mask() == quarter
        take_all()
        assert mask() == cores
        with subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            grandchild = int(child.stdout.readline())
            step_aside()
            assert (mask(), mask(child.pid), mask(grandchild)) == (quarter, quarter, cores)
            psutil.Process(grandchild).kill()
    assert mask() == cores


def test_nobody_moves_where_nobody_is_kept_aside(cores: list[int]) -> None:
    os.sched_setaffinity(0, cores[:1])
    take_all()
    assert mask() == cores[:1]
    step_aside()
    assert mask() == cores[:1]


def test_with_two_threads_a_core_there_is_room(cores: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 16 if logical else 8)
    with kept_aside():
        assert mask() == cores
