"""A real ranking, by replay, that is killed and started again."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.scale import DATA, make_models, make_rows
from cluster.orphans import left_at_work
from cluster.parquet import RowWriter, count_rows, read_rows
from cluster.run_dir import RunDir
from scoring.finished import read_ids
from tests.conftest import ROOT, semtag

TEXTS = 60


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


def test_a_real_ranking_heals(arguments: list[str]) -> None:
    """Its command line is killed with some blocks done: one loses its rows, one comes twice, one is pending still.

    Ray has as many CPUs as the first start needs, and no more: the second one needs none beside them.
    """
    run = Path(arguments[4].removeprefix("run.root=")) / "demo"
    layout = RunDir(run).layout.round(1)
    rows, ids = layout.sampled, layout.sampled_ids
    arguments = [*arguments, "cluster.cpus=3"]
    job = subprocess.Popen([sys.executable, "-m", "cluster.cli", "rank", *arguments], cwd=ROOT)
    while len(committed := [file for file in ids.glob("*/*.parquet") if ".pending" not in file.name]) < 3:
        assert job.poll() is None
        time.sleep(0.01)
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
from cluster.progress import Progress
from cluster.session import ray_session
from configs.load import load_config
from generation.decoding import candidates
from scoring import rank_texts

rank_texts.rows_per_file = lambda batch, total: 20
config = load_config(sys.argv[2], sys.argv[3:])
texts, out, ids = (Path(sys.argv[1]) / name for name in ("texts/train-1.parquet", "many/rows", "many/ids"))
with Progress("rank", "texts") as progress, ray_session(config):
    decoding = candidates(config, first_round=True)
    rank_texts.sample_and_score(texts, out, config, config.model.base, [decoding], progress, ids)
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
