"""Shared by the tests that run the real stack: one tiny run of the whole job, made once."""

import atexit
import functools
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from filelock import FileLock
from hypothesis import settings

from benchmarks.small_models import SMALL, build_tokenizer, save_random_llama, save_small
from semtag.cluster.ray_session import LOOPBACK
from semtag.configs.evaluation import Arm
from semtag.configs.load import load_config
from semtag.configs.schema import SYSTEM, Config
from semtag.generation.prompts import build_messages
from semtag.store.run_dir import RunDir

ROOT = Path(__file__).parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "tests" / "site"), os.environ.get("PYTHONPATH")]))
os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1", **LOOPBACK}

# Each of pytest's workers keeps to cores of its own: engines that share cores wait for each other most of the time.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    cores, workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) :: workers] or cores)

# What is made once for all tests lies here. Workers inherit it from the process that starts them, which removes it.
if "SEMTAG_TESTS" not in os.environ:
    os.environ["SEMTAG_TESTS"] = tempfile.mkdtemp(prefix="semtag-tests-")
    atexit.register(shutil.rmtree, os.environ["SEMTAG_TESTS"], ignore_errors=True)
ONCE = Path(os.environ["SEMTAG_TESTS"])

# A busy machine is no failure.
settings.register_profile("semtag", deadline=None)
settings.load_profile("semtag")

# A whole job in two rounds on few texts: the parts are real, the quality is not. A model of random weights is well
# formed within the grammar alone, so no round gains anything by the plain prompt, and none may stop for it.
TINY = [
    *SMALL,
    "data.limit=60",
    "data.held_out=0.3",
    "prompt.examples=[{text: A mill grinds grain., answer: '[mill][grain]'}, {text: Bees fly., answer: '[bees]'}]",
    "sampling.samples=3",
    "rounds.count=2",
    "rounds.least_gain=0",
    "rounds.each=[]",
    "rounds.validation=0.1",
    "training.beta=1.0",
    "training.likelihood_weight=1.0",
    "training.batch_size=4",
    "training.save_steps=2",
    "training.dtype=float32",
    "pairs.format_share=0.5",
    f"evaluation.arms=[{', '.join(arm for arm in get_args(Arm) if arm != 'rounds')}]",  # one more engine
]


# The file that makes the finished run, and then the longest of those that do not use it.
FIRST = [
    *("test_whole_run.py", "test_tag.py", "test_processes.py", "test_matrix.py"),
    *("test_killed_ranking.py", "test_chaos.py"),
]
# Files that use the finished run but do not make it, the longest first.
LAST = [
    *("test_resume.py", "test_submit.py", "test_verify.py", "test_replay.py", "test_python.py"),
    *("test_fork.py", "test_verify_pairs.py", "test_push.py"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make the finished run first and use it last, so that workers, which take file after file, seldom wait for it."""
    order = {name: place - len(FIRST) for place, name in enumerate(FIRST)}
    order |= {name: 1 + place for place, name in enumerate(LAST)}
    items.sort(key=lambda item: order.get(item.path.name, 0))


TEXTS = [
    f"The {thing} of {place} was built by {who}."
    for thing in ("bridge", "old mill", "castle", "harbour")
    for place in ("Lyon", "Turin", "Porto", "Ghent")
    for who in ("monks", "a guild", "the queen's men", "nobody")
]


def semtag(*arguments: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "semtag", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def readme_lines() -> tuple[str, dict[str, str]]:
    """The README's lines of Python, and those of them that make a run and read its pairs, by the names they give."""
    [lines] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    named = {name: line for line, name in re.findall(r"^((run|pairs) = semtag\..*)$", lines, re.MULTILINE)}
    assert named.keys() == {"run", "pairs"}
    return lines, named


@functools.cache
def tiny_model() -> str:
    """The folder of a random model that answers within the grammar."""
    with FileLock(ONCE / "model.lock"):
        return str(ONCE / "model") if (ONCE / "model").exists() else save_small(ONCE / "model")


def tiny_demo(root: Path, *overrides: str) -> list[str]:
    """Arguments of a tiny demo run below `root`."""
    return ["configs/demo.yaml", f"run.root={root}", f"model.base={tiny_model()}", *TINY, *overrides]


@pytest.fixture(scope="session")
def finished_run() -> Path:
    """The directory of a whole run, made by the real command."""
    run = RunDir(ONCE / "runs" / "demo")
    with FileLock(ONCE / "run.lock"):
        if not run.layout.page.exists():
            done = semtag("run", *tiny_demo(ONCE / "runs"), timeout=3600)  # some ten minutes on a slow core
            assert done.returncode == 0, done.stdout + done.stderr
    return run.path


@pytest.fixture
def copy(finished_run: Path, tmp_path: Path) -> RunDir:
    """A finished run to tamper with."""
    shutil.copytree(finished_run, tmp_path / "copy")
    return RunDir(tmp_path / "copy")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A small tokenizer that knows the words of `TEXTS` and of the prompt."""
    return build_tokenizer([*TEXTS, SYSTEM])


@pytest.fixture(scope="session")
def model_path(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama with random weights, for training alone."""
    return save_random_llama(tmp_path_factory.mktemp("model"), tokenizer)


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


def asked(text: str) -> list[dict[str, str]]:
    """The demo's plain prompt."""
    return build_messages(text, load_config(ROOT / "configs" / "demo.yaml").prompt, True)


def said(text: str) -> list[dict[str, str]]:
    """A completion as a chat message."""
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="session")
def pairs() -> Any:
    """A pair for each of `TEXTS`, as pairs/ has them where no reference is known."""
    from datasets import Dataset

    unknown = dict.fromkeys(("ref_chosen_logprob", "ref_rejected_logprob", "chosen_ids", "rejected_ids"))
    return Dataset.from_list(
        [
            unknown
            | {
                "text_id": place,
                "prompt": asked(text),
                "chosen": said(f"[{text.split()[1]}][{text.split()[-1]}]"),
                "rejected": said("[thing]" * (1 + place % 3)),
                "margin": place % 7 / 10 if place % 5 else None,
            }
            for place, text in enumerate(TEXTS)
        ]
    )


@pytest.fixture(scope="session")
def lists() -> Any:
    """Three answers, or two, to some of `TEXTS`, as lists/ has them where no reference is known."""
    from datasets import Dataset

    def row(place: int, text: str) -> dict[str, Any]:
        words = text.split()
        answers = [f"[{words[1]}][{words[-1]}]", f"[{words[3]}]", "[thing][place]"][: 2 if place % 4 == 3 else 3]
        unknown = [None] * len(answers)
        scores = [0.9 - 0.2 * rank - 0.01 * place for rank in range(len(answers))]
        known = {"text_id": place, "prompt": asked(text), "completions": [said(one) for one in answers]}
        return known | {"scores": scores, "ref_logprobs": unknown, "sampled_ids": unknown}

    return Dataset.from_list([row(place, text) for place, text in enumerate(TEXTS[::4])])


def with_pairs(root: Path, model_path: str, pairs: Any, *overrides: str) -> tuple[RunDir, Config]:
    """The run `demo` below `root`, with pairs to train on."""
    from semtag.scoring.records import PAIR
    from semtag.store.parquet import RowWriter

    settings = [f"run.root={root}", f"model.base={model_path}", "training.batch_size=8", "training.report_to=[]"]
    settings += ["training.max_steps=null", "training.dtype=float32", "rounds.count=1", "rounds.each=[]"]
    config = load_config(ROOT / "configs" / "demo.yaml", [*settings, *overrides])
    run = RunDir.of(config)
    run.create()
    run.start(config)
    place = run.layout.round(1).pairs
    if not place.exists():
        with run.replace_folder(place) as folder, RowWriter(folder / "part.parquet", PAIR) as out:
            for pair in pairs:
                out.write(dict.fromkeys(PAIR.names) | {"chosen_sample": 0, "rejected_sample": 1} | pair)
    return run, config


def worker_in(root: Path, model_path: str, pairs: Any) -> Any:
    """Trains on `pairs` in the run `demo` below `root`; takes overrides, returns the counts and what was said."""
    from semtag.cluster.progress import Progress
    from semtag.store.layout import Step
    from semtag.training.train import train

    def start(*overrides: str) -> tuple[dict[str, Any], str]:
        run, config = with_pairs(root, model_path, pairs, *overrides)
        told = io.StringIO()
        with Progress("train", "steps", told) as progress:
            run.begin(Step("train", 1), config)
            return train(run, config, progress, 1), told.getvalue()

    return start


@pytest.fixture
def work(model_path: str, pairs: Any, tmp_path: Path) -> Any:
    """Trains in the run `demo` below `tmp_path`, see `worker_in`."""
    return worker_in(tmp_path, model_path, pairs)
