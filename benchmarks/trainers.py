"""The contenders of benchmarks.training: what they train, on what, and how time and memory are taken."""

import argparse
import contextlib
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from semtag.configs.training import Training
from semtag.store.background import repeating

# Layers, width, MLP width, heads, key-value heads, vocabulary.
SHAPES = {
    "tiny": (2, 64, 128, 4, 2, 500),
    "cpu-20m": (6, 384, 1152, 6, 2, 16384),
    "smollm2-135m": (30, 576, 1536, 9, 3, 49152),
    "llama-1b": (16, 2048, 8192, 32, 8, 128256),
    "zephyr-7b": (32, 4096, 14336, 32, 8, 32000),
}
WARM_UP = 2  # steps


def make_lists(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Tokenised lists of random tokens; their references say nothing and only spare the pass."""
    rng, vocabulary = random.Random(0), arguments.vocabulary or SHAPES[arguments.shape][-1]

    def tokens(count: int) -> list[int]:
        return [rng.randrange(3, vocabulary) for _ in range(count)]

    return [
        {
            "row": place,
            "text_id": place,
            "prompt_ids": tokens(arguments.prompt_tokens),
            "completion_ids": [tokens(arguments.completion_tokens) for _ in range(arguments.k)],
            "scores": [1 - rank / arguments.k for rank in range(arguments.k)],
            "gap": 1.0,
            "sampled": [True] * arguments.k,
            "reference": [0.0] * arguments.k,
        }
        for place in range(arguments.lists * (WARM_UP + arguments.steps))
    ]


def as_pairs(lists: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The completions two by two, in TRL's columns."""
    return [
        {"prompt_ids": one["prompt_ids"], "chosen_ids": completions[place], "rejected_ids": completions[place + 1]}
        for one in lists
        for completions in [one["completion_ids"]]
        for place in range(0, len(completions), 2)
    ]


def run_contender(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train one contender for `WARM_UP` and `steps` steps.

    Returns the seconds of each step after `WARM_UP`, the scored tokens of each step, and the peak memory in MB.
    """
    import torch

    from semtag.training.cpu_kernels import lean_head_on_cpus
    from semtag.training.trainer import trainer_arguments
    from semtag.training.worker import lora_config

    lean_head_on_cpus()
    on_gpu = torch.cuda.is_available()
    pairs = arguments.contender.startswith("trl")
    training = Training(
        batch_size=arguments.lists * (arguments.k // 2 if pairs else 1),
        max_steps=WARM_UP + arguments.steps,
        dtype=arguments.dtype,
        report_to=[],
        save_steps=10**6,
        gradient_checkpointing=arguments.gradient_checkpointing,
        data="lists",
    )
    model = random_model(arguments.shape, arguments.dtype, arguments.vocabulary)
    args = trainer_arguments(training, str(folder), 0, on_gpu)
    shared = {"model": model, "args": args, "processing_class": small_tokenizer(), "peft_config": lora_config(training)}
    trainer = (their_trainer if pairs else our_trainer)(arguments, training, make_lists(arguments), shared)
    timer, scored = step_timer(), scored_tokens(trainer.model)
    trainer.add_callback(timer)
    with peak_memory(on_gpu) as peak:
        trainer.train()
    return {"seconds": timer.seconds[WARM_UP:], "scored": [int(count) for count in scored], "peak_mb": peak[0]}


def scored_tokens(model: Any) -> list[Any]:
    """Return a list to which each forward pass of the model with gradients adds its number of labels.

    A label is a token whose log-probability enters the loss. TRL's labels are shifted within the model, ours are not.
    """
    import torch

    counts: list[Any] = []

    def count(_model: Any, _positional: Any, inputs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            labels = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"][:, 1:]
            counts.append((labels != -100).sum())

    model.register_forward_pre_hook(count, with_kwargs=True)
    return counts


def our_trainer(
    arguments: argparse.Namespace, training: Training, lists: list[dict[str, Any]], shared: dict[str, Any]
) -> Any:
    """PreferenceTrainer over tokenised lists."""
    import torch
    from datasets import Dataset

    from semtag.training.tokenized import TOKENIZED
    from semtag.training.trainer import PreferenceTrainer

    trainer = PreferenceTrainer(training, train_dataset=Dataset.from_list(lists, features=TOKENIZED), **shared)
    if arguments.contender != "ours, own":
        trainer.references = torch.zeros(len(lists), arguments.k)
        trainer.reference_gap = math.inf  # they are made up, and so is the first loss
    trainer.data_collator.shared = arguments.contender != "separate"
    return trainer


def their_trainer(
    arguments: argparse.Namespace, training: Training, lists: list[dict[str, Any]], shared: dict[str, Any]
) -> Any:
    """TRL's DPOTrainer as it is, except that it takes the tokens as they are; docs/benchmarks.md gives its settings."""
    from datasets import Dataset
    from trl import DPOTrainer

    class Peer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    shared["args"].loss_type, shared["args"].max_length = ["ipo"], None  # TRL would cut at 1,024 tokens
    shared["args"].precompute_ref_log_probs = arguments.contender == "trl, cached"
    return Peer(train_dataset=Dataset.from_list(as_pairs(lists)), **shared)


def random_model(shape: str, dtype: str, words: int | None) -> Any:
    """A causal language model of the named shape, with a vocabulary of `words` in place of the shape's if given."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, width, inner, heads, kv_heads, vocabulary = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=words or vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=4096,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return LlamaForCausalLM._from_config(config, dtype=getattr(torch, dtype))


def small_tokenizer() -> Any:
    """A tokenizer for the trainers to ask for its special tokens; no text is read."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "<unk>")), pad_token="<pad>", eos_token="<eos>"
    )


def step_timer() -> Any:
    """A callback whose `seconds` are those of each step so far."""
    import torch
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.start)

    return Timer()


@contextlib.contextmanager
def peak_memory(on_gpu: bool) -> Iterator[list[float]]:
    """The largest memory in MB while the block runs, in a list of one that is filled by its end.

    On a GPU what torch allocated, on a CPU the resident memory above that at the start.
    """
    import torch

    process, found = psutil.Process(), [0.0]
    before = process.memory_info().rss

    def look() -> None:
        found[0] = max(found[0], (process.memory_info().rss - before) / 2**20)

    if not on_gpu:
        with repeating(look, every=0.005):
            yield found
        return
    torch.cuda.reset_peak_memory_stats()
    yield found
    found[0] = torch.cuda.max_memory_allocated() / 2**20
