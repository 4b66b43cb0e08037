"""Sampling: our pipeline against one raw `vllm.LLM.generate`, and against `ray.data.llm`.

    python -m benchmarks.generation --json generation.json                     # the demo's model
    python -m benchmarks.generation --model PATH --texts 1200                  # a model of yours
    python -m benchmarks.generation --model random                             # a small one of random weights
    python -m benchmarks.generation --model random --load-format dummy --texts 4000 --samples 8 --max-tokens 64 \\
        sampling.gpus_per_actor=1                                              # random weights in a 7B shape, on a GPU

Every contender draws K candidates for the same texts from the same model, after the demo's examples, with the same
sampling settings and seeds and the same engine settings (checked: batch sizes, prefix caching, dtype and so on, as the
engines report them), on as many cores:

    ours           semtag.generation.sampler.Sampler under Ray Data, as semtag.scoring.pipeline drives it; no scoring;
                   with the candidates' log-probabilities, tags and formats; written as Parquet.
    raw            one call of vllm.LLM.generate with n=K over all prompts, tokenised beforehand; nothing is written.
    ray.data.llm   build_processor(vLLMEngineProcessorConfig(...)) over K copies of each prompt, because it keeps one
                   sample a request; same batch size and batches in flight; without its detokeniser, which it does not
                   need, and without log-probabilities, which would only slow it down; written as Parquet.

What is measured is the steady state. Each contender notes when its engine finished each request. Of the candidates in
order of that time the first ones and the last ones are thrown away, as many at each end as the engine holds at once
(max_num_seqs). The rate is the tokens (texts) of those between over the time between: start of Python, Ray and engine,
the taking in of prompts, the first filling of the batch and its emptying at the end count for nobody.

Each contender is a process of its own, so engines never overlap. Rounds alternate their order; rates are medians,
ratios medians of the rounds' ratios. A model of random weights hardly ever draws the end token, so its candidates
all run to --max-tokens.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contest import demo_texts, machine, markdown, median_ratio, order, publish
from benchmarks.small_models import build_tokenizer, save_small
from semtag.configs.errors import UserError
from semtag.configs.load import dump_config, load_config
from semtag.configs.schema import Config
from semtag.generation.records import TEXT
from semtag.generation.sampler import engine_environment
from semtag.generation.texts import text_id
from semtag.store.parquet import RowWriter

CONTENDERS = ("ours", "raw", "ray_data_llm")
SHAPE_7B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
}
VOCABULARY_7B = 32000
RANDOM = "random"


class Finished(NamedTuple):
    """A request that the engine finished, at a time in seconds."""

    time: float
    candidates: int
    tokens: int


def steady(finished: Sequence[Finished], in_flight: int, samples: int) -> dict[str, float]:
    """Rates of what finished between the first and the last `in_flight` candidates.

    Raises UserError when too little lies between to be called a steady state: less than is thrown away.
    """
    total, done, start = sum(request.candidates for request in finished), 0, 0.0
    kept: list[Finished] = []
    for request in sorted(finished):
        done += request.candidates
        if done <= in_flight:
            start = request.time
        elif done <= total - in_flight:
            kept.append(request)
    candidates = sum(request.candidates for request in kept)
    if candidates < 2 * in_flight:
        raise UserError(
            f"{total} candidates are too few to measure an engine that holds {in_flight} at once.",
            f"Raise --texts to {-(-5 * in_flight // samples)} or more.",
        )
    seconds = kept[-1].time - start
    return {
        "tokens_per_second": sum(request.tokens for request in kept) / seconds,
        "texts_per_second": candidates / samples / seconds,
        "steady_seconds": seconds,
        "steady_candidates": candidates,
        "tokens": sum(request.tokens for request in finished),
        "candidates": total,
    }


def save_7b_shape(folder: Path) -> str:
    """A tokenizer filled up to 32,000 tokens, and the configuration of a 7B Llama without weights."""
    from transformers import LlamaConfig

    tokenizer = build_tokenizer(demo_texts(840))
    tokenizer.add_tokens([f"<filler-{place}>" for place in range(VOCABULARY_7B - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    LlamaConfig(
        **SHAPE_7B, vocab_size=len(tokenizer), architectures=["LlamaForCausalLM"], eos_token_id=tokenizer.eos_token_id
    ).save_pretrained(folder)
    return str(folder)


def prepare(folder: Path, arguments: argparse.Namespace) -> Config:
    """Write the model and the texts that all contenders share; returns the config."""
    sizes = [f"sampling.samples={arguments.samples}", f"sampling.max_tokens={arguments.max_tokens}"]
    # Logical CPUs: one for each of ray.data.llm's actors and its tasks.
    common = [*sizes, "sampling.top_p=1", "cluster.cpus=8"]
    config = load_config("configs/demo.yaml", [*common, *arguments.overrides])
    model = arguments.model
    if model == RANDOM:
        save = save_7b_shape if arguments.load_format == "dummy" else save_small
        model = save(folder / "model")
    with RowWriter(folder / "texts.parquet", TEXT) as rows:
        for text in demo_texts(arguments.texts):
            rows.write({"text_id": text_id(text), "text": text, "article": None, "meta": "{}"})
    return config.model_copy(update={"model": config.model.model_copy(update={"base": model})})


def run_contender(name: str, folder: Path, shared: Path, config: Config, load_format: str) -> dict[str, Any]:
    """Run one contender in its own process and folder; returns its rates and its engine's settings.

    Raises UserError with the end of its log when it fails.
    """
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    (folder / "job.json").write_text(json.dumps({"engine": {"load_format": load_format}}), encoding="utf-8")
    (folder / "texts.parquet").symlink_to(shared / "texts.parquet")
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment = os.environ | quiet | engine_environment(config)
    start, log = time.monotonic(), folder / "log.txt"
    with log.open("w") as output:
        command = [sys.executable, "-m", "benchmarks.contenders", name, str(folder)]
        code = subprocess.run(command, stdout=output, stderr=output, env=environment).returncode
    seconds = time.monotonic() - start
    if code:
        raise UserError(f"{name} failed:\n{log.read_text()[-3000:]}", "See its log above.")
    lines = (folder / "finished.txt").read_text().split("\n")
    finished = [Finished(float(t), int(c), int(n)) for t, c, n in (line.split() for line in lines if line)]
    engine = json.loads((folder / "engine.json").read_text())
    return steady(finished, engine["max_num_seqs"], config.sampling.samples) | {
        "process_seconds": seconds,
        "engine": engine,
    }


def check_same_work(results: dict[str, dict[str, Any]]) -> None:
    """Raises UserError when two engines were set differently, or drew another number of candidates or tokens.

    Floating point differs with the make-up of a batch, so a sample here and there may: tokens agree within 1 %.
    """
    first = results["raw"]
    for name, result in results.items():
        if result["engine"] != first["engine"]:
            raise UserError(
                f"The engine of {name} is set otherwise: {result['engine']}, raw: {first['engine']}.",
                "The ratios would compare different work.",
            )
        apart = abs(result["tokens"] / first["tokens"] - 1)
        if result["candidates"] != first["candidates"] or apart > 0.01:
            raise UserError(
                f"{name} drew {result['candidates']:.0f} candidates of {result['tokens']:.0f} tokens, "
                f"raw {first['candidates']:.0f} of {first['tokens']:.0f}.",
                "The ratios would compare different work.",
            )


def run(arguments: argparse.Namespace, folder: Path) -> list[dict[str, dict[str, Any]]]:
    """The results of each round, by contender."""
    config = prepare(folder, arguments)
    rounds = []
    for round_ in range(arguments.rounds):
        results: dict[str, dict[str, Any]] = {}
        for name in order(arguments.contenders, round_):
            place = folder / f"{name}-{round_}"
            results[name] = run_contender(name, place, folder, config, arguments.load_format)
            rates = "{tokens_per_second:.0f} tokens/s, {texts_per_second:.2f} texts/s".format(**results[name])
            print(f"round {round_ + 1} of {arguments.rounds}: {name} {rates}", flush=True)
        if "raw" in results:
            check_same_work(results)
        rounds.append(results)
    return rounds


def summary(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians and ratios over the rounds, of the contenders that ran."""

    def column(name: str, key: str) -> list[float]:
        return [results[name][key] for results in rounds]

    names = [name for name in CONTENDERS if name in rounds[0]]
    keys = ("tokens_per_second", "texts_per_second", "steady_seconds", "process_seconds")
    found: dict[str, Any] = {
        "medians": {name: {key: statistics.median(column(name, key)) for key in keys} for name in names}
    }
    for other, key in (("raw", "tokens_per_second"), ("ray_data_llm", "texts_per_second")):
        if {"ours", other} <= set(names):
            found[f"ratio_to_{other}"] = median_ratio(column("ours", key), column(other, key))
    return found


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    columns = ["contender", "tokens/s", "texts/s", "steady s", "s, start to end", "ours is faster by"]
    rows = [
        (name, *medians.values(), "" if name == "ours" else result.get(f"ratio_to_{name}", ""))
        for name, medians in result["medians"].items()
    ]
    return markdown(columns, rows)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="SmolLM2-135M-Instruct", help="path or name, or 'random' (%(default)s)")
    parser.add_argument("--texts", type=int, default=840, help="texts, those of the demo over and over (840)")
    parser.add_argument("--samples", type=int, default=4, metavar="K", help="candidates of each text (4)")
    parser.add_argument("--max-tokens", type=int, default=24, help="longest candidate (24)")
    parser.add_argument("--rounds", type=int, default=7, help="times that each contender runs (7)")
    parser.add_argument(
        "--load-format",
        choices=["safetensors", "dummy"],
        default="safetensors",
        help="dummy: weights drawn at random as the engine starts; with --model random in the shape of a 7B Llama",
    )
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="who runs (all)")
    parser.add_argument("--keep", type=Path, help="keep logs and times of the contenders in this new folder")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="config overrides on top of configs/demo.yaml"
    )
    return parser.parse_args()


def main() -> None:
    """Run all rounds and print the table."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="semtag-benchmark-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=not arguments.keep)
        try:
            rounds = run(arguments, folder.resolve())
        except UserError as error:
            sys.exit(f"error: {error}")
    settings = {name: getattr(arguments, name) for name in ("model", "texts", "samples", "max_tokens", "overrides")}
    result = {"machine": machine(), "settings": settings, **summary(rounds), "rounds": rounds}
    publish(result, table(result), arguments.json)


if __name__ == "__main__":
    main()
