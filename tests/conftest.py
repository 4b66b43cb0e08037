"""Shared by the tests that run the real stack: one tiny run of the whole job, made once."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from cluster.session import LOOPBACK
from configs.load import load_config

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


TEXTS = [
    f"The {thing} of {place} was built by {who}."
    for thing in ("bridge", "old mill", "castle", "harbour")
    for place in ("Lyon", "Turin", "Porto", "Ghent")
    for who in ("monks", "a guild", "the queen's men", "nobody")
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


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A small tokenizer of the demo's kind."""
    from training.demo_model import build_tokenizer

    return build_tokenizer(TEXTS * 4, load_config(ROOT / "configs" / "demo.yaml", ["model.demo.vocabulary=400"]))


def tiny_llama(tokenizer: Any, folder: Path) -> str:
    """Save a tiny Llama with random weights and its tokenizer; returns the folder."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def model_path(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama with random weights, for training alone."""
    return tiny_llama(tokenizer, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")  # its event loop runs as long as it does, and other tests have loops of their own
def browser() -> Iterator[Any]:
    """Headless Chromium; tests of pages are skipped where there is none."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium here: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to sandbox for root
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        yield started
        started.close()


@pytest.fixture(scope="session")
def pairs() -> Any:
    """A pair for each of `TEXTS`, as pairs/ has them but for their references."""
    from datasets import Dataset

    from generation.prompts import build_messages

    prompt = load_config(ROOT / "configs" / "demo.yaml").prompt

    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    return Dataset.from_list(
        [
            {
                "text_id": place,
                "prompt": build_messages(text, prompt, True),
                "chosen": said(f"[{text.split()[1]}][{text.split()[-1]}]"),
                "rejected": said("[thing]" * (1 + place % 3)),
                "margin": place % 7 / 10 if place % 5 else None,
            }
            for place, text in enumerate(TEXTS)
        ]
    )


@pytest.fixture
def work(model_path: str, pairs: Any, tmp_path: Path) -> Any:
    """Trains on `pairs` in the run `demo` below `tmp_path`; takes overrides, returns the counts and what was said."""
    from cluster.parquet import RowWriter
    from cluster.progress import Progress
    from cluster.run_dir import RunDir
    from scoring.records import PAIR
    from training.launch import train

    def start(*overrides: str) -> tuple[dict[str, Any], str]:
        settings = [f"run.root={tmp_path}", f"model.base={model_path}", "training.batch_size=8", "training.epochs=1"]
        config = load_config(ROOT / "configs" / "demo.yaml", [*settings, "training.report_to=[]", *overrides])
        run, said = RunDir.of(config), io.StringIO()
        run.create()
        run.start(config)
        if not (run.path / "pairs").exists():
            with run.writing("pairs") as folder, RowWriter(folder / "part.parquet", PAIR) as out:
                for pair in pairs:
                    out.write(dict.fromkeys(PAIR.names) | {"chosen_sample": 0, "rejected_sample": 1} | pair)
        with Progress("train", "steps", said) as progress:
            run.begin("train", config)
            return train(run, config, progress), said.getvalue()

    return start
