"""TRL's DPOTrainer over ranked lists: the prompt is read once for all completions of a list. A pair is a list of two.

TRL gives the fused LM head, the reference (the policy without its adapter), checkpoints and launchers. This module adds
list batches and prompt sharing.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from peft import PeftModel
from torch import Tensor
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import add_fused_lm_head

from semtag.configs.errors import UserError
from semtag.configs.training import Training
from semtag.training.cpu_kernels import PACKED, lean_layers_on_cpus
from semtag.training.losses import LOSSES
from semtag.training.packing import ListCollator, dense_mask, packed_mask, sum_by_slot
from semtag.training.tokenized import tokenized

PARALLEL = Path(__file__).parent.parent / "configs" / "parallel"
# Layers in which a position sees no more than the mask allows. Other kinds keep a state, or see positions of their own
# choice. A sliding window counts tokens of the row, so it must be longer than a list.
SHARING_LAYERS = {"full_attention", "sliding_attention", "moe", "dense", "sparse"}
# In nats per token. Batches of other shapes round differently, so equal models differ by a little in half precision.
FIRST_GAPS = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
# In nats per token. A state that leaks between completions costs whole nats.
SHARING_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.2}


class PreferenceTrainer(DPOTrainer):
    """DPOTrainer over lists, which checks the first log-ratios and logs the margin beside IPO's target.

    Datasets hold pairs, lists, or rows that `tokenized` made of them. With `training.averages` a log-ratio is the mean
    over a completion's tokens, end token included, as in TRL's IPO. Else a log-ratio is the sum, as in DPO.
    `nats_per_token/chosen` and `/rejected` are the mean log-ratios per token of the best and the worst completions in
    the batch. `nats_per_token/target` is IPO's target for their difference. `accuracy` is the share of lists whose best
    completion gained more than the worst. The loss likelihood needs no reference and logs none of these figures.
    """

    references: Tensor | None = None  # [rows, K], NaN where a list has no such completion; None: computed at each step
    reference_gap = 0.0  # mean gap of the references to recomputed ones, in nats per token
    first_loss: float | None = None  # of the preference loss alone, without the likelihood term

    def __init__(self, training: Training, **arguments: Any) -> None:
        self.training = training
        self.precision = "bfloat16" if training.four_bit else training.dtype  # what rounds log-probabilities
        tokenizer = arguments["processing_class"]
        filling = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        super().__init__(data_collator=ListCollator(filling, training.row_tokens), **arguments)
        # TRL rounds the adapter of 4-bit weights to bfloat16, in which small updates are lost and float16 cannot train.
        # A resumed training would go on in float32.
        for parameter in self.model.parameters() if training.four_bit else ():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        # Replace TRL's own head, because that head also computes entropy and more, which Semtag does not use.
        add_fused_lm_head(self._plain_model(), outputs=("log_probs",))
        self.packed = False
        if self.args.device.type == "cpu":
            self.packed = lean_layers_on_cpus(self._plain_model(), whole=training.parallel != "zero3")
        if self.packed:
            self.data_collator.budget = 1  # one list per row

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        if "completion_ids" in dataset.column_names:
            return dataset
        return tokenized(dataset, processing_class, self.training.kept)

    def _prepare_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move a batch to the device. Scores stay float32, because DeepSpeed's bfloat16 makes near ones equal."""
        prepared = super()._prepare_inputs(inputs)
        return prepared | {"scores": inputs["scores"].to(prepared["row"].device)}

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["row", "prompt_ids", "completion_ids", "scores"]

    def _run_epoch(self, **how: Any) -> None:
        """Train for an epoch, but for no step if the checkpoint of a resumed training was its last."""
        if not self.control.should_training_stop and self.state.global_step < self.state.max_steps:
            super()._run_epoch(**how)

    def log_probs(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Compute log-probabilities [B, K] of the completions, summed over tokens."""
        lists, completions = inputs["lists"], inputs["completions"]
        rows: dict[str, Any] = {name: inputs[name] for name in ("input_ids", "shift_labels", "position_ids", "slots")}
        if not self.data_collator.shared:
            del rows["position_ids"]
            rows["attention_mask"] = (lists >= 0).long()
        elif self.packed:
            # Drop the padding. Attention then costs the square of a list's length, not of the longest row's.
            rows = {name: values[lists >= 0].unsqueeze(0) for name, values in rows.items()}
            rows["attention_mask"] = packed_mask(lists, completions)
        else:
            rows["attention_mask"] = dense_mask(lists, completions, getattr(torch, self.training.dtype))
        slots = rows.pop("slots")
        found = model(**rows, use_cache=False, fused_lm_head=True).log_probs
        return sum_by_slot(found, slots, inputs["scores"].shape)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        policy = self.log_probs(model, inputs)
        if self.training.loss == "likelihood":
            # Rejection-sampling fine-tuning (RAFT, arXiv 2304.06767): mean over all tokens of the batch.
            loss = -policy.sum() / inputs["lengths"].sum()
            return (loss, None) if return_outputs else loss
        reference = self._settled(inputs) if self.references is not None else self._reference_log_probs(model, inputs)
        ratios = policy - reference
        loss = self._preference_loss(ratios, inputs)
        # Check the very first log-ratios, before any update.
        if model.training and self.first_loss is None and self.state.global_step == 0:
            self._check_first_ratios(ratios.detach(), inputs)
            self.first_loss = loss.item()
            self._metrics["train"]["first_loss"].append(self.first_loss)
        best = _one_hot(inputs["scores"], inputs["present"], best=True)
        if self.training.likelihood_weight:
            # As TRL's `sft` loss: mean over all tokens of the batch's best completions.
            likelihood = policy[best].sum() / inputs["lengths"][best].sum()
            loss = loss - self.training.likelihood_weight * likelihood
        self._log_nats_per_token(ratios.detach(), best, inputs, "train" if model.training else "eval")
        return (loss, None) if return_outputs else loss

    def reference(self, examples: list[dict[str, Any]]) -> np.ndarray:
        """Compute reference log-probabilities [B, K] of tokenised lists, NaN where a list has no such completion.

        All processes must call this method equally often, because they may share the model.
        """
        inputs = self._prepare_inputs(self.data_collator(examples))
        found = self._reference_log_probs(self.model_wrapped, inputs).double()
        return found.masked_fill(~inputs["present"], torch.nan).cpu().numpy()

    def _settled(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the batch's `references` [B, K]; 0 where a list has no such completion, as in the policy's."""
        assert self.references is not None
        self.references = self.references.to(inputs["row"].device)
        return self.references[inputs["row"], : inputs["scores"].shape[1]].nan_to_num()

    def _reference_log_probs(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad(), self._without_adapter():
            return self.log_probs(self.ref_model or model, inputs)

    def _preference_loss(self, ratios: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        compared = self._compared(ratios, inputs)
        return LOSSES[self.training.loss](compared, inputs["scores"], inputs["present"], self.beta).mean()

    def _compared(self, ratios: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Return the log-ratios that the loss compares: means or sums over tokens."""
        return ratios / inputs["lengths"].clamp(min=1) if self.training.averages else ratios

    def _plain_model(self) -> Any:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _without_adapter(self) -> contextlib.AbstractContextManager[Any]:
        plain = self.accelerator.unwrap_model(self.model)
        return plain.disable_adapter() if isinstance(plain, PeftModel) else contextlib.nullcontext()

    def stop_sharing_prompts_if_unsafe(self, say: Callable[[str], None]) -> None:
        """Give each completion a sequence of its own, and print the reason, if the model cannot share prompts.

        Models with a state or a convolution cannot, because completions that share a prompt change each other's
        log-probabilities. Models with an attention window shorter than `training.max_length` cannot either. Only sdpa
        is trusted to attend by the mask alone. Last, a list is computed both ways.
        """
        config = self._plain_model().config.get_text_config()
        attention, window = config._attn_implementation, getattr(config, "sliding_window", None)
        if attention not in ("sdpa", PACKED):
            reason = f"the model attends by {attention}, and not by sdpa"
        elif others := set(getattr(config, "layer_types", None) or ()) - SHARING_LAYERS:
            reason = f"the model has layers of the kind {', '.join(sorted(others))}"
        elif window and window < self.training.max_length:
            reason = f"the model's attention window of {window} tokens is less than training.max_length"
        elif (gap := self._sharing_gap()) > SHARING_TOLERANCES[self.precision]:
            reason = f"a shared prompt changes their log-probabilities by {gap:.2g} nats per token"
        else:
            return
        self.data_collator.shared = False
        say(f"completions do not share prompts, which makes training slower: {reason}")

    def _sharing_gap(self) -> float:
        """Compute the gap in nats per token between one completion of the first list alone and after another one."""
        example = self.train_dataset[0]
        ahead, watched = (example["completion_ids"] * 2)[:2]
        (_, together), (alone,) = (
            self.reference([example | {"completion_ids": own, "scores": [0.0] * len(own)}])[0]
            for own in ([ahead, watched], [watched])
        )
        return float(abs(together - alone) / len(watched))

    def _check_first_ratios(self, ratios: Tensor, inputs: dict[str, Tensor]) -> None:
        """Check that the first log-ratios are 0, within rounding and the error of the references. Raises UserError."""
        present = inputs["present"]
        gap = float((ratios[present].abs() / inputs["lengths"][present]).mean())
        most = FIRST_GAPS[self.precision] + 2 * self.reference_gap
        if not gap <= most:
            raise UserError(
                f"Before the first update, policy and reference differ by {gap:.3g} nats per token in the mean, and by "
                f"at most {most:.3g} if they are the same model.",
                "Look for dropout, an adapter that was trained before, or a process that loaded other weights.",
            )

    def _log_nats_per_token(self, ratios: Tensor, best: Tensor, inputs: dict[str, Tensor], mode: str) -> None:
        worst = _one_hot(inputs["scores"], inputs["present"], best=False)
        compared = self._compared(ratios, inputs)
        right = (compared * best).sum(dim=1) > (compared * worst).sum(dim=1)
        sums = [part for which in (best, worst) for part in (ratios[which].sum(), inputs["lengths"][which].sum())]
        sums += [right.sum(), right.new_tensor(len(right), dtype=torch.float32)]
        of_all = self.accelerator.reduce(torch.stack([value.float() for value in sums]), "sum").tolist()
        chosen, rejected = of_all[0] / max(of_all[1], 1), of_all[2] / max(of_all[3], 1)
        logged = {"chosen": chosen, "rejected": rejected, "margin": chosen - rejected, "target": 1 / (2 * self.beta)}
        for name, value in logged.items():
            self._metrics[mode][f"nats_per_token/{name}"].append(value)
        self._metrics[mode]["accuracy"].append(of_all[4] / of_all[5])


def _one_hot(scores: Tensor, present: Tensor, best: bool) -> Tensor:
    """Mark the best or the worst completion of each list, bool [B, K]; of equal ones the first best, the last worst."""
    marks = scores.masked_fill(~present, -torch.inf if best else torch.inf)
    place = marks.argmax(dim=1) if best else marks.shape[1] - 1 - marks.flip(1).argmin(dim=1)
    return torch.zeros_like(present).scatter_(1, place.unsqueeze(1), True) & present


def trainer_arguments(training: Training, out: str, seed: int, on_gpu: bool) -> DPOConfig:
    """Return TRL's arguments for a config, without the loss and the lengths, which Semtag handles itself."""
    return DPOConfig(
        output_dir=out,
        beta=training.beta,
        learning_rate=training.learning_rate,
        lr_scheduler_type="constant_with_warmup" if training.schedule == "constant" else training.schedule,
        warmup_steps=training.warmup,
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=training.gradient_checkpointing,
        # ZeRO-3 gives weights the dtype of DeepSpeed's own settings, on CPUs too.
        bf16=training.dtype == "bfloat16" and (on_gpu or training.parallel == "zero3"),
        fp16=training.dtype == "float16" and on_gpu,
        logging_steps=1,
        save_steps=training.save_steps,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,  # the count of early stopping
        train_sampling_strategy="random" if training.order == "shuffled" else "sequential",
        eval_strategy="steps" if training.held_out else "no",
        eval_steps=training.save_steps,
        per_device_eval_batch_size=training.batch_size,
        prediction_loss_only=True,
        load_best_model_at_end=training.held_out > 0,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        report_to=training.report_to,
        disable_tqdm=True,
        use_cpu=not on_gpu,
        seed=seed,
        data_seed=seed,
        ddp_find_unused_parameters=False,  # every weight of an adapter gets a gradient
        **parallelism(training.parallel),
    )


def parallelism(parallel: str) -> dict[str, Any]:
    """Return TRL's arguments for shared state, from configs/parallel/; empty for ddp, where each process holds all."""
    if parallel == "ddp":
        return {}
    found: dict[str, Any] = yaml.safe_load((PARALLEL / f"{parallel}.yaml").read_text(encoding="utf-8"))
    return found
