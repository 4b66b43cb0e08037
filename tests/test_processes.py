"""One training, started in every way there is: the same losses, whoever holds what, and whoever dies."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from benchmarks.family import title_of
from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.store.layout import RoundLayout
from semtag.store.run_dir import RunDir
from semtag.training import worker
from semtag.training.worker_messages import MessageReader, MessageWriter
from tests.conftest import ROOT, worker_in

STEPS = 12
# Each process takes the mean over its own half of a batch, so halves must weigh alike: no likelihood term, which goes
# by tokens, and 64 pairs by eight.
SHORT = [f"training.max_steps={STEPS}", "training.learning_rate=1e-2", "training.likelihood_weight=0"]
TWO = ["training.workers=2", "training.batch_size=4"]


def layout_of(root: Path) -> RoundLayout:
    return RunDir(root / "demo").layout.round(1)


def curve(root: Path, entry: str = "loss") -> list[float]:
    return [step[entry] for step in json.loads((layout_of(root).adapter / "curve.json").read_text())]


@pytest.fixture(scope="module")
def alone(model_path: str, pairs: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], list[float]]:
    """Losses and accuracies of one process."""
    root = tmp_path_factory.mktemp("alone")
    worker_in(root, model_path, pairs)(*SHORT)
    return curve(root), curve(root, "accuracy")


def check_same(found: list[float], expected: list[float]) -> None:
    assert len(found) == len(expected)
    assert found[0] != found[-1]
    assert found == pytest.approx(expected, abs=1e-3)


def test_two_processes_learn_as_one(alone: Any, work: Any, tmp_path: Path) -> None:
    """Processes on Ray that share nothing are in the test of a worker that dies."""
    counts, said = work(*SHORT, *TWO, "training.launcher=accelerate")
    check_same(curve(tmp_path), alone[0])
    assert curve(tmp_path, "accuracy")[2:] == pytest.approx(alone[1][2:], abs=1e-6)  # at first there is only noise
    assert counts["steps"] == STEPS
    assert counts["references"] == {"from_sampling": 0, "recomputed_as_not_sampled_by_this_model": 128}
    assert said.count("the first loss is") == 1  # one process alone says so
    assert (layout_of(tmp_path).adapter / "adapter_model.safetensors").stat().st_size > 0


@pytest.mark.cluster
def test_processes_on_ray_that_share_weights_learn_as_one(alone: Any, work: Any, tmp_path: Path) -> None:
    """The launcher accelerate shares state of all kinds in test_matrix.py."""
    work(*SHORT, *TWO, "training.launcher=ray", "training.parallel=zero3")
    check_same(curve(tmp_path), alone[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="fsdp2 shares weights on GPUs")
def test_what_would_not_be_shared_is_refused(work: Any) -> None:
    # accelerate takes the arguments of FSDP2 on CPUs and trains by DDP, without a word.
    with pytest.raises(UserError, match="parallel=fsdp2 would train as MULTI_CPU in 2 processes"):
        work(*SHORT, *TWO, "training.launcher=accelerate", "training.parallel=fsdp2")


@pytest.mark.cluster
@pytest.mark.parametrize("parallel", ["ddp", "zero2"])
def test_weights_in_4_bit_learn_in_two_processes_as_in_one(parallel: str, work: Any, tmp_path: Path) -> None:
    work(*SHORT, "training.four_bit=true")
    alone = curve(tmp_path)
    (tmp_path / "demo").rename(tmp_path / "alone")
    work(*SHORT, *TWO, "training.four_bit=true", "training.launcher=accelerate", f"training.parallel={parallel}")
    check_same(curve(tmp_path), alone)


@contextlib.contextmanager
def once(there: Callable[[], bool], then: Callable[[], None]) -> Iterator[None]:
    """Do `then` as soon as `there`, beside the block; fails when that never came."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set() and not there():
            time.sleep(0.02)
        if not done.is_set():
            then()
            done.set()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    came = done.is_set()
    done.set()
    thread.join()
    assert came


@pytest.mark.cluster
def test_a_worker_that_dies_on_ray_changes_nothing(work: Any, tmp_path: Path) -> None:
    # Sums in another order drift apart over so many steps, the more the longer the steps.
    long = ["training.epochs=15", *SHORT[1:], "training.learning_rate=3e-3", "training.save_steps=10"]
    work(*long)
    undisturbed = curve(tmp_path)
    (tmp_path / "demo").rename(tmp_path / "alone")

    def kill_one() -> None:
        family = psutil.Process().children(recursive=True)
        workers = [process for process in family if "TrainWorker" in title_of(process)]
        assert len(workers) == 2
        workers[-1].send_signal(signal.SIGKILL)

    checkpoint = layout_of(tmp_path).checkpoints / "checkpoint-20" / "trainer_state.json"
    with once(checkpoint.exists, kill_one):
        _, said = work(*long, *TWO, "training.launcher=ray")
    assert "resuming from" in said
    check_same(curve(tmp_path), undisturbed)


def test_processes_do_not_outlive_the_stage(work: Any, tmp_path: Path) -> None:
    settings = [*TWO, "training.launcher=accelerate", "training.epochs=1000", "training.max_steps=1000000"]
    with pytest.raises(UserError):
        work(*settings, "training.max_length=1")  # leaves a run with pairs
    run = tmp_path / "demo"
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("max_length: 1\n", "max_length: 1024\n"))
    stage = subprocess.Popen([sys.executable, "-m", "semtag.training.train", str(run), "--round", "1"], cwd=ROOT)
    try:
        deadline = time.monotonic() + 300
        while not (found := ranks(run)) or not layout_of(tmp_path).checkpoints.exists():
            assert stage.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        stage.kill()
        stage.wait()
    psutil.wait_procs(found, timeout=30)
    assert not ranks(run)


def ranks(run: Path) -> list[psutil.Process]:
    with_commands = psutil.process_iter(["cmdline"])
    return [one for one in with_commands if {"semtag.training.worker", str(run)} <= set(one.info["cmdline"] or [])]


def test_errors_of_processes_are_the_stage_s_own(work: Any) -> None:
    with pytest.raises(UserError, match="and 0 to measure on"):
        work(*TWO, "training.launcher=accelerate", "training.held_out=0.0001")


def test_what_processes_tell_is_shown_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "events.jsonl"
    with Progress("train", "steps") as progress:
        listener = MessageReader(file, progress)
        speaker, silent = MessageWriter(file, is_main=True), MessageWriter(file, is_main=False)
        speaker.begin(8, 2, "lists")
        speaker.say("one")
        silent.say("two")
        speaker.set(3, "loss 1")
        whole = file.read_bytes()
        file.write_bytes(whole[:-5])
        listener.show()
        assert (progress.count, progress.total) == (2, 8)
        file.write_bytes(whole)
        listener.show()
        assert (progress.count, progress.total, progress.note) == (3, 8, "loss 1")
        assert progress.line().startswith("3 of 8 lists, ")
    assert capsys.readouterr().out.split() == ["train", "one"]
    silent.failed(ValueError("a bug"))
    assert "ValueError: a bug" in str(listener.failure("It ended."))
    silent.failed(UserError("a mistake", "its cure"))
    silent.failed(UserError("another", ""))
    error = listener.failure("It ended.")
    assert isinstance(error, UserError)
    assert (error.what, error.mend) == ("a mistake", "its cure")


def test_what_the_user_must_mend_is_not_tried_again(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    MessageWriter(events, is_main=True).say("mistake")
    MessageWriter(events, is_main=False).failed(UserError("No such key.", "Mend it."))
    with pytest.raises(UserError, match="No such key"):  # before the run is looked at, which is not there
        worker.work(str(tmp_path / "none"), 1, str(events), 1)
