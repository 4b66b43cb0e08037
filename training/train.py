"""The train stage: pairs or lists -> adapter and merged weights, resuming from the last checkpoint."""

import json
import os
import shutil
import statistics
from operator import itemgetter
from pathlib import Path
from typing import Any

from semtag.cluster.progress import Progress
from semtag.cluster.stage_process import stage_main, versions
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.generation.preflight import window_of
from semtag.generation.prompts import end_tokens, load_tokenizer
from semtag.store.layout import Step
from semtag.store.locations import is_hub_name, local_folder, uri, weights_hash
from semtag.store.manifest import StepCounts
from semtag.store.packaged import weights_of
from semtag.store.rounds import start_of
from semtag.store.run_dir import RunDir
from semtag.training.merge import merge
from semtag.training.processes import launch

ROWS_PER_PROCESS = 10_000  # about ten seconds of tokenising


def train(run: RunDir, config: Config, progress: Progress, number: int) -> StepCounts:
    """Fine-tune a LoRA adapter on a round's pairs or lists; return the final figures.

    The adapter goes to model/, and the weights with the adapter go to merged/.
    """
    layout, base = run.layout.round(number), local_folder(start_of(run, config, number))
    tokenizer = load_tokenizer(base, config.model)
    _keep_tokenized_rows(run, config, number, tokenizer, base, progress)
    launch(run, config, number, progress)
    outcome = json.loads((layout.training / "outcome.json").read_text())
    curve, counts = outcome["curve"], outcome["counts"]
    # Write the adapter with its tokenizer, curve and model card.
    with run.replace_folder(layout.adapter) as folder:
        shutil.copytree(layout.training / "adapter", folder, dirs_exist_ok=True)
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, which Semtag never leaves in a run
        tokenizer.save_pretrained(str(folder))
        (folder / "curve.json").write_text(json.dumps(curve))
        card = model_card(config, number, counts[config.training.rows], curve)
        (folder / "README.md").write_text(card, encoding="utf-8")
    progress.say("merging the adapter into the weights")
    with run.replace_folder(layout.merged) as folder:
        merge(base, local_folder(uri(layout.adapter)), folder)
    _warn_if_falling(curve, progress)
    weights = {folder.name: weights_hash(folder) for folder in (layout.adapter, layout.merged)}
    return counts | tail_means(curve) | {"weights": weights}


def _keep_tokenized_rows(
    run: RunDir, config: Config, number: int, tokenizer: Any, base: str, progress: Progress
) -> None:
    """Tokenise the round's pairs or lists into rows/, without those that `fit_length` leaves out.

    The ledger counts these. rows/ stays until the stage is done, so that a resumed training does not tokenise
    again. Raises UserError if no row is left.
    """
    from semtag.training.tokenized import fit_length, in_order, load_rows, tokenized

    layout, training = run.layout.round(number), config.training
    kind, done = training.rows, layout.training / "rows"
    if done.exists():
        return
    # Candidates from a file may be longer than the model can read.
    longest = min(training.max_length, window_of(base) or training.max_length)
    with run.temporary_folder("rows") as scratch:
        source = layout.lists if kind == "lists" else layout.pairs
        loaded = load_rows(Path(local_folder(uri(source))), kind, scratch)
        progress.say(f"tokenising {len(loaded):,} {kind}")
        processes = min(len(os.sched_getaffinity(0)), 1 + len(loaded) // ROWS_PER_PROCESS)
        made = tokenized(loaded, tokenizer, training.kept, processes, end_tokens(tokenizer, base))
        fitting, dropped = fit_length(made, longest)
        run.record(Step("train", number), kind, len(loaded), len(fitting), dict(dropped))
        if not len(fitting):
            why = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in dropped.items())
            raise UserError(
                f"None of the {len(loaded):,} {kind} fits into {longest:,} tokens: {why}.",
                "Raise training.max_length. At most the context of model.base counts.",
            )
        in_order(fitting, training.order).save_to_disk(scratch / "whole")
        done.parent.mkdir(parents=True, exist_ok=True)
        (scratch / "whole").rename(done)


def tail_means(curve: list[dict[str, float]]) -> dict[str, float]:
    """Return means over the last tenth of the steps: the loss, and nats per token if the loss uses a reference."""
    tail = curve[-max(1, len(curve) // 10) :]
    keys = [key for key in ("loss", "nats_per_token/chosen", "nats_per_token/rejected") if key in tail[0]]
    return {key: round(statistics.fmean(map(itemgetter(key), tail)), 5) for key in keys}


def _warn_if_falling(curve: list[dict[str, float]], progress: Progress) -> None:
    chosen = tail_means(curve).get("nats_per_token/chosen", 0.0)
    if chosen < -0.02:
        progress.say(
            f"warning: the chosen answers lost probability ({chosen:+.3f} nats per token). Check the rate of valid "
            "answers. Lower training.learning_rate, or set training.likelihood_weight above 0."
        )


def model_card(config: Config, number: int, rows: int, curve: list[dict[str, float]]) -> str:
    """Return the README.md of the adapter: base model, data, loss, and figures of the training."""
    training, base = config.training, config.model.base
    front = f"base_model: {base}\n" if number == 1 and is_hub_name(base) else ""
    if config.model.revision:
        base += f" (revision {config.model.revision})"
    if weights := weights_of(base):
        base += f" (dequantised from a Python package's file, `{weights}`)"
    start = base if number == 1 else f"the merged weights of round {number - 1}, which started from {base}"
    averaged = "averaged per token" if training.averages else "summed"
    how = f"beta {training.beta:g}, log-ratios {averaged}, likelihood weight {training.likelihood_weight:g}"
    if training.kept:
        how = f"the {training.kept} best answers of each list, rejection-sampling fine-tuning"
    return f"""---
library_name: peft
{front}tags: [semtag, {training.loss}, tagging]
---
# {config.run.name}: a tagger tuned by Semtag, round {number}

A LoRA adapter (rank {training.lora.rank}) for {start}. It answers a text with up to {config.prompt.max_tags} tags,
`[tag1][tag2]`, and was tuned without human labels: {rows:,} {training.rows} of the model's own answers,
scored by {config.scoring.model}, trained with the loss `{training.loss}` ({how}).

| | |
| --- | --- |
| steps | {len(curve)} |
| loss, first step and last tenth | {curve[0]["loss"]:.4g} and {tail_means(curve)["loss"]:.4g} |
| learning rate | {training.learning_rate:g}, {training.schedule} |
| versions | {", ".join(f"{name} {version}" for name, version in versions().items())} |

Evaluation: `evaluation/report.html` of the run. The licence of the base model applies.
"""


if __name__ == "__main__":
    stage_main("train", train)
