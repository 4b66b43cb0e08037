"""The run directory: whole files or none, one writer, and no mixing of configs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.run_dir import RunDir, shaping_values
from configs.errors import UserError
from configs.load import load_config
from configs.schema import Config

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"


def demo(tmp_path: Path, *overrides: str) -> Config:
    return load_config(DEMO, [f"run.root={tmp_path}", *overrides])


def begun(tmp_path: Path, stage: str = "rank") -> RunDir:
    config = demo(tmp_path)
    run = RunDir.of(config)
    run.create()
    run.start(config)
    run.begin(stage, config)
    return run


def test_a_begun_stage_pins_what_shaped_it(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.start(demo(tmp_path, "training.beta=0.7", "sampling.batch_size=3"))
    with pytest.raises(UserError, match=r"sampling\.samples: 6 when the rank stage ran, 3 now"):
        run.start(demo(tmp_path, "sampling.samples=3"))
    assert run.config().training.beta == 0.7


def test_the_demo_builder_shapes_only_the_demo(tmp_path: Path) -> None:
    assert "model.demo.steps" in shaping_values(demo(tmp_path), "base")
    assert "model.demo.steps" not in shaping_values(demo(tmp_path, "model.base=x"), "base")


def test_stages_go_from_running_to_done(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert not run.is_done("rank")
    run.finish("rank", {"texts": 1}, {"ray": "2"})
    assert run.is_done("rank")
    assert run.manifest()["stages"]["rank"]["counts"] == {"texts": 1}


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    run = begun(tmp_path)
    with run.writing("ranked") as folder:
        (folder / "a").write_text("first")
    with pytest.raises(ZeroDivisionError), run.writing("ranked") as folder:
        (folder / "a").write_text("half")
        raise ZeroDivisionError
    assert (run.path / "ranked" / "a").read_text() == "first"
    run.begin("rank", run.config())
    assert not list(run.path.rglob(".*.partial"))
    with run.scratch("x") as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_the_ledger_must_balance(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.record("rank", "texts", 5, 3, {"too_long": 2})
    assert run.ledger() == {"rank": {"texts": {"in": 5, "out": 3, "dropped": {"too_long": 2}}}}
    with pytest.raises(ValueError, match="5 in, 3 out"):
        run.record("rank", "texts", 5, 3, {})


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = begun(tmp_path)
    code = f"from cluster.run_dir import RunDir\nwith RunDir({str(run.path)!r}).lock(): print('in')"
    with run.lock():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=DEMO.parent.parent)
    assert "Another process works on" in other.stderr


def test_what_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        RunDir(tmp_path).config()
    run = begun(tmp_path)
    manifest = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    with pytest.raises(UserError, match="schema 99"):
        run.manifest()
    with pytest.raises(UserError, match="cannot be reached"):
        RunDir.of(demo(tmp_path, "run.root=nostore://bucket"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write to"):
        RunDir(tmp_path / "file" / "run").create()
