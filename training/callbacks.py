"""Callbacks of the trainer: work before the first step, progress, early stopping, and the end by a signal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.training.ending import ENDED


class BeforeFirstStep(TrainerCallback):
    """Callback that calls `work` after the model is spread over its processes and before the first batch."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Call `work`."""
        self.work()


class ShowProgress(TrainerCallback):
    """Callback that shows optimizer steps and the last loss."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.note = ""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start to count steps, after the references are settled."""
        self.progress.begin(state.max_steps, state.global_step, "steps")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Print held-out and first loss, and keep the figures that the next step shows."""
        if logs and "eval_loss" in logs:
            self.progress.say(f"step {state.global_step}: held-out loss {logs['eval_loss']:.4g}")
        if logs and "first_loss" in logs:
            self.progress.say(f"first loss of the preferences: {logs['first_loss']:.6g}")
        if logs and "loss" in logs:
            self.note = f"loss {logs['loss']:.4g} nats/token"
            if "nats_per_token/margin" in logs:
                margin, target = logs["nats_per_token/margin"], logs["nats_per_token/target"]
                self.note = f"loss {logs['loss']:.4g}, margin {margin:.3f} of {target:g} nats/token"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show the step."""
        self.progress.set(state.global_step, self.note)


class StopEarly(EarlyStoppingCallback):
    """Early stopping that also ends a resumed training at once if the training had stopped at its checkpoint."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **how: Any) -> None:
        """Stop if the count that came from the checkpoint has reached the patience."""
        super().on_train_begin(args, state, control, **how)
        control.should_training_stop = self.early_stopping_patience_counter >= self.early_stopping_patience


class EndWhenAsked(TrainerCallback):
    """Callback that saves a checkpoint and stops at the first step after the wish to end.

    All processes stop at the same step, because they may have to save their parts of one checkpoint together.
    """

    def __init__(self, folder: Path, accelerator: Any) -> None:
        self._file, self._accelerator = folder / ENDED, accelerator
        self._saved: int | None = None  # the step of the checkpoint that this callback asked for

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have the trainer save and stop if that is wished and steps are left."""
        if state.global_step < state.max_steps and self._is_wished():
            control.should_save = control.should_training_stop = True
            self._saved = state.global_step

    def check_before_steps(self) -> None:
        """Raise UserError if the training is to end before its first step. All processes must call this method."""
        if self._is_wished():
            raise _ended("before its first step", "reference log-probabilities that were computed are kept")

    def check_after_steps(self) -> None:
        """Raise UserError if the training has ended before its last step."""
        if self._saved is not None:
            raise _ended("before its last step", f"step {self._saved} is saved")

    def _is_wished(self) -> bool:
        """Return whether the main process sees the wish; the same in all processes."""
        seen = self._accelerator.is_main_process and self._file.exists()
        seen_by_any = torch.tensor(float(seen), device=self._accelerator.device)
        return bool(self._accelerator.reduce(seen_by_any, "sum"))


def _ended(when: str, kept: str) -> UserError:
    return UserError(f"A signal ended the training {when}; {kept}.", "The same command resumes the training.")
