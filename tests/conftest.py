"""Shared by the tests that run the real stack: one tiny run of the whole job, made once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from cluster.session import LOOPBACK

ROOT = Path(__file__).parent.parent
os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1", **LOOPBACK}

# A busy machine is no failure.
settings.register_profile("semtag", deadline=None)
settings.load_profile("semtag")

# A model that learns to answer more or less in a few seconds, on few texts: the parts are real, the quality is not.
TINY = [
    "data.limit=60",
    "data.held_out=0.3",
    "model.demo.steps=120",
    "model.demo.batch_size=8",
    "model.demo.answers=4",
    "model.demo.learning_rate=5e-3",
    "model.demo.width=192",
    "model.demo.layers=2",
    "model.demo.vocabulary=1000",
    "sampling.samples=3",
    "sampling.max_tokens=24",
    "training.epochs=1",
    "training.batch_size=8",
    "training.save_steps=2",
    "pairs.format_share=0.5",
    "evaluation.resamples=200",
]


def semtag(*arguments: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def tiny_demo(root: Path, *overrides: str) -> list[str]:
    """Arguments of a tiny demo run below `root`."""
    return ["configs/demo.yaml", f"run.root={root}", *TINY, *overrides]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a whole run, made by the real command."""
    root = tmp_path_factory.mktemp("runs")
    done = semtag("run", *tiny_demo(root))
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "demo"
