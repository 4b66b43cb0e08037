"""Other data under the path of a run, or of an unfinished tagging job, is noticed."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from upath import UPath

from semtag.cli import main
from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Config
from semtag.generation.source_state import check_source, source_state
from semtag.generation.texts import prepare
from semtag.store.locations import write_json
from semtag.store.run_dir import RunDir
from semtag.tag_job import tag
from tests.conftest import ROOT

LINES = "".join(f'{{"text": "Text number {number}."}}\n' for number in range(40))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.jsonl").write_text(LINES)
    (folder / "b.jsonl").write_text("")
    return folder


def config_of(folder: Path) -> Config:
    return load_config(ROOT / "configs" / "demo.yaml", overrides(folder))


def overrides(folder: Path) -> list[str]:
    return [f"run.root={folder.parent / 'runs'}", f"data.path={folder}", "data.held_out_by=text", "rounds.validation=0"]


def read(config: Config) -> RunDir:
    """A run that has read its texts."""
    run = RunDir.of(config)
    run.create()
    run.start(config)
    prepare(run, config, Progress("texts", "rows", io.StringIO()))
    return run


def edited(folder: Path) -> None:
    """As long as before, and another time."""
    (folder / "a.jsonl").write_text(LINES.replace("number 7", "number 8"))
    os.utime(folder / "a.jsonl", ns=(0, 0))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "grown": (lambda folder: (folder / "a.jsonl").write_text(LINES * 2), "a.jsonl has changed"),
    "edited": (edited, "a.jsonl has changed"),
    "new": (lambda folder: (folder / "c.jsonl").write_text(LINES), "c.jsonl is new"),
    "gone": (lambda folder: (folder / "b.jsonl").unlink(), "b.jsonl is gone"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_folder_that_changed_is_noticed(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(config_of(folder))
    change, words = CHANGES[kind]
    change(folder)
    assert main(["run", str(ROOT / "configs" / "demo.yaml"), *overrides(folder), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert f"is not the data that {folder.parent / 'runs' / 'demo'} read: {folder}/{words}." in said
    assert "run.name=" in said


def test_the_same_data_is_taken_however_it_came(folder: Path) -> None:
    config = config_of(folder)
    run = read(config)
    check_source(run, config.data, "")
    os.utime(folder / "a.jsonl", ns=(0, 0))  # a copy of it
    (folder / "_SUCCESS").write_text("")
    check_source(run, config.data, "")
    folder.rename(folder.with_name("elsewhere"))
    check_source(run, config.data, "")  # what was read is no longer needed


def test_an_object_in_a_store_that_changed_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, store = config_of(folder), UPath("memory://source-state")
    run = read(config)
    for module in ("source_state", "files"):
        monkeypatch.setattr(f"semtag.generation.{module}.place_at", lambda name: store)
    for name in ("a.jsonl", "b.jsonl"):
        (store / name).write_text("old")
    write_json(run.layout.source_state, source_state(config.data))
    check_source(run, config.data, "")
    (store / "b.jsonl").write_text("new")
    with pytest.raises(UserError, match=r"source-state/b\.jsonl has changed"):
        check_source(run, config.data, "")


def test_yesterdays_rows_are_not_written_today(folder: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "tags.jsonl", tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    work = RunDir(tmp_path / "tags.jsonl.unfinished")
    work.layout.texts.mkdir(parents=True)
    write_json(work.layout.source_state, source_state(config_of(folder).data))
    (folder / "a.jsonl").write_text(LINES * 2)
    with pytest.raises(UserError, match=r"a.jsonl has changed.*\n.*remove .*unfinished to start again"):
        tag(str(model), str(folder), out, [], votes=1, base=False, score=False, constrained=False)
