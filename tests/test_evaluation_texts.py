"""The texts to evaluate on: held-out ones by hash, or other data without what the run trains on."""

import json
from pathlib import Path

import pytest

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Config
from semtag.evaluation.texts import choose_texts
from semtag.generation.texts import prepare
from semtag.scoring.finished import read_ids
from semtag.store.parquet import read_rows
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT

TEXTS = [f"text number {place}" for place in range(40)]


def write(file: Path, texts: list[str]) -> str:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


def start(tmp_path: Path, *overrides: str) -> tuple[RunDir, Config]:
    data = f"data.path={write(tmp_path / 'data.jsonl', TEXTS)}"
    split = ("data.held_out_by=text", "data.held_out=0.4", "data.article_column=null")
    config = load_config(ROOT / "configs" / "demo.yaml", [data, *split, f"run.root={tmp_path}", *overrides])
    run = RunDir.of(config)
    run.create()
    with Progress("texts", "rows") as progress:
        prepare(run, config, progress)
    return run, config


def chosen(run: RunDir, config: Config, scratch: Path) -> list[str]:
    scratch.mkdir()
    with Progress("evaluate", "answers") as progress:
        return [row["text"] for row in read_rows(choose_texts(run, config, scratch, progress))]


def test_all_held_out_texts_or_as_many_as_asked_for(tmp_path: Path) -> None:
    run, config = start(tmp_path)
    everything = chosen(run, config, tmp_path / "all")
    assert len(everything) == len(read_ids(run.layout.held_out)) > 8
    assert run.ledger().of("evaluate")["texts"].as_json() == {
        "in": len(everything),
        "out": len(everything),
        "dropped": {},
    }
    few = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"max_texts": 5})})
    some = chosen(run, few, tmp_path / "few")
    assert len(some) == 5 and set(some) < set(everything)
    assert some == chosen(run, few, tmp_path / "again")
    assert run.ledger().of("evaluate")["texts"].dropped == {"over_max_texts": len(everything) - 5}


def test_other_data_without_what_the_run_trains_on(tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", [*TEXTS, "a new text", "a new  text", "", "another"])
    run, config = start(tmp_path, f"evaluation.data={{path: {other}}}")
    held_out = {row["text"] for row in read_rows(run.layout.held_out)}
    texts = chosen(run, config, tmp_path / "scratch")
    assert set(texts) == held_out | {"a new text", "another"}
    dropped = {"also_in_training": 40 - len(held_out), "duplicate": 1, "empty_text": 1}
    entry = run.ledger().of("evaluate")["texts"]
    assert (entry.came_in, entry.went_out, entry.dropped) == (44, len(texts), dropped)


def test_nothing_to_evaluate_on_is_said_with_its_reason(tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", [""])
    run, config = start(tmp_path, f"evaluation.data={{path: {other}}}")
    with pytest.raises(UserError, match="no text to evaluate on; left out: 1 empty text"):
        chosen(run, config, tmp_path / "scratch")
