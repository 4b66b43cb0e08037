"""The run directory: whole files or none, one writer, and no mixing of configs."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from semtag.commands import verify
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Config
from semtag.store.layout import Step
from semtag.store.locations import write_json
from semtag.store.run_dir import RunDir, result_settings

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"


def demo(tmp_path: Path, *overrides: str) -> Config:
    return load_config(DEMO, [f"run.root={tmp_path}", *overrides])


RANK = Step("rank", 1)


def begun(tmp_path: Path) -> RunDir:
    config = demo(tmp_path)
    run = RunDir.of(config)
    run.create()
    run.start(config)
    run.begin(RANK, config)
    return run


def test_a_begun_step_pins_what_shaped_it(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.start(demo(tmp_path, "training.beta=0.7", "sampling.batch_size=3"))
    with pytest.raises(UserError, match=r"sampling\.samples: 8 when rank-1 ran, 3 now"):
        run.start(demo(tmp_path, "sampling.samples=3"))
    assert run.config().training.beta == 0.7


def test_each_round_is_pinned_by_its_own_keys(tmp_path: Path) -> None:
    run = begun(tmp_path)
    later = [
        "rounds.count=2",
        "rounds.each=[{sampling: {constrained: true}}, {sampling: {samples: 3}}]",
        "rounds.texts=reuse",
    ]
    run.start(demo(tmp_path, *later))
    with pytest.raises(UserError, match=r"sampling\.samples: 8 when rank-1 ran, 3 now"):
        run.start(demo(tmp_path, *later, "rounds.each=[{sampling: {constrained: true, samples: 3}}]"))


def test_how_texts_are_dealt_is_pinned_and_a_round_more_of_the_same_texts_is_not(tmp_path: Path) -> None:
    def dealt(*overrides: str) -> dict[str, Any]:
        return result_settings(demo(tmp_path, *overrides), Step("texts"))

    assert dealt("rounds.count=1") != dealt("rounds.count=2")
    assert dealt("rounds.texts=reuse", "rounds.count=1") == dealt("rounds.texts=reuse", "rounds.count=2")
    assert dealt("rounds.validation=0.1") != dealt("rounds.validation=0.2")
    assert dealt("rounds.least_gain=0.1") == dealt("rounds.least_gain=0.2")


def test_steps_between_checkpoints_are_pinned_where_the_held_out_loss_is_measured_by_them(tmp_path: Path) -> None:
    def pinned(*overrides: str) -> dict[str, Any]:
        return result_settings(demo(tmp_path, *overrides), Step("train", 1))

    assert pinned("training.save_steps=7") == pinned("training.save_steps=9")
    measured = "training.held_out=0.1"
    assert pinned(measured, "training.save_steps=7") != pinned(measured, "training.save_steps=9")


def test_steps_go_from_running_to_done(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert not run.is_done(RANK) and run.counts(RANK) == {}
    run.finish(RANK, {"texts": 1}, {"ray": "2"})
    assert run.done() == [RANK] and not run.is_done(Step("rank", 2))
    assert run.counts(RANK) == run.manifest().steps["rank-1"].counts == {"texts": 1}


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    run = begun(tmp_path)
    ranked = run.layout.round(1).ranked
    with run.replace_folder(ranked) as folder:
        (folder / "a").write_text("first")
    with pytest.raises(ZeroDivisionError), run.replace_folder(ranked) as folder:
        (folder / "a").write_text("half")
        raise ZeroDivisionError
    assert (ranked / "a").read_text() == "first"
    assert list(run.path.rglob(".*.partial"))
    run.begin(RANK, run.config())
    assert not list(run.path.rglob(".*.partial"))
    with run.temporary_folder("x") as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_what_is_done_is_synced_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = begun(tmp_path), list[tuple[str, str]]()
    sync, rename, replace = os.fsync, os.rename, os.replace

    def name(path: Any) -> str:
        return str(Path(path).relative_to(run.path))

    def synced(opened: int) -> None:
        seen.append(("synced", name(Path(f"/proc/self/fd/{opened}").readlink())))
        sync(opened)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.rename", lambda old, new: (rename(old, new), seen.append(("named", name(new)))))
    monkeypatch.setattr("os.replace", lambda old, new: (replace(old, new), seen.append(("named", name(new)))))
    with run.replace_folder(run.layout.texts) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
    inside = [".texts.partial/deep", ".texts.partial/deep/file", ".texts.partial"]
    assert seen == [*(("synced", path) for path in inside), ("named", "texts"), ("synced", ".")]
    seen.clear()
    run.finish(RANK, {}, {})
    assert seen == [("synced", ".manifest.json.partial"), ("named", "manifest.json"), ("synced", ".")]


@pytest.mark.parametrize("exchanged", [True, False])
def test_an_older_folder_is_there_until_the_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool
) -> None:
    run, there = begun(tmp_path), list[bool]()
    if not exchanged:  # as on a network's disk
        monkeypatch.setattr("semtag.store.locations.LIBC", SimpleNamespace(renameat2=lambda *_: -1))

    def removing(folder: Path) -> None:
        there.append((run.layout.texts / "new").exists())
        shutil.rmtree(folder, ignore_errors=True)

    monkeypatch.setattr("semtag.store.locations.remove", removing)
    for content in ("old", "new"):
        with run.replace_folder(run.layout.texts) as folder:
            (folder / content).write_text("x")
    assert there == [False, True]
    assert [file.name for file in run.layout.texts.iterdir()] == ["new"]
    assert not list(run.path.glob(".texts*"))


def test_there_is_no_moment_without_a_folder(tmp_path: Path) -> None:
    run, missed, ended = begun(tmp_path), list[bool](), threading.Event()

    def look() -> None:
        while not ended.is_set():
            missed.append(not run.layout.texts.exists())

    for number in range(30):
        with run.replace_folder(run.layout.texts) as folder:
            (folder / str(number)).write_text("x")
        if not number:
            (watcher := threading.Thread(target=look)).start()
    ended.set()
    watcher.join()
    assert missed and not any(missed)


def test_the_ledger_must_balance(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.record(RANK, "texts", 5, 3, {"too_long": 2})
    assert run.ledger().as_json() == {"rank-1": {"texts": {"in": 5, "out": 3, "dropped": {"too_long": 2}}}}
    with pytest.raises(ValueError, match="5 in, 3 out"):
        run.record(RANK, "texts", 5, 3, {})


def test_what_a_killed_step_left_goes_when_it_is_done(tmp_path: Path) -> None:
    run = begun(tmp_path)
    ours, other = (run.layout.round(number).sampled for number in (1, 2))
    for folder in (ours, other):
        folder.mkdir(parents=True)
    run.begin(RANK, run.config())
    assert ours.exists()  # what it has so far outlives a kill
    run.finish(RANK, {}, {})
    assert not ours.parent.exists() and other.exists()
    ours.mkdir(parents=True)  # as if killed between the step's end and its clearing up
    run.start(run.config())
    assert not ours.parent.exists() and other.exists()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = begun(tmp_path)
    code = f"from semtag.store.run_dir import RunDir\nwith RunDir({str(run.path)!r}).lock(): print('in')"
    with run.lock():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=DEMO.parent.parent)
    assert "Another process works on" in other.stderr


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    run = begun(tmp_path)
    (tmp_path / "mine").write_text("precious")
    (run.path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="is a link"), run.lock():
        pass
    assert (tmp_path / "mine").read_text() == "precious"


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """As somebody who may read the folder and no more."""
    for one in (folder, *folder.rglob("*")):
        one.chmod(0o555 if one.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_cannot_be_written_can_be_read(kept: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        run = begun(Path(root))
        if kept:
            with run.lock():
                pass
        with unwritable(Path(root)):
            with run.lock(reading=True):
                assert run.manifest().steps
            assert verify.run(Namespace(run=str(run.path))) == 0
            with pytest.raises(UserError, match="Cannot write to"), run.lock():
                pass
        run.path.chmod(0o755)


def test_what_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        RunDir(tmp_path).config()
    run = begun(tmp_path)
    write_json(run.layout.manifest, run.manifest().as_json() | {"schema": 99})
    run.layout.config.write_text(run.layout.config.read_text() + "evaluation: {most_span: 1.0}\n")  # a key that went
    with pytest.raises(UserError, match="schema 99"):
        run.config()
    with pytest.raises(UserError, match="schema 99"):
        run.manifest()
    with pytest.raises(UserError, match="cannot be reached"):
        RunDir.of(demo(tmp_path, "run.root=nostore://bucket"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write to"):
        RunDir(tmp_path / "file" / "run").create()
