"""The pipeline by itself at scale: texts -> ranked lists -> pairs, with no engine and an embedding that costs nothing.

    python -m benchmarks.scale --texts 1000000 --json scale.json

Candidates come from a file (sampling.engine=replay) and scores from a static embedding, a table of word vectors made on
the spot, so what is measured is Ray Data, Parquet and our own code. The job runs twice, with `--small` and with
`--texts` texts: memory of the driver, and texts a second, should be the same. `semtag verify` checks both runs.
"""

import argparse
import functools
import itertools
import random
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.contest import machine, markdown, publish
from benchmarks.small_models import build_tokenizer, save_random_llama
from semtag.store.manifest import StepRecord
from semtag.store.parquet import RowWriter, count_rows
from semtag.store.run_dir import RunDir

CONFIG = "configs/demo.yaml"
CANDIDATES = 4
WORDS = 20_000
DATA = pa.schema([("text", pa.string()), ("completions", pa.list_(pa.string()))])
CHUNK = 1000
SPOILT = ("Sure! {}", "{}]", "{0}{0}", "", "{}[a][b][c]")
STAGES = ("texts", "rank", "pairs")


def make_rows(chunk: int) -> list[dict[str, Any]]:
    """CHUNK texts of 40 to 80 made-up words with K completions each; one in ten is malformed, in different ways."""
    rng, vocabulary = random.Random(chunk), _vocabulary()
    rows = []
    for _ in range(CHUNK):
        words = rng.choices(vocabulary, k=rng.randint(40, 80))
        completions = []
        for start in range(0, 3 * CANDIDATES, 3):
            answer = "".join(f"[{tag}]" for tag in words[start : start + rng.randint(1, 3)])
            spoilt = rng.random() < 0.1
            completions.append(rng.choice(SPOILT).format(answer) if spoilt else answer)
        rows.append({"text": " ".join(words), "completions": completions})
    return rows


@functools.cache
def _vocabulary() -> list[str]:
    return [word(number) for number in range(WORDS)]


def word(number: int) -> str:
    """A pronounceable word for a number, each number its own."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    out = ""
    while not out or number:
        number, rest = divmod(number, len(syllables))
        out += syllables[rest]
    return out


def make_models(folder: Path) -> tuple[Path, Path]:
    """A small Llama with random weights, and a static embedding model of 64 dimensions."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    base, embedding = folder / "base", folder / "embedding"
    tokenizer = build_tokenizer((row["text"] for row in make_rows(0)), vocabulary=4000)
    save_random_llama(base, tokenizer)
    static = StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=64)
    SentenceTransformer(modules=[static], device="cpu").save(str(embedding))
    return base, embedding


def run_job(texts: int, folder: Path, models: tuple[Path, Path]) -> dict[str, Any]:
    """Rank `texts` texts and build pairs; returns the figures."""
    data, name = folder / f"data-{texts}.parquet", f"scale-{texts}"
    with RowWriter(data, DATA) as out:
        for row in itertools.islice((row for chunk in itertools.count() for row in make_rows(chunk)), texts):
            out.write(row)
    shutil.rmtree(folder / name, ignore_errors=True)
    arguments = [CONFIG, f"run.name={name}", f"run.root={folder}", f"data.path={data}", "data.limit=null"]
    arguments += ["data.held_out=0", "rounds.count=1", "rounds.validation=0"]
    arguments += [f"model.base={models[0]}", f"scoring.model={models[1]}", "pairs.format_share=0.2"]
    arguments += ["sampling.engine=replay", "sampling.candidates=completions", "sampling.batch_size=2000"]
    for command in (["rank", *arguments], ["pairs", *arguments], ["verify", str(folder / name)]):
        subprocess.run([sys.executable, "-m", "semtag", *command], check=True)
    return figures(RunDir(folder / name), texts)


def figures(run: RunDir, texts: int) -> dict[str, Any]:
    """What the manifest and the files say about a finished job."""
    entries = {step.stage: run.manifest().steps[step.name] for step in run.done()}
    seconds = {stage: max(1.0, _seconds(entries[stage])) for stage in STAGES}
    layout = run.layout.round(1)
    size = sum(file.stat().st_size for place in (layout.ranked, layout.pairs, layout.lists) for file in place.iterdir())
    counts = entries["pairs"].counts
    return {
        "texts": texts,
        "seconds": seconds,
        "texts_per_second": texts / sum(seconds.values()),
        "driver_peak_mb": {stage: entries[stage].peak_mb for stage in STAGES},
        "bytes_per_text": size / texts,
        "pairs": count_rows(layout.pairs),
        "format_share": counts["format"] / counts["pairs"],
    }


def _seconds(record: StepRecord) -> float:
    return (datetime.fromisoformat(record.finished or "") - datetime.fromisoformat(record.started)).total_seconds()


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    columns = ["texts", "s: texts, rank, pairs", "texts/s", "driver's peak, MB: same", "bytes a text", "pairs",
               "format pairs"]  # fmt: skip
    cells = []
    for row in rows:
        seconds, peak = (", ".join(f"{row[key][s]:,.0f}" for s in STAGES) for key in ("seconds", "driver_peak_mb"))
        speed, size = f"{row['texts_per_second']:,.0f}", f"{row['bytes_per_text']:,.0f}"
        cells.append([row["texts"], seconds, speed, peak, size, row["pairs"], f"{row['format_share']:.4%}"])
    return markdown(columns, cells)


def main() -> None:
    """Run both sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1_000_000, help="texts of the large job")
    parser.add_argument("--small", type=int, default=100_000, help="texts of the job to compare with")
    parser.add_argument("--root", type=Path, default=Path("runs/scale"), help="folder for data and runs; emptied")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.root, ignore_errors=True)
    arguments.root.mkdir(parents=True)
    models = make_models(arguments.root)
    small, large = rows = [run_job(texts, arguments.root, models) for texts in (arguments.small, arguments.texts)]
    ratios = {
        "memory_ratio": max(large["driver_peak_mb"].values()) / max(small["driver_peak_mb"].values()),
        "speed_ratio": large["texts_per_second"] / small["texts_per_second"],
    }
    publish({"machine": machine(), "jobs": rows, **ratios}, table(rows), arguments.json)
    print(", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in ratios.items()))


if __name__ == "__main__":
    main()
