"""The train stage by itself, on a tiny model: held-out loss, early stop, and what a second start finds done."""

import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.scoring.records import LIST
from semtag.store.parquet import RowWriter
from semtag.store.run_dir import RunDir
from semtag.training.callbacks import ShowProgress
from semtag.training.packing import ListCollator
from semtag.training.tokenized import TOKENIZED, split
from semtag.training.trainer import PreferenceTrainer


def lists(texts: int) -> Dataset:
    row = {"prompt_ids": [1], "completion_ids": [[2], [3]], "scores": [1.0, 0.0], "gap": 0.5}
    row |= {"sampled": [True, True], "reference": [0.0, 0.0]}
    ids = [{"row": place, "text_id": place // 2} for place in range(2 * texts)]
    return Dataset.from_list([id_ | row for id_ in ids], features=TOKENIZED)


def test_a_text_is_trained_on_or_held_out_whole() -> None:
    learned, watched = split(lists(1000), 0.2, seed=0)
    assert len(learned) + len(watched) == 2000
    assert not set(learned["text_id"]) & set(watched["text_id"])
    assert len(watched) / 2000 == pytest.approx(0.2, abs=0.05)
    assert set(split(lists(1000), 0.2, seed=1)[1]["text_id"]) != set(watched["text_id"])
    assert set(split(lists(500), 0.2, seed=0)[1]["text_id"]) == {id_ for id_ in watched["text_id"] if id_ < 500}
    assert len(split(lists(10), 0.0, seed=0)[1]) == 0


RUINOUS = [
    *("training.held_out=0.25", "training.patience=2", "training.save_steps=2", "training.epochs=20"),
    *("training.learning_rate=0.5", "training.schedule=constant", "training.warmup=0"),
]


def test_training_stops_when_the_held_out_loss_does_and_keeps_the_best(work: Any, tmp_path: Path) -> None:
    counts, said = work(*RUINOUS)
    layout = RunDir(tmp_path / "demo").layout.round(1)
    last = layout.checkpoints / f"checkpoint-{counts['steps']}" / "trainer_state.json"
    measured = {
        entry["step"]: entry["eval_loss"]
        for entry in json.loads(last.read_text())["log_history"]
        if "eval_loss" in entry
    }
    *before, one, two = measured.values()
    assert min(before) <= min(one, two)
    assert counts["held_out_loss"] == min(measured.values()) == measured[counts["best_step"]]
    assert counts["steps"] < 20 * 6
    assert counts["pairs"] < 64
    assert said.count("held-out loss") == len(measured)
    kept, best = (
        (folder / "adapter_model.safetensors").read_bytes()
        for folder in (layout.adapter, layout.checkpoints / f"checkpoint-{counts['best_step']}")
    )
    assert kept == best

    # A second start finds the training stopped.
    again, said = work(*RUINOUS)
    assert "resuming from" in said
    assert again == counts
    assert (layout.adapter / "adapter_model.safetensors").read_bytes() == kept


def test_patience_keeps_its_count_over_a_kill(work: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed one measurement before it stops, the training stops at the next one."""
    undisturbed, _ = work(*RUINOUS)
    (tmp_path / "demo").rename(tmp_path / "undisturbed")
    save = PreferenceTrainer._save_checkpoint

    def die_before_the_last(self: PreferenceTrainer, *arguments: Any) -> None:
        save(self, *arguments)
        if self.state.global_step == undisturbed["steps"] - 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PreferenceTrainer, "_save_checkpoint", die_before_the_last)
        work(*RUINOUS)
    counts, said = work(*RUINOUS)
    assert "resuming from" in said
    assert (counts["steps"], counts["best_step"]) == (undisturbed["steps"], undisturbed["best_step"])
    assert said.count("held-out loss") == 1


def test_the_last_step_is_the_last_after_a_second_start_too(work: Any) -> None:
    settings = ["training.max_steps=5", "training.save_steps=4", "training.schedule=constant"]  # 8 steps an epoch
    counts, _ = work(*settings)
    again, said = work(*settings)
    assert "resuming from" in said
    assert again == counts


def test_rows_that_the_model_cannot_read_are_left_out(work: Any, model_path: str, tmp_path: Path) -> None:
    short = shutil.copytree(model_path, tmp_path / "short")
    settings = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 12}))
    with pytest.raises(UserError, match=r"None of the 64 pairs fits into 12 tokens: 64 too long"):
        work(f"model.base={short}")


def test_a_second_start_reads_no_pairs_again(work: Any, tmp_path: Path) -> None:
    first, said = work("training.save_steps=4")
    assert "computing reference log-probabilities of 64 of 64" in said
    assert first["references"] == {"from_sampling": 0, "recomputed_as_not_sampled_by_this_model": 128}
    for file in RunDir(tmp_path / "demo").layout.round(1).pairs.iterdir():
        file.write_bytes(b"")
    again, said = work("training.save_steps=4")
    assert "resuming from" in said
    assert {key: again[key] for key in ("pairs", "steps", "loss")} == {
        key: first[key] for key in ("pairs", "steps", "loss")
    }


@pytest.fixture
def with_lists(pairs: Any, tmp_path: Path) -> None:
    """Lists of three completions in the run that `work` trains; the second is the best, the first the worst."""
    rows = []
    for pair in pairs:
        completions = [pair["rejected"], pair["chosen"], [{"role": "assistant", "content": "[other]"}]]
        row = {"text_id": pair["text_id"], "prompt": pair["prompt"], "completions": completions}
        rows.append(row | {"scores": [0.1, 0.8, 0.5], "samples": [0, 1, 2]})
    folder = RunDir(tmp_path / "demo").layout.round(1).lists
    folder.mkdir(parents=True)
    with RowWriter(folder / "part.parquet", LIST) as out:
        for row in rows:
            out.write(dict.fromkeys(LIST.names) | row | {name: [None] * 3 for name in ("ref_logprobs", "sampled_ids")})


LIKELIHOOD = ["training.loss=likelihood", "training.learning_rate=1e-2", "training.save_steps=4", "training.epochs=3"]


def test_likelihood_learns_the_best_answers_without_a_reference(work: Any, with_lists: None, tmp_path: Path) -> None:
    counts, said = work(*LIKELIHOOD)
    assert (counts["lists"], counts["references"]) == (64, {"needed": 0})
    assert not any(word in said for word in ("audit", "reference", "first loss"))
    layout = RunDir(tmp_path / "demo").layout.round(1)
    curve = [entry["loss"] for entry in json.loads((layout.adapter / "curve.json").read_text())]
    assert curve[-1] < curve[0] - 0.5
    assert counts["loss"] == pytest.approx(sum(curve[-2:]) / 2, abs=1e-5)
    assert "`likelihood` (the 2 best answers of each list" in (layout.adapter / "README.md").read_text()
    rows = Dataset.load_from_disk(layout.training / "rows")
    assert {tuple(scores) for scores in rows["scores"]} == {(0.8, 0.5)}

    again, said = work(*LIKELIHOOD)
    assert "resuming from" in said
    assert again["loss"] == counts["loss"]


def test_progress_shows_nats_a_token() -> None:
    shown = ShowProgress(Progress("train", "steps", io.StringIO()))
    for logs, note in (
        ({"loss": 1.234567}, "loss 1.235 nats/token"),
        ({"loss": 25.0, "nats_per_token/margin": 0.5, "nats_per_token/target": 5.0}, "loss 25, margin 0.500 of 5 "),
    ):
        shown.on_log(None, None, None, logs)  # type: ignore[arg-type]
        assert shown.note.startswith(note)


def test_one_best_answer_stops_early_by_its_likelihood(work: Any, with_lists: None) -> None:
    counts, said = work(*LIKELIHOOD, "training.best=1", "training.held_out=0.25", "training.patience=1")
    assert counts["held_out_loss"] > 0
    assert "held-out loss" in said


def test_nothing_left_to_learn_from_is_said(work: Any) -> None:
    with pytest.raises(UserError, match="leaves 64 pairs to train on and 0 to measure on"):
        work("training.held_out=0.0001")


def test_easy_pairs_come_first(work: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    collate = ListCollator.__call__

    def watched(self: ListCollator, examples: list[dict[str, Any]]) -> dict[str, Any]:
        seen.extend(example["prompt_ids"] for example in examples)
        return collate(self, examples)

    monkeypatch.setattr(ListCollator, "__call__", watched)
    work("training.order=easy_first")
    rows = Dataset.load_from_disk(RunDir(tmp_path / "demo").layout.round(1).training / "rows")
    assert rows["gap"][:13] == [math.inf] * 13  # every fifth of 64 is a format pair
    assert rows["gap"][13:] == sorted(rows["gap"][13:], reverse=True)
    assert seen[-64:] == rows["prompt_ids"][:]
