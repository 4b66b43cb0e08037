"""One process of a training, alone or among several that share the model or its optimizer."""

import argparse
import atexit
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from semtag.cluster.progress import Progress
from semtag.cluster.stage_process import set_environment
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.configs.training import Training
from semtag.generation.prompts import load_tokenizer
from semtag.store.layout import RoundLayout
from semtag.store.locations import is_hub_name, local_folder
from semtag.store.process_cleanup import end_with_parent
from semtag.store.rounds import start_of
from semtag.store.run_dir import RunDir
from semtag.training.ending import keep_wish
from semtag.training.worker_messages import MessageWriter, mistake_in

KINDS = {"zero2": "DEEPSPEED", "zero3": "DEEPSPEED", "fsdp2": "FSDP"}  # accelerate's names for kinds that share state


def train_worker(run: RunDir, config: Config, number: int, progress: Progress) -> None:
    """Fine-tune a LoRA adapter on a round's tokenised rows, from the last checkpoint, and save the adapter beside them.

    outcome.json gets the curve, with an entry for each optimizer step, and the counts.
    """
    from datasets import Dataset

    from semtag.training.callbacks import BeforeFirstStep, EndWhenAsked, ShowProgress
    from semtag.training.reference import reference_logprobs
    from semtag.training.tokenized import split

    training, layout = config.training, run.layout.round(number)
    folder = layout.training
    counts: dict[str, Any] = {"references": {"needed": 0}}
    # Join the processes first, then load rows and model.
    arguments = _arguments(layout, config, progress)
    rows = Dataset.load_from_disk(folder / "rows")
    model = start_of(run, config, number)
    trainer = _trainer(model, config, arguments, split(rows, training.held_out, config.run.seed), progress)
    _check_processes(trainer.accelerator, training)
    ending = EndWhenAsked(folder, trainer.accelerator)

    def before_first_step() -> None:
        trainer.stop_sharing_prompts_if_unsafe(progress.say)
        if training.loss != "likelihood":
            kept, tolerance = folder / "references.npy", training.audit_tolerance
            check = ending.check_before_steps
            counts["references"] = reference_logprobs(trainer, rows, tolerance, kept, progress, check)

    trainer.add_callback(BeforeFirstStep(before_first_step))
    trainer.add_callback(ShowProgress(progress))
    trainer.add_callback(ending)
    # A checkpoint is safe to resume, because a run refuses config values other than its own.
    last = last_checkpoint(layout.checkpoints)
    if last:
        progress.say(f"resuming from {last}")
    trainer.train(resume_from_checkpoint=last)
    ending.check_after_steps()
    _save(trainer, folder, counts, training.rows)


def _arguments(layout: RoundLayout, config: Config, progress: Progress) -> Any:
    """Make TRL's arguments. Call this before a model is loaded.

    The arguments join the processes. Where processes share weights, each process then loads only its own part.
    """
    import torch

    from semtag.training.cpu_kernels import lean_head_on_cpus
    from semtag.training.trainer import trainer_arguments

    torch.manual_seed(config.run.seed)
    lean_head_on_cpus()
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(layout.tensorboard)
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        _use_cpus(config.training)
    arguments = trainer_arguments(config.training, str(layout.checkpoints), config.run.seed, on_gpu)
    use_one_gpu(arguments, progress)
    return arguments


def use_one_gpu(arguments: Any, progress: Progress) -> None:
    """Train on the first GPU if one process sees several. DPOTrainer refuses to spread a process over GPUs."""
    if arguments.n_gpu > 1:
        progress.say(
            f"warning: one process trains on one of {arguments.n_gpu} GPUs. To use all of them, set "
            f"training.launcher=accelerate and training.workers={arguments.n_gpu}"
        )
        arguments._n_gpu = 1


def _use_cpus(training: Training) -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if training.parallel.startswith("zero"):
        import deepspeed

        # DeepSpeed would compile an operation for inference on CPUs, for a minute or more, and training never calls it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="gloo")  # DeepSpeed's default for CPUs is another backend


def _check_processes(accelerator: Any, training: Training) -> None:
    """Check that accelerate trains as configured, because accelerate reports no difference. Raises UserError."""
    kind, wanted = accelerator.distributed_type.name, KINDS.get(training.parallel)
    if accelerator.num_processes != training.workers or (wanted and kind != wanted):
        raise UserError(
            f"training.workers={training.workers} with training.parallel={training.parallel} would train as {kind} in "
            f"{accelerator.num_processes} processes, not as {wanted or 'DDP'} in {training.workers}.",
            "fsdp2 needs GPUs. On CPUs set training.parallel to zero2 or zero3.",
        )


def _trainer(model: str, config: Config, arguments: Any, rows: tuple[Any, Any], progress: Progress) -> Any:
    """Make the trainer of a model; `rows` are those to train on and those to measure the loss on. Raises UserError."""
    from accelerate import PartialState

    from semtag.training.callbacks import StopEarly
    from semtag.training.trainer import PreferenceTrainer

    training, (learned, watched) = config.training, rows
    if training.held_out and not (len(learned) and len(watched)):
        raise UserError(
            f"training.held_out={training.held_out:g} leaves {len(learned)} {training.rows} to train on and "
            f"{len(watched)} to measure on.",
            "Change training.held_out, or add texts.",
        )
    first = f"; the first loss is {training.first_loss:g}" if training.first_loss else ""
    progress.say(f"{len(learned):,} {training.rows}{first}")
    stopping = [StopEarly(training.patience)] if training.patience else []
    with PartialState().local_main_process_first():
        base = local_folder(model)
    loaded = load_base(base, training)
    if is_hub_name(model):
        loaded.name_or_path = config.model.base  # the adapter's card names this model, not a local folder
    return PreferenceTrainer(
        training,
        model=loaded,
        args=arguments,
        train_dataset=learned,
        eval_dataset=watched if training.held_out else None,
        processing_class=load_tokenizer(base, config.model),
        peft_config=lora_config(training, config.model.revision if is_hub_name(model) else None, beside_text(loaded)),
        callbacks=stopping,
    )


def _save(trainer: Any, folder: Path, counts: dict[str, Any], rows: str) -> None:
    """Save the adapter and the outcome; `rows` is what training reads, pairs or lists."""
    trainer.save_model(str(folder / "adapter"))
    if trainer.accelerator.is_main_process:
        curve = [entry for entry in trainer.state.log_history if "loss" in entry]
        counts |= {rows: len(trainer.train_dataset), "steps": trainer.state.global_step} | _best_step(trainer)
        (folder / "outcome.json").write_text(json.dumps({"curve": curve, "counts": counts}))


def _best_step(trainer: Any) -> dict[str, float]:
    """Return the step whose adapter is kept and its held-out loss; empty if no loss was measured."""
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if not measured:
        return {}
    best = min(measured, key=lambda entry: entry["eval_loss"])
    return {"best_step": best["step"], "held_out_loss": best["eval_loss"]}


def load_base(base: str, training: Training) -> Any:
    """Load the base model, in 4 bit if configured. PEFT freezes the weights later."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, training.dtype)
    config, quantization = AutoConfig.from_pretrained(base, trust_remote_code=False), None
    # sdpa does not cap attention scores, as Gemma 2 and vLLM do.
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    if training.four_bit:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=dtype,
        attn_implementation="eager" if capped else None,  # None: sdpa if the model supports it
        quantization_config=quantization,
        use_safetensors=True,
        trust_remote_code=False,
    )
    for module in model.modules() if training.four_bit else ():
        # On CPUs with AVX512-BF16 the layer repacks its weights at the first forward in eval mode. Later gradients are
        # silently wrong.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def lora_config(training: Training, revision: str | None = None, excluded: str | None = None) -> Any:
    """Return PEFT's config of the adapter. Dropout is 0, because dropout would change the first loss."""
    from peft import LoraConfig

    lora = training.lora
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=lora.target_modules,
        exclude_modules=excluded,
        task_type="CAUSAL_LM",
        revision=revision,
    )


def beside_text(model: Any) -> str | None:
    """Return a pattern of the layers that read no text, None for a model of text alone. Adapters there never learn."""
    if model.config.get_text_config() is model.config:
        return None
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    return rf"(?!{re.escape(decoder)}\.).*"


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint, or None."""
    whole = [path for path in folder.glob("checkpoint-*") if _is_whole(path)]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def _is_whole(checkpoint: Path) -> bool:
    """Check the file that the trainer writes last. A kill can leave a part of it."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True


def work(folder: str, number: int, events: str, rank: int) -> None:
    """Run process `rank` of a round's training in the run at `folder`; write errors to `events` and raise them."""
    set_environment()
    if mistake := mistake_in(Path(events)):
        raise mistake
    messages = MessageWriter(Path(events), is_main=rank == 0)
    try:
        run = RunDir(folder)
        train_worker(run, run.config().of_round(number), number, messages)
    except BaseException as error:
        messages.failed(error)
        raise


def main() -> None:
    """Run `python -m semtag.training.worker RUN ROUND EVENTS`; `accelerate launch` starts this command."""
    parser = argparse.ArgumentParser(description="One process of a training.")
    parser.add_argument("run", help="the run directory")
    parser.add_argument("round", type=int, help="the number of the round")
    parser.add_argument("events", help="the file for progress and errors, as JSON lines")
    arguments = parser.parse_args()
    end_with_parent()
    with keep_wish(Path(arguments.events).parent):
        work(arguments.run, arguments.round, arguments.events, int(os.environ["RANK"]))
    # All files are on disk. Skip the rest of the exit, because threads of libraries sometimes abort it.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
