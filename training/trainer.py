"""TRL's DPOTrainer with the IPO loss, checked at the first step and watched in nats per token."""

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig, DPOTrainer

from cluster.progress import Progress
from configs.errors import UserError
from configs.schema import Training

FIRST_LOSS_TOLERANCE = 1e-3


def expected_first_loss(beta: float) -> float:
    """(1 / (2 beta))^2: IPO's loss (arXiv 2310.12036, eq. 17) where policy and reference are equal."""
    return (1 / (2 * beta)) ** 2


class PreferenceTrainer(DPOTrainer):
    """DPOTrainer that refuses a false start and logs how far it is from IPO's target.

    TRL takes IPO's log-ratios per token: (h_c/|c| - h_r/|r| - 1/(2 beta))^2, with h summed over the completion and
    |.| its number of tokens, the end token included. `nats_per_token/*` are these h/|.| (token-weighted over the
    batch), to be read beside `nats_per_token/target`; TRL's own `rewards/*` are sums and do not match the loss.
    """

    first_loss_checked = False
    loss_types: list[str]
    loss_weights: list[float]

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        if model.training and not self.first_loss_checked:
            self._check_first_loss(model, inputs)
        result = super()._compute_loss(model, inputs, return_outputs)
        self._log_nats_per_token(inputs["completion_mask"], "train" if model.training else "eval")
        return result

    def _check_first_loss(self, model: Any, inputs: dict[str, Any]) -> None:
        """Raises UserError unless the IPO loss of the untrained adapter is (1/(2 beta))^2."""
        self.first_loss_checked = True
        if self.state.global_step > 0:
            return
        expected = expected_first_loss(self.beta)
        with torch.no_grad():
            types, weights = self.loss_types, self.loss_weights
            self.loss_types, self.loss_weights = ["ipo"], [1.0]
            first = float(super()._compute_loss(model, inputs, False))
            self.loss_types, self.loss_weights = types, weights
        self._metrics["train"].clear()
        if abs(first - expected) > FIRST_LOSS_TOLERANCE * expected:
            raise UserError(
                f"The first loss is {first:.6g}, not {expected:.6g} = (1/(2 beta))^2 at beta {self.beta:g}: before the "
                "first update policy and reference must be the same model, and here they are not.",
                "Look for dropout, an adapter that was trained before, or a process that loaded other weights.",
            )

    def _log_nats_per_token(self, completion_mask: torch.Tensor, mode: str) -> None:
        metrics = self._metrics[mode]
        tokens = completion_mask.sum(dim=1).float()
        chosen, rejected = (float(half.mean()) for half in tokens.chunk(2))
        nats_chosen = metrics["rewards/chosen"][-1] / self.beta / chosen
        nats_rejected = metrics["rewards/rejected"][-1] / self.beta / rejected
        metrics["nats_per_token/chosen"].append(nats_chosen)
        metrics["nats_per_token/rejected"].append(nats_rejected)
        metrics["nats_per_token/margin"].append(nats_chosen - nats_rejected)
        metrics["nats_per_token/target"].append(1 / (2 * self.beta))


def score_completions_only() -> None:
    """Make TRL send only the positions that predict completions through the LM head on a CPU, as it does on a GPU.

    TRL keeps static shapes wherever Triton is missing, for the sake of compilers that a CPU does not have. The figures
    are the same; a step of a model with a vocabulary of 24,000 takes a third of the time. The version of TRL is pinned.
    """
    import trl.trainer.utils as utils

    utils._use_triton = lambda device: device.type in ("cpu", "cuda")


class ShowProgress(TrainerCallback):
    """Shows optimizer steps and the last loss."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.note = ""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Keep the figures that the next step shows."""
        if logs and "loss" in logs:
            margin, target = logs["nats_per_token/margin"], logs["nats_per_token/target"]
            self.note = f"loss {logs['loss']:.4g}, margin {margin:.3f} of {target:g} nats/token"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show the step."""
        self.progress.total = state.max_steps
        self.progress.set(state.global_step, self.note)


def trainer_arguments(training: Training, out: str, seed: int, on_gpu: bool) -> DPOConfig:
    """TRL's arguments for a config."""
    with_likelihood = training.likelihood_weight > 0
    return DPOConfig(
        output_dir=out,
        loss_type=["ipo", "sft"] if with_likelihood else ["ipo"],
        loss_weights=[1.0, training.likelihood_weight] if with_likelihood else None,
        beta=training.beta,
        max_length=training.max_length,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup,
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=training.gradient_checkpointing,
        bf16=training.dtype == "bfloat16" and on_gpu,
        fp16=training.dtype == "float16" and on_gpu,
        logging_steps=1,
        save_steps=training.save_steps,
        save_total_limit=2,
        report_to=training.report_to,
        disable_tqdm=True,
        use_cpu=not on_gpu,
        seed=seed,
        data_seed=seed,
    )
