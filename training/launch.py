"""The train stage: pairs -> adapter, resuming from the last checkpoint."""

import json
import os
import statistics
from pathlib import Path
from typing import Any

from cluster.places import local_folder, uri
from cluster.progress import Progress
from cluster.run_dir import RunDir
from cluster.stage import stage_main, versions
from configs.errors import UserError
from configs.schema import Config, Training
from generation.prompts import load_tokenizer
from scoring.rank_texts import base_model


def train(run: RunDir, config: Config, progress: Progress) -> dict[str, Any]:
    """Fine-tune a LoRA adapter on the run's pairs or lists and write it to model/; returns the final figures."""
    import torch

    from training.data import split
    from training.reference import settle
    from training.trainer import score_completions_only

    training, seed, unfinished = config.training, config.run.seed, run.here / run.unfinished_path("train").name
    torch.manual_seed(seed)
    score_completions_only()
    base = local_folder(base_model(run, config))
    tokenizer = load_tokenizer(base, config.model)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.here / "tensorboard")
    rows = _tokenized_rows(run, config, tokenizer, unfinished / "rows")
    trainer = _trainer(run, config, tokenizer, base, split(rows, training.held_out, seed), progress)
    trainer.choose_sequences(progress.say)
    rows, references = settle(trainer, rows, training.reference_tolerance, unfinished / "references.npy", progress.say)
    trainer.train_dataset, trainer.eval_dataset = split(rows, training.held_out, seed)
    trainer.references_known = True
    # The checkpoint is of this very stage: begin() refused other values, so it can be taken up as it is.
    last = last_checkpoint(run.here / "checkpoints")
    if last:
        progress.say(f"resuming from {last}")
    trainer.train(resume_from_checkpoint=last)
    curve = [entry for entry in trainer.state.log_history if "loss" in entry]
    with run.writing("model") as folder:
        trainer.save_model(str(folder))
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle
        tokenizer.save_pretrained(str(folder))
        (folder / "curve.json").write_text(json.dumps(curve))
        (folder / "README.md").write_text(model_card(config, len(trainer.train_dataset), curve), encoding="utf-8")
    _warn_if_falling(curve, progress)
    counts = {training.data: len(trainer.train_dataset), "steps": trainer.state.global_step, "references": references}
    return counts | _best_step(trainer) | tail_means(curve)


def _trainer(run: RunDir, config: Config, tokenizer: Any, base: str, rows: tuple[Any, Any], progress: Progress) -> Any:
    """The trainer over rows to train on and rows to measure the loss on."""
    import torch
    from transformers import EarlyStoppingCallback

    from training.trainer import PreferenceTrainer, ShowProgress, expected_first_loss, trainer_arguments

    training, (learned, watched) = config.training, rows
    if training.held_out and not (len(learned) and len(watched)):
        raise UserError(
            f"training.held_out={training.held_out:g} leaves {len(learned)} {training.data} to train on and "
            f"{len(watched)} to measure on.",
            "Take another share, or more texts.",
        )
    first = expected_first_loss(training.loss, training.beta)
    progress.say(f"{len(learned):,} {training.data}" + (f"; the first loss must be {first:g}" if first else ""))
    stopping = [EarlyStoppingCallback(training.patience)] if training.patience else []
    return PreferenceTrainer(
        training,
        model=load_base(base, training),
        args=trainer_arguments(training, str(run.here / "checkpoints"), config.run.seed, torch.cuda.is_available()),
        train_dataset=learned,
        eval_dataset=watched if training.held_out else None,
        processing_class=tokenizer,
        peft_config=lora_config(training),
        callbacks=[ShowProgress(progress), *stopping],
    )


def _best_step(trainer: Any) -> dict[str, float]:
    """The step whose adapter is kept and its held-out loss, where one was measured."""
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if not measured:
        return {}
    best = min(measured, key=lambda entry: entry["eval_loss"])
    return {"best_step": best["step"], "held_out_loss": best["eval_loss"]}


def _tokenized_rows(run: RunDir, config: Config, tokenizer: Any, kept: Path) -> Any:
    """The run's pairs, or lists, that fit into training.max_length, as token ids; the others go to the ledger.

    They stay in `kept` until the stage is done: a training that was stopped goes on without reading them again.
    """
    from datasets import Dataset

    from training.data import fit_length, in_order, load_rows, tokenized

    if not kept.exists():
        kind, longest = config.training.data, config.training.max_length
        with run.scratch("rows") as scratch:
            loaded = load_rows(Path(local_folder(uri(run.path / kind))), kind, scratch)
            fitting, dropped = fit_length(tokenized(loaded, tokenizer), longest)
            run.record("train", kind, len(loaded), len(fitting), dict(dropped))
            if not len(fitting):
                raise UserError(f"All {kind} are longer than {longest} tokens.", "Raise training.max_length.")
            in_order(fitting, config.training.order).save_to_disk(scratch / "whole")
            kept.parent.mkdir(exist_ok=True)
            (scratch / "whole").rename(kept)
    return Dataset.load_from_disk(kept)


def load_base(base: str, training: Training) -> Any:
    """The base model with frozen weights to come, in 4 bit where configured."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, training.dtype)
    quantization = None
    if training.four_bit:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, quantization_config=quantization, use_safetensors=True, trust_remote_code=False
    )
    for module in model.modules() if training.four_bit else ():
        # On CPUs with AVX512-BF16 the layer repacks its weights at the first forward in eval mode, after which
        # gradients are silently wrong.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def lora_config(training: Training) -> Any:
    """PEFT's config of the adapter; dropout is 0, or the first loss could not be checked."""
    from peft import LoraConfig

    lora = training.lora
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint, or None; the trainer's state is the last file that one gets."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").exists()]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def tail_means(curve: list[dict[str, float]]) -> dict[str, float]:
    """Means over the last tenth of the steps: loss and nats per token."""
    tail = curve[-max(1, len(curve) // 10) :]
    keys = ("loss", "nats_per_token/chosen", "nats_per_token/rejected")
    return {key: round(statistics.fmean(entry[key] for entry in tail), 5) for key in keys}


def _warn_if_falling(curve: list[dict[str, float]], progress: Progress) -> None:
    chosen = tail_means(curve)["nats_per_token/chosen"]
    if chosen < -0.02:
        progress.say(
            f"warning: the chosen answers lost probability ({chosen:+.3f} nats a token). Look at the format rate; "
            "a lower training.learning_rate or a training.likelihood_weight above 0 helps."
        )


def model_card(config: Config, pairs: int, curve: list[dict[str, float]]) -> str:
    """The README.md of the adapter: what it is, how it was made, how to use it."""
    training = config.training
    base = "a small model built from the texts themselves" if config.model.base == "demo" else config.model.base
    front = f"base_model: {config.model.base}\n" if config.model.base != "demo" else ""
    return f"""---
library_name: peft
{front}tags: [semtag, ipo, tagging]
---
# {config.run.name}: a tagger tuned by Semtag

A LoRA adapter (rank {training.lora.rank}) for {base}. It answers a text with up to {config.prompt.max_tags} tags,
`[tag1][tag2]`, and was tuned without human labels: {pairs:,} {training.data} of the base model's own answers,
scored by {config.scoring.model}, trained with the loss `{training.loss}` (beta {training.beta:g}, log-ratios
{"averaged per token" if training.per_token else "summed"}, likelihood weight {training.likelihood_weight:g}).

| | |
| --- | --- |
| steps | {len(curve)} |
| loss, first and last tenth | {curve[0]["loss"]:.4g} and {tail_means(curve)["loss"]:.4g} |
| learning rate | {training.learning_rate:g}, {training.schedule} |
| versions | {", ".join(f"{name} {version}" for name, version in versions().items())} |

Evaluation against the base model: `evaluation/report.html` of the run. The licence of the base model applies.
"""


if __name__ == "__main__":
    stage_main("train", train)
