"""What is around every step: the log of each attempt stays, and is this user's own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from upath import UPath

from semtag.configs.load import load_config
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT


def attempt(run: RunDir, data: Path) -> str:
    """Start the texts step as a process; returns what its log holds afterwards."""
    run.create()
    run.start(load_config(ROOT / "configs" / "demo.yaml", [f"data.path={data}"]))
    command = [sys.executable, "-m", "semtag.generation.texts", str(run.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 2), done.stdout + done.stderr
    return run.layout.log("texts").read_text(encoding="utf-8")


def test_the_log_of_a_failed_attempt_stays(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.layout.logs.mkdir(parents=True)
    run.layout.log("texts").write_text("of an earlier version\n")
    run.layout.log("texts").chmod(0o644)
    data = tmp_path / "texts.jsonl"
    failed = attempt(run, data)
    assert failed.startswith("of an earlier version\n") and "No such file" in failed
    shutil.copy(ROOT / "configs" / "demo" / "texts.jsonl", data)
    both = attempt(run, data)
    assert both.startswith(failed)
    begun = [line for line in both.splitlines() if line.startswith("--- ")]
    assert len(begun) == 2 and all(f"semtag.generation.texts {run.path}" in line for line in begun)
    assert run.layout.log("texts").stat().st_mode & 0o777 == 0o600


def test_a_log_goes_on_where_another_machine_left_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        run = RunDir(UPath("memory://logged/run"))
        log = run.open_log("rank-1")
        os.write(log, f"{machine}\n".encode())
        os.close(log)
        run.keep_logs()
    assert (run.path / "logs" / "rank-1.log").read_text() == "one\ntwo\n"
