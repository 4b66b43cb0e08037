"""A real ranking, by replay, that is ended and started again."""

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.kills import compare, count_finished
from benchmarks.scale import DATA, make_models, make_rows
from benchmarks.stores import store_on_loopback
from semtag.cluster.progress import NoTally
from semtag.configs.load import load_config
from semtag.generation.records import TEXT
from semtag.generation.replay import Replay
from semtag.scoring.finished import read_ids
from semtag.scoring.records import RANKED
from semtag.scoring.scorer import Scorer
from semtag.store.locations import Place, place_at
from semtag.store.parquet import RowWriter, count_rows, read_rows
from semtag.store.process_cleanup import WORK, left_at_work
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT, semtag

TEXTS = 60
LOOK = 0.1  # seconds between two looks, each of which takes time from the ranking


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A ranking by replay, in blocks of five texts."""
    folder = tmp_path_factory.mktemp("replay")
    base, embedding = make_models(folder)
    with RowWriter(folder / "texts.parquet", DATA) as out:
        for row in make_rows(0)[:TEXTS]:
            out.write(row)
    models = [
        f"model.base={base}",
        f"scoring.model={embedding}",
        f"run.root={folder}",
        "data.held_out=0",
        "rounds.count=1",
        "rounds.validation=0",
    ]
    replay = ["sampling.engine=replay", "sampling.candidates=completions", "sampling.batch_size=5"]
    return ["configs/demo.yaml", f"data.path={folder / 'texts.parquet'}", *models, *replay]


@pytest.mark.cluster
def test_a_real_ranking_heals(arguments: list[str]) -> None:
    """Its command line is killed with some blocks done: one loses its rows, one comes twice, one is pending still.

    Ray has as many CPUs as the first start needs, and no more: the second one needs none beside them.
    """
    run = Path(arguments[4].removeprefix("run.root=")) / "demo"
    layout = RunDir(run).layout.round(1)
    rows, ids = layout.sampled, layout.sampled_ids
    arguments = [*arguments, "cluster.cpus=3"]
    job = subprocess.Popen([sys.executable, "-m", "semtag", "rank", *arguments], cwd=ROOT)
    while len(committed := [file for file in ids.glob("*/*.parquet") if ".pending" not in file.name]) < 3:
        assert job.poll() is None
        time.sleep(LOOK)
    job.kill()
    job.wait()
    assert left_at_work(str(run / ".lock")) == []  # the stage and what Ray started end with the command line
    lost, doubled, pending = sorted(committed)[:3]
    assert sorted(read_ids(lost)) == sorted(read_ids(rows / f"{lost.stem}-0.parquet"))
    (rows / f"{lost.stem}-0.parquet").unlink()
    shutil.copy(rows / f"{doubled.stem}-0.parquet", rows / "ffff_000000-0.parquet")
    shutil.copy(pending, pending.with_name(f"{pending.stem}.pending.parquet"))
    done = semtag("rank", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 block lacks rows" in done.stdout and "1 file of rows was never committed" in done.stdout
    kept = int(re.search(r"(\d+) of 60 texts were done before and are kept", done.stdout)[1])  # type: ignore[index]
    assert kept >= 5 * (len(committed) - 1) and kept % 5 == 0
    assert len({row["text_id"] for row in read_rows(layout.ranked, ["text_id"])}) == count_rows(layout.ranked) == TEXTS
    assert semtag("verify", str(run)).returncode == 0


MANY = """
import sys
from pathlib import Path
from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import ray_session
from semtag.configs.load import load_config
from semtag.generation.decoding import candidates
from semtag.scoring import pipeline

pipeline.rows_per_file = lambda batch, total: 20
config = load_config(sys.argv[2], sys.argv[3:])
texts, out, ids = (Path(sys.argv[1]) / name for name in ("texts/train-1.parquet", "many/rows", "many/ids"))
with Progress("rank", "texts") as progress, ray_session(config):
    decoding = candidates(config, first_round=True)
    pipeline.sample_and_score(texts, out, config, config.model.base, [decoding], progress, ids)
"""


@pytest.mark.cluster
def test_rows_come_in_files_of_many(arguments: list[str], tmp_path: Path) -> None:
    """Blocks of five texts, in files of twenty at least, with a file of ids each."""
    run = Path(arguments[4].removeprefix("run.root=")) / "demo"
    if not (run / "texts").exists():
        assert semtag("rank", *arguments).returncode == 0
    subprocess.run([sys.executable, "-c", MANY, str(run), *arguments], cwd=ROOT, check=True)
    rows, ids = (sorted((run / "many").glob(pattern)) for pattern in ("rows/*.parquet", "ids/*/*.parquet"))
    assert [file.stem for file in ids] == [file.stem.removesuffix("-0") for file in rows]
    assert len(rows) <= 3 and sum(map(count_rows, rows)) == sum(map(count_rows, ids)) == TEXTS


REFUSED = 2  # status of a command that found another one at work on its run
ENDS = {"kill": 128 + 15, "kill -9": -9, "closed terminal": 128 + 1}  # status with which the command line ends


class Terminal:
    """A command in a terminal of its own, whose foreground it has."""

    def __init__(self, command: list[str]) -> None:
        self._window, terminal = os.openpty()
        os.set_blocking(self._window, False)
        self.job = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY),
        )
        os.close(terminal)

    def read(self) -> None:
        """Take what it has printed, or it would wait for that for ever."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._window, 65536):
                pass

    def end(self, how: str) -> None:
        """End the command in one of ENDS."""
        if how == "closed terminal":
            os.close(self._window)
        else:
            self.job.terminate() if how == "kill" else self.job.kill()


class Watch(threading.Thread):
    """Sees which processes of earlier stages of a run are alive beside its newest one."""

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self._work, self._over = str(run.local_dir.resolve() / ".lock"), threading.Event()
        self.stages, self.beside = set[int](), list[str]()
        self._strangers: set[psutil.Process] = set()  # to read every process each time would take half a core

    def run(self) -> None:
        while not self._over.wait(LOOK):
            self._look()

    def _look(self) -> None:
        unknown = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):
                if one not in self._strangers:
                    one.info = one.as_dict(["environ", "cmdline", "create_time", "ppid", "status"])
                    unknown.append(one)
        own = [one for one in unknown if (one.info["environ"] or {}).get(WORK) == self._work]
        # A process gets its environment when it execs, a moment after it began.
        self._strangers |= {one for one in unknown if one not in own and time.time() - one.info["create_time"] > 2}
        alive = [one for one in own if one.info["status"] != psutil.STATUS_ZOMBIE]
        named = {one.pid: one for one in alive if "semtag.scoring.rank" in (one.info["cmdline"] or [])}
        stages = [one for one in named.values() if one.info["ppid"] not in named]  # a fork has the name until it execs
        self.stages |= {one.pid for one in stages}
        begun = max((one.info["create_time"] for one in stages), default=0.0)
        self.beside += [str(one) for one in alive if one.info["create_time"] < begun]

    def end(self) -> None:
        self._over.set()
        self.join()


def ranked_here(arguments: list[str], texts: Place, folder: Path) -> Path:
    """Rank the texts in this process, by the actors' own code and without Ray; return the folder of ranked lists."""
    config = load_config(ROOT / arguments[0], arguments[1:])
    rows = [row | {"decoding": "replay"} for row in read_rows(texts)]
    table = pa.Table.from_pylist(rows, pa.schema([*TEXT, ("decoding", pa.string())]))
    table = Scorer(config.scoring, NoTally())(asyncio.run(Replay(config, config.model.base, NoTally())(table)))
    folder.mkdir()
    pq.write_table(table.select(RANKED.names).cast(RANKED), folder / "part.parquet")
    return folder


@contextlib.contextmanager
def root_at(store: str, folder: Path) -> Iterator[Place]:
    """Where runs lie: on a disk, or in an S3 server on loopback."""
    if store == "disk":
        yield folder
    else:
        with store_on_loopback("ended", folder / "cache"):
            yield place_at("s3://ended/runs")


def end_amid_blocks(command: list[str], run: RunDir, watch: Watch, how: str) -> Terminal:
    """Start the command, again while it is refused, and end it once its stage has finished a block."""
    ids, stages = run.layout.round(1).sampled_ids, len(watch.stages)
    terminal = Terminal(command)
    while len(watch.stages) == stages:
        if terminal.job.poll() == REFUSED:
            terminal = Terminal(command)
        assert terminal.job.poll() in (None, REFUSED)
        terminal.read()
        time.sleep(LOOK)
    finished = count_finished(ids)
    while count_finished(ids) == finished:
        assert terminal.job.poll() is None
        terminal.read()
        time.sleep(LOOK)
    terminal.end(how)
    return terminal


@pytest.mark.parametrize(
    ("ends", "store"),
    [
        (["kill"], "disk"),
        pytest.param(["kill -9", "closed terminal"], "disk", marks=pytest.mark.cluster),
        pytest.param([*ENDS], "s3", marks=pytest.mark.cluster),
    ],
)
def test_an_ended_ranking_goes_on_at_once(ends: list[str], store: str, arguments: list[str], tmp_path: Path) -> None:
    """The same command is refused while the one before it still ends, or waits; never are two pipelines at work."""
    with root_at(store, tmp_path) as root:
        arguments = [*arguments, f"run.root={root}", "run.name=ended"]
        run = RunDir(root / "ended")
        watch = Watch(run)
        watch.start()
        try:
            command = [sys.executable, "-m", "semtag", "rank", *arguments]
            terminals = [end_amid_blocks(command, run, watch, how) for how in ends]
            while (done := semtag("rank", *arguments)).returncode == REFUSED:
                assert "Another process works on" in done.stderr
        finally:
            watch.end()
        assert done.returncode == 0, done.stdout + done.stderr
        assert "were done before and are kept" in done.stdout
        assert [terminal.job.wait(timeout=60) for terminal in terminals] == [ENDS[how] for how in ends]
        assert len(watch.stages) == len(ends) + 1 and watch.beside == []
        expected = ranked_here(arguments, run.layout.train_texts(1, reuse=False), tmp_path / "expected")
        ranked = run.layout.round(1).ranked
        assert compare(expected, ranked) == {"rows": TEXTS, "lost": 0, "twice": 0, "different": 0}
        assert semtag("verify", str(run.path)).returncode == 0
