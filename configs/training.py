"""The configuration keys of training."""

import math
from typing import Literal

from pydantic import Field, model_validator

from semtag.configs.fields import Positive, Section, operational


class Lora(Section):
    """The adapter."""

    rank: int = Field(16, ge=1, le=512, description="Rank of the update.")
    alpha: int = Field(16, ge=1, le=1024, description="Scale; the update is multiplied by alpha / rank.")
    target_modules: str | list[str] = Field("all-linear", description="Layers that get an adapter.")


class Training(Section):
    """Preference fine-tuning."""

    data: Literal["pairs", "lists"] = Field("pairs", description="Train on pairs, or on whole ranked lists.")
    loss: Literal["ipo", "ipo_margin", "sigmoid", "lipo_lambda", "plackett_luce", "likelihood"] = Field(
        "ipo", description="Preference loss, of a list over all its pairs; or likelihood, of its best answers alone."
    )
    best: Positive = Field(2, description="Answers of a list that the loss likelihood learns from.")
    beta: float = Field(0.1, gt=0, le=100, description="IPO's tau; the target is 1/(2 beta) nats per token.")
    order: Literal["shuffled", "easy_first"] = Field("shuffled", description="Easy first: from large gaps to small.")
    per_token: bool = Field(True, description="Log-ratios as means a token (TRL's IPO); false sums them (TRL's DPO).")
    likelihood_weight: float = Field(0.0, ge=0, le=100, description="Weight of -log p(chosen) per token in the loss.")
    reference_tolerance: float = Field(
        0.02, ge=0, description="Mean gap in nats a token up to which sampling's log-probabilities serve; 0: never."
    )
    learning_rate: float = Field(5e-5, gt=0, le=1, description="Peak learning rate.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="Learning-rate schedule.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of steps that warm up.")
    epochs: float = Field(1.0, gt=0, le=1000, description="Passes over the pairs.")
    max_steps: Positive | None = Field(None, description="Stop after this many steps; overrides epochs.")
    batch_size: Positive = Field(8, description="Pairs per device and forward pass.")
    accumulation: Positive = Field(1, description="Forward passes per optimizer step.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    max_length: Positive = Field(1024, description="Longest prompt and completion in tokens; longer pairs are dropped.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Weights while training.")
    four_bit: bool = Field(False, description="Keep the base in 4 bit NF4 (QLoRA).")
    row_tokens: Positive = operational(1024, "Lists share a row of the batch up to so many tokens.")
    attention: Literal["sdpa", "flex"] = operational("sdpa", "Flex skips what a mask hides whole; on GPUs alone.")
    gradient_checkpointing: bool = operational(False, "Trade compute for memory.")
    save_steps: Positive = operational(100, "Steps between checkpoints.")
    held_out: float = Field(0.0, ge=0, le=0.5, description="Share of texts kept back to measure the loss on, at saves.")
    patience: Positive | None = Field(None, description="Stop after so many measurements without a better loss.")
    report_to: list[str] = operational(["tensorboard"], "Trackers of the training curves.")
    lora: Lora = Field(Lora(), description="The adapter.")
    launcher: Literal["local", "accelerate", "ray"] = Field(
        "local", description="Train in one process, in processes on this machine, or on the Ray cluster."
    )
    workers: Positive = Field(1, description="Training processes; each takes batch_size pairs a forward pass.")
    parallel: Literal["ddp", "fsdp2", "zero2", "zero3"] = Field(
        "ddp", description="What they share: no state (ddp), the optimizer's (zero2), the weights too (zero3, fsdp2)."
    )
    gpus_per_worker: int = operational(0, "GPUs of each process under ray; 0 trains on CPUs.", ge=0, le=1)
    accelerator_type: str | None = operational(None, "Kind of GPU under ray, such as H100; null takes any.")
    restarts: int = operational(3, "Times that ray starts again from the last checkpoint when a process dies.", ge=0)

    @property
    def rows(self) -> Literal["pairs", "lists"]:
        """What is trained on: pairs have no best of many, so the loss likelihood takes lists whatever `data` says."""
        return "lists" if self.loss == "likelihood" else self.data

    @property
    def kept(self) -> int | None:
        """How many answers of each list are read, the best ones; None: all."""
        return self.best if self.loss == "likelihood" else None

    @property
    def first_loss(self) -> float | None:
        """The loss where policy and reference are equal, without the likelihood's part.

        (1 / (2 beta))^2 for IPO (arXiv 2310.12036, eq. 17), ln 2 for DPO; None where it depends on the lists.
        """
        return {"ipo": (1 / (2 * self.beta)) ** 2, "sigmoid": math.log(2)}.get(self.loss)

    @model_validator(mode="after")
    def _can_be_launched(self) -> "Training":
        if self.launcher == "local" and (self.workers > 1 or self.parallel != "ddp"):
            raise ValueError(
                f"training.launcher local is one process: training.workers {self.workers} and training.parallel "
                f"{self.parallel} need training.launcher accelerate or ray"
            )
        if self.launcher == "accelerate" and self.workers < 2:
            raise ValueError("training.launcher accelerate needs training.workers of 2 or more; local is one process")
        if self.four_bit and self.parallel in ("zero3", "fsdp2"):
            raise ValueError(
                f"training.four_bit does not go together with training.parallel {self.parallel}: weights in 4 bit "
                "cannot be sharded; set training.parallel to zero2 or ddp"
            )
        if self.accelerator_type is not None and not self.gpus_per_worker:
            raise ValueError(f"training.accelerator_type {self.accelerator_type} needs training.gpus_per_worker 1")
        return self
