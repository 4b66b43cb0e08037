"""The configuration keys of training."""

import math
from typing import Literal

from pydantic import Field, model_validator

from semtag.configs.fields import Positive, Section, operational


class Lora(Section):
    """The LoRA adapter."""

    rank: int = Field(16, ge=1, le=512, description="Rank of the update.")
    alpha: int = Field(16, ge=1, le=1024, description="Scale; the update is multiplied by alpha / rank.")
    target_modules: str | list[str] = Field("all-linear", description="Layers that get an adapter.")


class Training(Section):
    """Preference fine-tuning."""

    data: Literal["pairs", "lists"] = Field("pairs", description="Train on pairs, or on lists of scored answers.")
    loss: Literal["ipo", "ipo_margin", "sigmoid", "lipo_lambda", "plackett_luce", "likelihood"] = Field(
        "ipo", description="Preference loss, for a list over all pairs in it; likelihood: of a list's best answers."
    )
    best: Positive = Field(2, description="Best answers of a list from which the loss likelihood learns.")
    beta: float = Field(0.1, gt=0, le=100, description="IPO's tau; the target is 1/(2 beta) nats per token.")
    order: Literal["shuffled", "easy_first"] = Field("shuffled", description="easy_first: large score gaps first.")
    per_token: bool | None = Field(
        None,
        description="Average log-ratios over tokens, or sum them. null: as the loss is published; ipo and ipo_margin "
        "average (TRL's IPO), the others sum (TRL's DPO).",
    )
    likelihood_weight: float = Field(0.0, ge=0, le=100, description="Weight of -log p(chosen) per token in the loss.")
    reference_tolerance: float = Field(
        0.02,
        ge=0,
        description="Largest mean gap, in nats per token, at which the reference uses the engine's log-probabilities. "
        "At most a tenth of the target counts, and the 99 % quantile may be three times the mean. 0: never.",
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
    row_tokens: Positive = operational(1024, "Lists share a row of the batch up to this many tokens.")
    gradient_checkpointing: bool = operational(False, "Trade compute for memory.")
    save_steps: Positive = Field(
        100, description="Steps between checkpoints. With held_out a result depends on it; else it may change."
    )
    held_out: float = Field(
        0.0, ge=0, le=0.5, description="Share of texts kept back, on which each checkpoint's loss is measured."
    )
    patience: Positive | None = Field(None, description="Stop after this many checkpoints without a lower loss.")
    report_to: list[str] = operational(["tensorboard"], "Trackers of the training curves.")
    lora: Lora = Field(Lora(), description="The adapter.")
    launcher: Literal["local", "accelerate", "ray"] = Field(
        "local", description="local: one process; accelerate: processes on this machine; ray: on the Ray cluster."
    )
    workers: Positive = Field(1, description="Training processes; each takes batch_size pairs per forward pass.")
    parallel: Literal["ddp", "fsdp2", "zero2", "zero3"] = Field(
        "ddp", description="State that workers shard: none (ddp), the optimizer's (zero2), weights too (zero3, fsdp2)."
    )
    gpus_per_worker: int = operational(0, "GPUs per worker with launcher ray; 0: CPUs.", ge=0, le=1)
    accelerator_type: str | None = operational(None, "With launcher ray: GPU by Ray's name, such as H100; null: any.")
    restarts: int = operational(3, "With launcher ray: most restarts from a checkpoint after a worker died.", ge=0)

    @property
    def rows(self) -> Literal["pairs", "lists"]:
        """Return what training reads. The loss likelihood always reads lists, because a pair has no best of many."""
        return "lists" if self.loss == "likelihood" else self.data

    @property
    def kept(self) -> int | None:
        """Return how many best answers of each list are read; None: all."""
        return self.best if self.loss == "likelihood" else None

    @property
    def averages(self) -> bool:
        """Return whether log-ratios are means over a completion's tokens, and not sums."""
        return self.loss in ("ipo", "ipo_margin") if self.per_token is None else self.per_token

    @property
    def first_loss(self) -> float | None:
        """Return the loss where policy and reference are equal, without the likelihood's part.

        (1 / (2 beta))^2 for IPO (arXiv 2310.12036, eq. 17), ln 2 for DPO; None where it depends on the lists.
        """
        return {"ipo": (1 / (2 * self.beta)) ** 2, "sigmoid": math.log(2)}.get(self.loss)

    @property
    def audit_tolerance(self) -> float:
        """Return the largest mean gap, in nats per token, at which log-probabilities from sampling serve.

        At most a tenth of the target 1/(2 beta) where means over tokens are compared, because a wrong reference moves
        the distance to the target. Example: beta 10 has the target 0.05 and the tolerance 0.005.
        """
        return min(self.reference_tolerance, 0.1 / (2 * self.beta)) if self.averages else self.reference_tolerance

    @model_validator(mode="after")
    def _has_scores(self) -> "Training":
        if self.data == "pairs" and self.loss in ("ipo_margin", "lipo_lambda", "plackett_luce"):
            raise ValueError(
                f"training.loss {self.loss} needs the scores of lists, because each pair has the scores 1 and 0: set "
                "training.data to lists, or training.loss to ipo or sigmoid"
            )
        return self

    @model_validator(mode="after")
    def _can_be_launched(self) -> "Training":
        if self.launcher == "local" and (self.workers > 1 or self.parallel != "ddp"):
            raise ValueError(
                f"training.launcher local is one process: training.workers {self.workers} and training.parallel "
                f"{self.parallel} need training.launcher accelerate or ray"
            )
        if self.launcher == "accelerate" and self.workers < 2:
            raise ValueError(
                f"training.launcher accelerate needs training.workers of 2 or more, not {self.workers}: raise "
                "training.workers, or set training.launcher to local"
            )
        if self.four_bit and self.parallel in ("zero3", "fsdp2"):
            raise ValueError(
                f"training.four_bit excludes training.parallel {self.parallel}, because Semtag does not "
                "shard weights in 4 bit: set training.parallel to zero2 or ddp"
            )
        if self.accelerator_type is not None and not self.gpus_per_worker:
            raise ValueError(f"training.accelerator_type {self.accelerator_type} needs training.gpus_per_worker 1")
        return self
