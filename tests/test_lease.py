"""One holder of a run at a time: machines, users and containers told apart, and no work by who lost the run."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.pipeline import run_module
from semtag.store import lease as leases
from semtag.store.layout import Step
from semtag.store.lease import file_lock, lease
from semtag.store.locations import write_json
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT
from tests.test_one_writer import wait_for

HERE, THERE, ELSEWHERE = "kernel 1 2", "kernel 1 3", "other 1 2"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody renews unless a test asks for it, and nobody waits long."""
    monkeypatch.setattr(leases, "RENEWED_EVERY", 1e9)
    monkeypatch.setattr(leases, "WATCHED_EVERY", 0.02)
    monkeypatch.setattr(leases, "GIVEN_UP_AFTER", 1e9)
    monkeypatch.setattr(leases, "DEAD_AFTER", 0.3)
    monkeypatch.delenv(leases.HELD, raising=False)


@pytest.fixture
def ended() -> Iterator[list[int]]:
    """The signals to end this process, which does not end by them."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


def signs(run: Path) -> dict[str, Any]:
    return {file.name: json.loads(file.read_text()) for file in (run / leases.SIGNS).iterdir()}


def test_of_two_at_once_one_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, create, held = threading.Barrier(2), leases._create, list[str]()

    def at_once(*arguments: Any) -> None:
        both.wait()  # both have seen that nobody is there
        create(*arguments)

    monkeypatch.setattr(leases, "_create", at_once)
    done = threading.Barrier(2)

    def work(place: str) -> None:
        with contextlib.suppress(UserError), lease(tmp_path, place):
            held.append(place)
            done.wait()
            return
        done.wait()

    threads = [threading.Thread(target=work, args=(place,)) for place in (HERE, ELSEWHERE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1


def test_numbers_only_grow(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with lease(tmp_path, HERE):
            assert list(signs(tmp_path)) == [str(number)]
        assert signs(tmp_path)[str(number)]["released"]


def test_a_holder_that_lives_keeps_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWED_EVERY", 0.02)
    with lease(tmp_path, HERE), pytest.raises(UserError, match=f"A process on .* works on {tmp_path}"):
        with lease(tmp_path, THERE):
            pass
    with lease(tmp_path, THERE):  # at once, because the run was given back
        pass


@pytest.mark.parametrize("place", [THERE, None])
def test_a_sign_of_a_killed_process_is_waited_for_unless_a_file_lock_shows_its_end(
    tmp_path: Path, place: str | None
) -> None:
    (tmp_path / leases.SIGNS).mkdir()
    for number, before in enumerate((HERE, THERE), start=1):
        (tmp_path / leases.SIGNS / str(number)).write_text(json.dumps({"host": "x", "place": before, "holder": "x"}))
    start = time.monotonic()
    with lease(tmp_path, place):
        waited = time.monotonic() - start
    assert (waited >= leases.DEAD_AFTER) == (place is None)


def test_places_are_told_apart_on_one_host(tmp_path: Path) -> None:
    """As of two users, or of two containers: what they lock are two files, though the host's name is one."""
    with file_lock(tmp_path / "one", tmp_path) as (_, one), file_lock(tmp_path / "other", tmp_path) as (_, other):
        assert one and other and one != other
    with file_lock(tmp_path / "one", tmp_path) as (_, again):
        assert again == one


def test_a_disk_without_file_locks_has_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with file_lock(tmp_path / "lock", tmp_path) as (_, place):
        assert place is None


def test_who_comes_back_after_another_took_over_is_ended(tmp_path: Path, ended: list[int]) -> None:
    with pytest.raises(UserError, match=f"took over {tmp_path}"), lease(tmp_path, HERE) as late:
        with lease(tmp_path, ELSEWHERE):
            late.renew()
            assert ended == [signal.SIGTERM]
            late.renew()
            assert ended == [signal.SIGTERM]


def test_the_loser_leaves_the_winners_sign(tmp_path: Path, ended: list[int]) -> None:
    with contextlib.ExitStack() as winner:
        with pytest.raises(UserError), lease(tmp_path, HERE) as late:
            winner.enter_context(lease(tmp_path, ELSEWHERE))
            late.renew()
        assert [sign["place"] for sign in signs(tmp_path).values()] == [ELSEWHERE]
        assert "released" not in signs(tmp_path)["2"]
    assert signs(tmp_path)["2"]["released"]


def test_an_outage_longer_than_the_lease_ends_the_work(
    tmp_path: Path, ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEWED_EVERY", 0.02)
    monkeypatch.setattr(leases, "GIVEN_UP_AFTER", 0.2)
    with pytest.raises(UserError, match=r"could not be renewed for 0\.2 seconds: .*Is a directory"):
        with lease(tmp_path, HERE):
            wait_for((sign := tmp_path / leases.SIGNS / "1").exists)
            sign.unlink()
            sign.mkdir()  # a disk that fails
            wait_for(lambda: ended)


def test_a_process_that_was_stopped_goes_on_where_nobody_took_over(tmp_path: Path, ended: list[int]) -> None:
    with lease(tmp_path, HERE) as late:
        time.sleep(2 * leases.DEAD_AFTER)
        late.renew()
    assert not ended


def test_a_folder_that_its_own_stage_removed_is_not_lost(tmp_path: Path, ended: list[int]) -> None:
    """As `semtag tag` removes its job's folder at the end."""
    with lease(tmp_path / "job", HERE) as holder:
        shutil.rmtree(tmp_path / "job")
        holder.renew()
    assert not ended


def test_who_lost_the_run_writes_no_manifest_and_no_folder(tmp_path: Path, ended: list[int]) -> None:
    config = load_config(ROOT / "configs" / "demo.yaml", [f"run.root={tmp_path}"])
    run, step = RunDir.of(config), Step("rank", 1)
    run.create()
    ranked = run.layout.round(1).ranked
    with pytest.raises(UserError, match="took over"), lease(run.path, HERE) as late:
        run.start(config)
        run.begin(step, config)
        with run.replace_folder(ranked) as folder:
            (folder / "a").write_text("mine")
        with lease(tmp_path / "another run", HERE):  # is none of this one's
            run.record(step, "texts", 1, 1, {})
        os.environ[leases.HELD], held = f"2 {run.path}", os.environ[leases.HELD]
        with contextlib.suppress(UserError), lease(run.path, ELSEWHERE):
            os.environ[leases.HELD] = held
            for write in (
                lambda: run.finish(step, {}, {}),
                lambda: run.record(step, "texts", 2, 2, {}),
                lambda: run.replace_folder(ranked).__enter__(),
            ):
                with pytest.raises(UserError, match="took over"):
                    write()
            with pytest.raises(UserError, match="took over"), run.replace_folder(ranked) as folder:
                (folder / "a").write_text("late")
        late.renew()
    assert (ranked / "a").read_text() == "mine"
    assert not run.is_done(step) and run.ledger().of("rank-1")["texts"].came_in == 1


def test_a_stage_that_does_not_end_when_the_run_is_lost_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.test_lease", str(tmp_path)]
    job = subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE)
    wait_for((tmp_path / "stage").exists)
    stage = psutil.Process(int((tmp_path / "stage").read_text()))
    write_json(tmp_path / leases.SIGNS / "2", {"host": "another", "holder": "x"})  # whole, as it may be read at once
    _, said = job.communicate(timeout=60)
    assert "A process on another took over" in said
    psutil.wait_procs([stage], timeout=10)
    assert not stage.is_running()


if __name__ == "__main__":
    if sys.argv[1] == "--deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (unfinished := Path(sys.argv[2] + ".unfinished")).write_text(str(os.getpid()))
        unfinished.rename(sys.argv[2])  # whole, as it may be read at once
        time.sleep(600)
    else:
        leases.RENEWED_EVERY, leases.WATCHED_EVERY, leases.ENDS_WITHIN = 0.05, 0.05, 0.3
        with RunDir(sys.argv[1]).lock() as lock:
            run_module("tests.test_lease", ["--deaf", str(Path(sys.argv[1]) / "stage")], lock)
