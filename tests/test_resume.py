"""Killed and started again, a job loses nothing, does nothing twice, and comes to what it would have come to."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from benchmarks.chaos import Torment
from benchmarks.family import Family, kind_of
from benchmarks.kills import KILL, compare, compare_runs, count_finished, start
from semtag.store.layout import Step
from semtag.store.locations import write_json
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT, semtag, tiny_demo

OFTEN = ["sampling.batch_size=4", "sampling.in_flight=1"]


@pytest.mark.cluster
def test_a_job_killed_in_round_two_ends_as_if_undisturbed(finished_run: Path, tmp_path: Path) -> None:
    """Its stage while it ranks, its command line while it trains; all but those two and the pairs is a copy."""
    arguments, calm, run = tiny_demo(tmp_path, *OFTEN), RunDir(finished_run), RunDir(tmp_path / "demo")
    shutil.copytree(calm.path, run.local_dir)
    undo(run, *(Step(stage, 2) for stage in ("rank", "pairs", "train")))
    layout = run.layout.round(2)
    for folder in (run.local_dir / "round-2").iterdir():
        if folder != layout.validation:
            shutil.rmtree(folder)
    torment = Torment([*arguments, "--round", "2"], layout, random.Random(0), store=None)
    story = {"met": {"driver": 1}, "missed": {}, "starts": 2, "starts in vain": 0}
    assert torment.run(["driver"], pause=0) == story
    training = Step("train", 2)
    assert "checkpoint-" in start(arguments, run, training, KILL, after=1).hit
    assert "resuming from" in start(arguments, run).healed(training)
    check_nothing_lost(compare_runs(calm, run, rounds=2), run.local_dir)
    assert not list(run.local_dir.rglob(".*.unfinished"))


def undo(run: RunDir, *steps: Step) -> None:
    """Have the manifest name the steps no more."""
    manifest = run.manifest().as_json()
    for step in steps:
        del manifest["steps"][step.name]
    write_json(run.layout.manifest, manifest)


def check_nothing_lost(found: dict[str, dict[str, int]], run: Path) -> None:
    same = {"lost": 0, "twice": 0, "different": 0}
    assert {name: counts for name, counts in found.items() if counts != same | {"rows": counts["rows"]}} == {}
    assert semtag("verify", str(run)).returncode == 0


@pytest.mark.cluster
def test_a_lost_node_costs_nothing(finished_run: Path, tmp_path: Path) -> None:
    """Three nodes on loopback; the one with the engine is killed midway, and another one joins."""
    node: dict[str, Any] = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"num_cpus": 0})
    try:
        workers = [cluster.add_node(num_cpus=4, **node) for _ in range(2)]
        arguments = tiny_demo(tmp_path, f"cluster.address={cluster.address}", *OFTEN)
        run = tmp_path / "demo"
        finished = RunDir(run).layout.round(1).sampled_ids
        job = subprocess.Popen([sys.executable, "-m", "semtag", "rank", *arguments], cwd=ROOT)
        deadline = time.monotonic() + 300
        while not count_finished(finished):
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        lost, engine = next((worker, engine) for worker in workers for engine in engines_of(worker))
        engine_and_workers = [engine, *engine.children(recursive=True)]
        cluster.remove_node(lost, allow_graceful=False)
        assert finished.exists(), "the ranking was over before the node was lost"
        cluster.add_node(num_cpus=4, **node)
        assert job.wait(timeout=400) == 0
        check_nothing_lost(
            {"ranked": compare(*(RunDir(one).layout.round(1).ranked for one in (finished_run, run)))}, run
        )
        assert not any(process.is_running() for process in engine_and_workers)
    finally:
        cluster.shutdown()


def engines_of(node: Any) -> list[psutil.Process]:
    """The engines among the descendants of the node's raylet."""
    (raylet,) = node.all_processes["raylet"]
    return Family(raylet.process.pid).of_kind("engine")


def test_what_is_no_process_of_a_job_has_no_kind() -> None:
    assert kind_of(psutil.Process()) is None
