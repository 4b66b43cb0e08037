"""`benchmarks.chaos` at its smallest size: a ranking on a disk and in a store, and a whole job of one round."""

from pathlib import Path

import pytest

from tests.test_benchmarks import run_smallest

pytestmark = pytest.mark.benchmark


def test_a_ranking_is_killed(tmp_path: Path) -> None:
    assert "| verified | yes |" in run_smallest("chaos", tmp_path)


@pytest.mark.parametrize(
    ("options", "met"),
    [
        (["--only", "commit", "--store", "s3"], "| commit: ids pending |"),
        (["--only", "second"], "| second job | 1 |"),
    ],
)
def test_a_job_is_ended_in_other_ways(options: list[str], met: str, tmp_path: Path) -> None:
    shown = run_smallest("chaos", tmp_path, "--kills", "1", "--pause", "0", *options)
    assert met in shown and "| verified | yes |" in shown


def test_every_step_of_a_round_is_ended(tmp_path: Path) -> None:
    options = ["--rounds", "1", "--once", "--texts", "80"]
    assert "| train-1 | stage, kill -9 |" in run_smallest("chaos", tmp_path, *options)
