"""Training: ours against TRL's DPOTrainer, on the same lists, model, adapter, precision and optimizer.

    python -m benchmarks.training --lists 4 --json training.json     lists of 2 and 8, prompts of 64, 200 and 1,024
    python -m benchmarks.training --lists 4 --vocabulary 49152 --dtype bfloat16
    python -m benchmarks.training --shape zephyr-7b --dtype bfloat16 --lists 4             (on a GPU)
    python -m benchmarks.training --shape smollm2-135m --compare-dtypes --k 2 --prompt-tokens 200

A step is all of it: forward, backward, clipping, AdamW, and the reference where one is computed. Weights are random, of
the named shape; a LoRA adapter of rank 16 is trained on all linear layers. Prompts and completions have fixed lengths,
so no contender pads; on a GPU ours packs lists into rows of `training.row_tokens`. All train with IPO.

    ours          the prompt once a list; reference log-probabilities from sampling, as a run has them
    ours, own     the same, with a reference pass in each step
    separate      ours with a sequence for each completion; reference log-probabilities from sampling
    trl           DPOTrainer; the adapter switched off is its reference, in each step
    trl, cached   DPOTrainer with its reference log-probabilities precomputed, which is not timed

DPOTrainer knows pairs alone: a list of K costs it K/2 pairs, so that all read the same completions. The script counts
the completion tokens that enter the loss of each step. It stops with an error where a contender lacks some of them. On
a CPU DPOTrainer sends all positions through its fused LM head for want of Triton. Here it sends completions only, as on
a GPU, and is the faster for it.

"of the ideal" is the speed-up over separate sequences, divided by the ratio of tokens that a shared prompt can save:
K(P + R) / (P + KR), where prompts have P tokens and completions R (DualKV, arXiv 2605.15422).

Each contender runs in a process of its own, so that its peak of memory is its own: on a GPU what torch allocated, on a
CPU the resident memory above that before the first step. Rounds alternate the order of contenders; ratios are medians
of the rounds' ratios of the median step. `--compare-dtypes` sets ours in bfloat16 against float32.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.contest import machine, markdown, median_ratio, order, publish
from benchmarks.trainers import SHAPES, run_contender
from semtag.configs.errors import UserError
from semtag.configs.training import Training

CONTENDERS = ("ours", "ours, own", "separate", "trl", "trl, cached")
DTYPES = ("bfloat16", "float32")


def in_a_process(arguments: argparse.Namespace, contender: str, k: int, prompt_tokens: int) -> dict[str, Any]:
    """Return what `run_contender` does, from a process of its own; a dtype is ours in that one."""
    settings = vars(arguments) | {"contender": contender, "k": k, "prompt_tokens": prompt_tokens, "json": None}
    if contender in DTYPES:
        settings |= {"contender": "ours", "dtype": contender}
    command = [sys.executable, "-m", "benchmarks.training", "--one", json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{contender} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(arguments: argparse.Namespace, k: int, prompt_tokens: int) -> dict[str, Any]:
    """Time all contenders on one shape of list: a row of the result."""
    contenders = DTYPES if arguments.compare_dtypes else CONTENDERS
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(arguments.rounds):
        for name in order(contenders, round_):
            found = in_a_process(arguments, name, k, prompt_tokens)
            check_same_work(name, found["scored"], arguments.lists * k * arguments.completion_tokens)
            seconds[name].append(statistics.median(found["seconds"]))
            peaks[name].append(found["peak_mb"])
            print(
                f"K {k}, prompt {prompt_tokens}, round {round_ + 1} of {arguments.rounds}: {name} "
                f"{seconds[name][-1]:.3f} s a step, {peaks[name][-1]:,.0f} MB",
                flush=True,
            )
    read = prompt_tokens - 1 + k * arguments.completion_tokens
    row = {"k": k, "prompt_tokens": prompt_tokens, "seconds": seconds, "peak_mb": peaks}
    if arguments.compare_dtypes:
        ratios = [median_ratio(*(figures[name] for name in DTYPES)) for figures in (seconds, peaks)]
        return row | {"seconds_ratio": ratios[0], "memory_ratio": ratios[1]}
    ours = seconds["ours"]
    of_separate = median_ratio(seconds["separate"], ours)
    return row | {
        "lists_per_second": {name: arguments.lists / statistics.median(taken) for name, taken in seconds.items()},
        "tokens_per_second": arguments.lists * read / statistics.median(ours),
        "padding": padding(arguments, read),
        "ratio_to_trl": median_ratio(seconds["trl"], ours),
        "ratio_to_trl_cached_reference": median_ratio(seconds["trl, cached"], ours),
        "ratio_to_trl_both_recomputing": median_ratio(seconds["trl"], seconds["ours, own"]),
        "ratio_to_separate": of_separate,
        "of_ideal": of_separate / ideal_ratio(k, prompt_tokens, arguments.completion_tokens),
        "peak_memory_ratio": median_ratio(peaks["ours"], peaks["trl, cached"]),
    }


def check_same_work(name: str, scored: list[int], due: int) -> None:
    """Check that a contender scored `due` completion tokens in each step. Raises UserError."""
    if {*scored} != {due}:
        raise UserError(
            f"{name} scored {scored} completion tokens in its steps, where the lists of a step have {due}.",
            "Let the contender train on whole completions: see max_length and the collators in benchmarks/trainers.py.",
        )


def ideal_ratio(k: int, prompt_tokens: int, completion_tokens: int) -> float:
    """Tokens of separate sequences over tokens with a shared prompt (DualKV, arXiv 2605.15422)."""
    return k * (prompt_tokens + completion_tokens) / (prompt_tokens + k * completion_tokens)


def padding(arguments: argparse.Namespace, read: int) -> float:
    """Share of a batch's positions that hold no token."""
    from semtag.training.packing import pack_rows

    rows = pack_rows([read] * arguments.lists, Training().row_tokens)
    return 1 - arguments.lists * read / (len(rows) * max(map(len, rows)) * read)


def table_of_dtypes(result: dict[str, Any]) -> str:
    """Return a Markdown table of bfloat16 beside float32."""
    columns = ["K", "prompt", "bfloat16, s a step", "float32, s a step", "bfloat16 / float32", "memory"]
    rows = [
        (row["k"], row["prompt_tokens"], *(statistics.median(row["seconds"][name]) for name in DTYPES),
         row["seconds_ratio"], row["memory_ratio"])
        for row in result["rows"]
    ]  # fmt: skip
    return markdown(columns, rows)


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    columns = ["K", "prompt", "ours, lists/s", "of trl", "of trl, cached", "of trl, both recomputing", "of separate",
               "of the ideal", "memory, of trl, cached", "padding"]  # fmt: skip
    rows = [
        (row["k"], row["prompt_tokens"], row["lists_per_second"]["ours"], row["ratio_to_trl"],
         row["ratio_to_trl_cached_reference"], row["ratio_to_trl_both_recomputing"], row["ratio_to_separate"],
         row["of_ideal"], row["peak_memory_ratio"], f"{row['padding']:.1%}")
        for row in result["rows"]
    ]  # fmt: skip
    return markdown(columns, rows)


def main() -> None:
    """Measure row after row, and print the table so far after each, because the largest row may lack memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="cpu-20m", help="shape of the model (%(default)s)")
    parser.add_argument("--vocabulary", type=int, metavar="WORDS", help="words of the model (those of the shape)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="weights (%(default)s)")
    parser.add_argument(
        "--compare-dtypes", action="store_true", help="compare ours in bfloat16 with ours in float32, nothing else"
    )
    parser.add_argument("--lists", type=int, default=8, help="lists a step (8); fewer take less memory")
    parser.add_argument("--k", type=int, nargs="+", default=[2, 8], help="completions of a list, even (2 8)")
    parser.add_argument(
        "--prompt-tokens", type=int, nargs="+", default=[64, 200, 1024], help="all for each K (64 200 1024)"
    )
    parser.add_argument("--completion-tokens", type=int, default=15, help="(15)")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="trade compute for memory, all alike")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed in each round (5)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each contender runs (3)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        with tempfile.TemporaryDirectory() as folder:
            found = run_contender(argparse.Namespace(**json.loads(arguments.one)), Path(folder))
        print(json.dumps(found))
        return
    settings = {name: value for name, value in vars(arguments).items() if name not in ("json", "one")}
    result: dict[str, Any] = {"machine": machine(), "settings": settings, "rows": []}
    for k, prompt_tokens in itertools.product(arguments.k, arguments.prompt_tokens):
        result["rows"].append(measure(arguments, k, prompt_tokens))
        publish(result, (table_of_dtypes if arguments.compare_dtypes else table)(result), arguments.json)


if __name__ == "__main__":
    main()
