"""The base stage: builds the demo's base model from the run's train texts."""

from typing import Any

from cluster.parquet import read_rows
from cluster.progress import Progress
from cluster.run_dir import RunDir
from cluster.stage import stage_main
from configs.schema import Config


def build_base(run: RunDir, config: Config, progress: Progress) -> dict[str, Any]:
    """Train texts -> base/, a model and tokenizer; returns a few figures."""
    from training.demo_model import build

    texts = [row["text"] for row in read_rows(run.path / "texts" / "train.parquet", columns=["text"])]
    progress.say(f"building a small base model from {len(texts):,} texts")

    def report(step: int, steps: int, loss: float) -> None:
        progress.total = steps
        progress.set(step, f"loss {loss:.3f}")

    with run.writing("base") as folder:
        return dict(build(config, texts, folder, report))


if __name__ == "__main__":
    stage_main("base", build_base)
