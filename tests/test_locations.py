"""Runs in an object store: a real S3 server on loopback, killed jobs, and a server that goes away."""

import contextlib
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSystem

from benchmarks.kills import count_finished
from benchmarks.scale import DATA, make_models, make_rows
from benchmarks.stores import Store, store_on_loopback
from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.forking import config_of_fork, fork
from semtag.generation.readers import read_rows as read_rows_of_data
from semtag.store.layout import Step
from semtag.store.lease import SIGNS, _create, lease
from semtag.store.locations import local_folder, place_at, upload
from semtag.store.parquet import RowWriter, count_rows, read_rows
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT, semtag

TEXTS = 100


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """An S3 server with a bucket, and the environment that leads there."""
    with store_on_loopback("runs", tmp_path_factory.mktemp("cache")) as store:
        yield store


@pytest.fixture(scope="module")
def arguments(server: Store, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A ranking of the store's texts by replay, models included."""
    folder = tmp_path_factory.mktemp("models")
    base, embedding = make_models(folder)
    upload(folder, place_at("s3://runs/models"))
    with RowWriter(place_at("s3://runs/data/texts.parquet"), DATA) as out:
        for row in make_rows(0)[:TEXTS]:
            out.write(row)
    return [
        "configs/demo.yaml",
        "run.root=s3://runs/all",
        "data.path=s3://runs/data",
        "data.held_out_by=text",
        f"model.base=s3://runs/models/{base.name}",
        f"scoring.model=s3://runs/models/{embedding.name}",
        "sampling.engine=replay",
        "sampling.candidates=completions",
        "sampling.batch_size=5",
        "prompt.examples=[]",
        "rounds.count=1",
        "pairs.strategy=margin_bins",
        "pairs.margin_bin=0.05",
    ]


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command line in a process group of its own, to be killed whole."""
    command = [sys.executable, "-m", "semtag", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    """Raises TimeoutError when it does not come."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.5)  # to look costs the store time


def stored(name: str) -> RunDir:
    return RunDir(f"s3://runs/all/{name}")


def some_are_done(name: str) -> bool:
    """Whether the ranking of that run has begun to write."""
    return count_finished(stored(name).layout.round(1).sampled_ids) > 0


@pytest.mark.cluster
def test_a_run_in_a_store_that_dies_resumes_and_is_whole_there(arguments: list[str], server: Store) -> None:
    """The outage is named, and what is in the store at the end is all there is. test_killed_ranking.py has kills."""
    name = "outage"
    job = start("rank", *arguments, f"run.name={name}")
    wait_for(lambda: some_are_done(name))
    server.stop()
    said, _ = job.communicate(timeout=400)
    server.start()
    assert job.returncode == 2, said
    assert f"The object store {os.environ['AWS_ENDPOINT_URL']}, which holds s3://runs/all/{name}, failed" in said
    for stage in ("rank", "pairs"):
        done = semtag(stage, *arguments, f"run.name={name}")
        assert done.returncode == 0, done.stdout
    found = semtag("verify", f"s3://runs/all/{name}")
    assert found.returncode == 0, found.stdout
    run = stored(name)
    layout, ledger = run.layout.round(1), run.ledger().as_json()
    ids = [row["text_id"] for row in read_rows(layout.ranked, ["text_id"])]
    assert len(ids) == len(set(ids)) == ledger["rank-1"]["texts"]["out"]
    assert count_rows(layout.pairs) == ledger["pairs-1"]["pairs"]["out"] > 0
    assert (run.path / "logs" / "rank-1.log").exists()
    everything = [file for file in run.path.rglob("*") if file.is_file()]
    assert not [str(file) for file in everything if ".unfinished" in str(file) or ".partial" in str(file)]
    assert not [str(file) for file in everything if b"test-secret" in file.read_bytes()]


def test_a_store_that_is_not_there_is_named_before_anything_starts(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    done = semtag("rank", *arguments, "run.name=nowhere")
    assert done.returncode == 2
    assert "The object store http://127.0.0.1:9" in done.stderr


def test_a_bucket_that_is_not_there_is_named(arguments: list[str]) -> None:
    done = semtag("rank", *arguments, "run.root=s3://no-such-bucket/runs", "run.name=x")
    assert done.returncode == 2
    assert "s3://no-such-bucket/runs/x" in done.stderr


def test_folders_of_a_run_in_a_store(server: Store) -> None:
    run = RunDir("s3://runs/all/folders")
    run.create()
    model = run.layout.round(2).adapter
    for content in ("one", "two"):
        with run.replace_folder(model) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / content).write_text(content)
    assert [file.name for file in model.rglob("*") if file.is_file()] == ["two"]
    with pytest.raises(ZeroDivisionError), run.replace_folder(model) as folder:
        (folder / "three").write_text("three")
        raise ZeroDivisionError
    assert [file.name for file in model.rglob("*") if file.is_file()] == ["two"]
    with run.replace_shared_folder(model) as shared:
        (shared / "four").write_text("four")
    assert [file.name for file in model.rglob("*") if file.is_file()] == ["four"]
    assert not list(run.local_dir.rglob("sub"))  # nothing of it stays on this machine
    with run.shared_temporary_folder("x") as shared:
        (shared / "file").write_text("x")
    assert not shared.exists()
    with run.lock(), pytest.raises(UserError, match="Another process"), RunDir("s3://runs/all/folders").lock():
        pass


def test_a_run_in_a_store_is_forked_there(server: Store, tmp_path: Path) -> None:
    config = load_config(ROOT / "configs" / "demo.yaml", ["run.root=s3://runs/all", "run.name=source"])
    source, step = RunDir.of(config), Step("texts")
    source.create()
    source.start(config)
    source.begin(step, config)
    with source.replace_folder(source.layout.texts) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "train-1.parquet").write_bytes(b"texts")
    source.record(step, "rows", 1, 1, {})
    source.finish(step, {}, {})
    said: list[str] = []
    run = fork(source, config_of_fork(source, "forked", ["pairs.strategy=all_pairs"]), said.append)
    assert str(run.path) == "s3://runs/all/forked" and "begins at rank-1" in said[-1]
    assert (run.layout.texts / "sub" / "train-1.parquet").read_bytes() == b"texts"
    assert run.manifest().steps["texts"].taken_from == str(source.path) and run.ledger() == source.ledger()
    with pytest.raises(UserError, match=r"(?s)cannot take files from s3://.*Set run.root to a place of the same kind"):
        fork(source, config_of_fork(source, "forked", [f"run.root={tmp_path}"]), said.append)


def test_texts_in_a_store_are_found_as_on_a_disk(server: Store) -> None:
    files = {
        "a.jsonl.gz": gzip.compress(b'{"text": "a"}\n'),
        "_SUCCESS": b"",
        "_hidden/b.jsonl": b'{"text": "no"}\n',
        "sub/b.jsonl": b'{"text": "b"}\n',
        "sub/day.txt": b"no",
    }
    for name, content in files.items():
        (place_at("s3://runs/texts") / name).write_bytes(content)
    with RowWriter(place_at("s3://runs/texts/sub/c.parquet"), DATA) as out:
        out.write({"text": "c", "completions": []})

    def texts_of(path: str, **how: Any) -> list[str]:
        return [row.values["text"] for row in read_rows_of_data(Data(path=path, **how))]

    assert texts_of("s3://runs/texts/**/*.jsonl*") == ["a", "b"]
    assert texts_of("s3://runs/texts/s*/*.parquet") == ["c"]
    assert texts_of("s3://runs/texts", format="jsonl") == ["a", "b"]


@pytest.mark.parametrize("renewed", [True, False])
def test_another_machine_is_kept_out_while_the_holder_lives(
    server: Store, monkeypatch: pytest.MonkeyPatch, renewed: bool
) -> None:
    monkeypatch.setattr("semtag.store.lease.DEAD_AFTER", 2.0)
    monkeypatch.setattr("semtag.store.lease.RENEWED_EVERY", 0.2 if renewed else 1e9)
    run = RunDir(f"s3://runs/all/leased-{renewed}")
    with contextlib.suppress(UserError), run.lock():
        [first] = (run.path / SIGNS).iterdir()
        with pytest.raises(UserError, match="A process on") if renewed else contextlib.nullcontext():
            with lease(run.path, "elsewhere"):
                [second] = (run.path / SIGNS).iterdir()
                assert json.loads(second.read_text())["place"] == "elsewhere" and second.name != first.name
    last = max((run.path / SIGNS).iterdir(), key=str)
    assert json.loads(last.read_text())["released"]


def test_a_store_gives_a_number_to_one_alone(server: Store) -> None:
    sign = place_at("s3://runs/all/numbers") / SIGNS / "1"
    _create(sign, "{}")
    with pytest.raises(OSError):
        _create(sign, "other")
    assert sign.read_text() == "{}"


def test_a_folder_is_fetched_once_for_each_state(server: Store) -> None:
    source = place_at("s3://runs/fetched/model")
    FileSystem.from_uri("s3://runs")[0].create_dir("runs/fetched/model")  # leaves an empty object as a mark
    (source / "deep" / "a").write_text("old")
    first = local_folder(str(source))
    assert (Path(first) / "deep" / "a").read_text() == "old"
    assert local_folder(str(source)) == first
    (source / "deep" / "a").write_text("newer")
    assert (Path(local_folder(str(source))) / "deep" / "a").read_text() == "newer"
    assert local_folder("/some/model") == "/some/model"
    with pytest.raises(UserError, match="empty or not there"):
        local_folder("s3://runs/no/model")
