"""Callbacks of the trainer: work before the first step, progress, and early stopping."""

from collections.abc import Callable
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from semtag.cluster.progress import Progress


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
