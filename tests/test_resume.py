"""Killed at any point and started again, ranking loses nothing and does nothing twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.parquet import read_rows
from scoring.rank_texts import count_finished
from tests.conftest import ROOT, semtag, tiny_demo


def ranked(run: Path) -> tuple[list[dict[str, Any]], list[float | None]]:
    """The rows by id, and apart from them the scores: their last digits depend on the batch they were made in."""
    rows = sorted(read_rows(run / "ranked"), key=lambda row: row["text_id"])
    return rows, [candidate.pop("score") for row in rows for candidate in row["candidates"]]


def test_a_killed_ranking_goes_on_where_it_was(finished_run: Path, tmp_path: Path) -> None:
    base = f"model.base={finished_run / 'base'}"
    arguments = tiny_demo(tmp_path, base, "sampling.batch_size=4", "sampling.in_flight=1")
    job = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "rank", *arguments], cwd=ROOT, start_new_session=True, stdout=-3
    )
    run = tmp_path / "demo"
    deadline = time.monotonic() + 300
    while not count_finished(run / ".rank.unfinished" / "ids"):
        assert job.poll() is None, "the ranking ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    kept = count_finished(run / ".rank.unfinished" / "ids")
    assert not (run / "ranked").exists()

    again = semtag("rank", *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "were done before and are kept" in again.stdout
    rows, scores = ranked(run)
    expected, expected_scores = ranked(finished_run)
    assert 0 < kept < len(rows)
    assert rows == expected
    assert scores == pytest.approx(expected_scores, abs=1e-6)
    assert semtag("verify", str(run)).returncode == 0
    assert not list(run.glob(".*.unfinished"))
