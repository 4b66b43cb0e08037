"""A training that a signal ends saves its step first, and the same command resumes there."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from semtag.configs.errors import UserError
from semtag.training.ending import ENDED, keep_wish
from semtag.training.worker import last_checkpoint
from tests.conftest import ROOT, with_pairs, worker_in
from tests.test_processes import TWO, check_same, curve, layout_of

# Sums in another order drift apart over so many steps, the more the longer the steps.
LONG = [
    *("training.epochs=15", "training.learning_rate=3e-3", "training.likelihood_weight=0", "training.save_steps=10"),
    "training.max_steps=null",
]


def stage(run: Path) -> subprocess.Popen[str]:
    """Start the train stage of round 1."""
    command = [sys.executable, "-m", "semtag.training.train", str(run), "--round", "1"]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def undisturbed(model_path: str, pairs: Any, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of one process."""
    root = tmp_path_factory.mktemp("undisturbed")
    worker_in(root, model_path, pairs)(*LONG)
    return curve(root)


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ("local", signal.SIGTERM),
        pytest.param("accelerate", signal.SIGHUP, marks=pytest.mark.cluster),
        pytest.param("ray", signal.SIGTERM, marks=pytest.mark.cluster),
    ],
)
def test_a_training_that_is_ended_saves_its_step(
    launcher: str, number: int, undisturbed: list[float], model_path: str, pairs: Any, tmp_path: Path
) -> None:
    several = [] if launcher == "local" else [*TWO, f"training.launcher={launcher}"]
    run, _ = with_pairs(tmp_path, model_path, pairs, *LONG, *several)
    job = stage(run.local_dir)
    first = layout_of(tmp_path).checkpoints / "checkpoint-10" / "trainer_state.json"
    deadline = time.monotonic() + 300
    while not first.exists():
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(number)
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 2, said
    [step] = re.findall(r"ended the training before its last step; step (\d+) is saved", said)
    assert "The same command resumes the training" in said
    newest = layout_of(tmp_path).checkpoints / f"checkpoint-{step}"
    assert last_checkpoint(newest.parent) == str(newest)
    if launcher == "ray":  # that Ray resumes from a checkpoint is shown in test_processes.py
        return
    job = stage(run.local_dir)
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said
    assert f"checkpoint-{step}\n" in said and run.manifest().steps["train-1"].state == "done"
    check_same(curve(tmp_path), undisturbed)


def test_a_wish_before_the_first_step_ends_the_work_on_references(work: Any, tmp_path: Path) -> None:
    """The wish is there when the training begins, as after a signal while the model loads."""
    import semtag.training.processes as processes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "keep_wish", lambda folder: _wished(folder))
        with pytest.raises(UserError, match="before its first step; reference log-probabilities"):
            work(*LONG)
    _, said = work(*LONG)
    assert "56 lists" not in said
    assert re.search(r"of 64 lists; 8 were computed before", said), said


def _wished(folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENDED).touch()
    return keep_wish(folder)


class _Alone:
    """What the callback asks of accelerate, of one process."""

    is_main_process, device = True, "cpu"

    @staticmethod
    def reduce(value: Any, _: str) -> Any:
        return value


def test_the_last_step_ends_as_ever(tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState

    from semtag.training.callbacks import EndWhenAsked

    ending, control, arguments = EndWhenAsked(tmp_path, _Alone()), TrainerControl(), Any
    with keep_wish(tmp_path):
        signal.raise_signal(signal.SIGTERM)
    assert (tmp_path / ENDED).exists()
    ending.on_step_end(arguments, TrainerState(global_step=7, max_steps=7), control)  # type: ignore[arg-type]
    ending.check_after_steps()
    assert not control.should_save and not control.should_training_stop
    ending.on_step_end(arguments, TrainerState(global_step=6, max_steps=7), control)  # type: ignore[arg-type]
    assert control.should_save and control.should_training_stop
    with pytest.raises(UserError, match="step 6 is saved"):
        ending.check_after_steps()
