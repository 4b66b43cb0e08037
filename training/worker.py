"""What each process of a training does; one of them, or many that hold the model or its optimizer together."""

import argparse
import atexit
import json
import os
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
from semtag.training.worker_messages import Teller

KINDS = {"zero2": "DEEPSPEED", "zero3": "DEEPSPEED", "fsdp2": "FSDP"}  # accelerate's words for what shares something


def learn(run: RunDir, config: Config, number: int, progress: Progress) -> None:
    """Fine-tune a LoRA adapter on a round's tokenised rows, from the last checkpoint, and leave it beside them.

    outcome.json holds the curve, an entry for each step, and the counts.
    """
    from datasets import Dataset

    from semtag.training.reference import settle
    from semtag.training.tokenized import split
    from semtag.training.trainer import BeforeFirstStep, ShowProgress

    training, layout = config.training, run.layout.round(number)
    folder = layout.training
    counts: dict[str, Any] = {"references": {"needed": 0}}
    arguments = _arguments(layout, config)
    rows = Dataset.load_from_disk(folder / "rows")
    model = start_of(run, config, number)
    trainer = _trainer(model, config, arguments, split(rows, training.held_out, config.run.seed), progress)
    _check_processes(trainer.accelerator, training)

    def before_first_step() -> None:
        trainer.choose_sequences(progress.say)
        if training.loss != "likelihood":
            kept, tolerance = folder / "references.npy", training.reference_tolerance
            counts["references"] = settle(trainer, rows, tolerance, kept, progress)

    trainer.add_callback(BeforeFirstStep(before_first_step))
    trainer.add_callback(ShowProgress(progress))
    # The checkpoint is of this very stage: begin() refused other values, so it can be taken up as it is.
    last = last_checkpoint(layout.checkpoints)
    if last:
        progress.say(f"resuming from {last}")
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(folder / "adapter"))
    if trainer.accelerator.is_main_process:
        curve = [entry for entry in trainer.state.log_history if "loss" in entry]
        counts |= {training.rows: len(trainer.train_dataset), "steps": trainer.state.global_step} | _best_step(trainer)
        (folder / "outcome.json").write_text(json.dumps({"curve": curve, "counts": counts}))


def _arguments(layout: RoundLayout, config: Config) -> Any:
    """TRL's arguments. Make them before a model is loaded.

    They join the processes, and where these share weights, each then loads its part alone.
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
    return trainer_arguments(config.training, str(layout.checkpoints), config.run.seed, on_gpu)


def _use_cpus(training: Training) -> None:
    if training.attention == "flex":
        raise UserError("training.attention=flex trains on GPUs alone, and none is here.", "Set it to sdpa.")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if training.parallel.startswith("zero"):
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo")  # left to itself it looks for another one on CPUs


def _check_processes(accelerator: Any, training: Training) -> None:
    """Raises UserError where accelerate trains otherwise than configured, of which it says nothing itself."""
    kind, wanted = accelerator.distributed_type.name, KINDS.get(training.parallel)
    if accelerator.num_processes != training.workers or (wanted and kind != wanted):
        raise UserError(
            f"training.workers={training.workers} with training.parallel={training.parallel} would train as {kind} in "
            f"{accelerator.num_processes} processes, each with what it should share.",
            "fsdp2 works on GPUs alone: on CPUs set training.parallel to zero2 or zero3.",
        )


def _trainer(model: str, config: Config, arguments: Any, rows: tuple[Any, Any], progress: Progress) -> Any:
    """The trainer of a model over rows to train on and rows to measure the loss on."""
    from accelerate import PartialState
    from transformers import EarlyStoppingCallback

    from semtag.training.trainer import PreferenceTrainer

    training, (learned, watched) = config.training, rows
    if training.held_out and not (len(learned) and len(watched)):
        raise UserError(
            f"training.held_out={training.held_out:g} leaves {len(learned)} {training.rows} to train on and "
            f"{len(watched)} to measure on.",
            "Take another share, or more texts.",
        )
    first = f"; the first loss must be {training.first_loss:g}" if training.first_loss else ""
    progress.say(f"{len(learned):,} {training.rows}{first}")
    stopping = [EarlyStoppingCallback(training.patience)] if training.patience else []
    with PartialState().local_main_process_first():
        base = local_folder(model)
    loaded = load_base(base, training)
    if is_hub_name(model):
        loaded.name_or_path = config.model.base  # what the adapter says that it is for, in place of a folder here
    return PreferenceTrainer(
        training,
        model=loaded,
        args=arguments,
        train_dataset=learned,
        eval_dataset=watched if training.held_out else None,
        processing_class=load_tokenizer(base, config.model),
        peft_config=lora_config(training, config.model.revision if is_hub_name(model) else None),
        callbacks=stopping,
    )


def _best_step(trainer: Any) -> dict[str, float]:
    """The step whose adapter is kept and its held-out loss, where one was measured."""
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if not measured:
        return {}
    best = min(measured, key=lambda entry: entry["eval_loss"])
    return {"best_step": best["step"], "held_out_loss": best["eval_loss"]}


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
        base,
        dtype=dtype,
        attn_implementation="flex_attention" if training.attention == "flex" else None,  # None: sdpa where it can
        quantization_config=quantization,
        use_safetensors=True,
        trust_remote_code=False,
    )
    for module in model.modules() if training.four_bit else ():
        # On CPUs with AVX512-BF16 the layer repacks its weights at the first forward in eval mode, after which
        # gradients are silently wrong.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def lora_config(training: Training, revision: str | None = None) -> Any:
    """PEFT's config of the adapter; dropout is 0, or the first loss could not be checked."""
    from peft import LoraConfig

    lora = training.lora
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
        revision=revision,
    )


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint, or None; the trainer's state is the last file that one gets."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").exists()]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def work(folder: str, number: int, events: str, rank: int) -> None:
    """Be process `rank` of the training of a round of the run at `folder`; errors are told in `events` and raised."""
    set_environment()
    teller = Teller(Path(events), speaks=rank == 0)
    try:
        run = RunDir(folder)
        learn(run, run.config().of_round(number), number, teller)
    except BaseException as error:
        teller.failed(error)
        raise


def main() -> None:
    """`python -m semtag.training.worker RUN ROUND EVENTS`, as `accelerate launch` starts it."""
    parser = argparse.ArgumentParser(description="One process of a training.")
    parser.add_argument("run", help="the run directory")
    parser.add_argument("round", type=int, help="the number of the round")
    parser.add_argument("events", help="the file for what it has to tell")
    arguments = parser.parse_args()
    end_with_parent()
    work(arguments.run, arguments.round, arguments.events, int(os.environ["RANK"]))
    # All is on disk. Beyond Python's own exit functions, threads of the libraries abort a process now and then.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
