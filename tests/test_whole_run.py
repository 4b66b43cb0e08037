"""The whole job for real: vLLM samples, sentence-transformers scores, TRL trains, the report is written."""

import json
import shutil
import time
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest

from cluster.parquet import RowWriter, read_rows
from cluster.run_dir import RunDir
from evaluation.corpus import ARMS
from scoring.records import PAIR, RANKED
from tests.conftest import ROOT, semtag, tiny_demo
from training.data import PAIR_KEYS


def test_the_layout_of_a_finished_run(finished_run: Path) -> None:
    present = {path.name for path in finished_run.iterdir()}
    assert present >= {"config.yaml", "manifest.json", "ledger.json", "texts", "ranked", "rejects", "pairs", "lists"}
    assert {path.name for path in (finished_run / "evaluation").iterdir()} >= {"report.html", "report.json"}
    model = {path.name for path in (finished_run / "model").iterdir()}
    assert model >= {"adapter_model.safetensors", "adapter_config.json", "README.md"}
    assert not {name for name in model if name.endswith((".bin", ".pt", ".pkl", ".pickle"))}
    assert pq.read_schema(finished_run / "ranked" / "part-00000.parquet").equals(RANKED)


def test_the_report_holds_what_it_promises(finished_run: Path) -> None:
    report = json.loads((finished_run / "evaluation" / "report.json").read_text())
    jsonschema.validate(report, json.loads((ROOT / "evaluation" / "report_schema.json").read_text()))
    assert {arm["name"] for arm in report["arms"]} == {arm.name for arm in ARMS}
    held_out = pq.read_metadata(finished_run / "texts" / "held_out.parquet").num_rows
    assert {row["text_id"] for row in read_rows(finished_run / "evaluation" / "answers.parquet")} <= {
        row["text_id"] for row in read_rows(finished_run / "texts" / "held_out.parquet")
    }
    assert report["held_out_texts"] == held_out
    for arm in ("base", "tuned"):
        assert 0 <= report["format_rate"][arm]["value"] <= 1
    for kind in ("both_valid", "all_texts"):
        assert report["similarity"][kind]["difference"].keys() == {"value", "low", "high"}


def test_every_candidate_is_there_with_its_log_probability(finished_run: Path) -> None:
    rows = list(read_rows(finished_run / "ranked"))
    assert len(rows) == pq.read_metadata(finished_run / "texts" / "train.parquet").num_rows
    for row in rows:
        assert sorted(c["sample"] for c in row["candidates"]) == [0, 1, 2]
        assert all(c["logprob"] < 0 and c["num_tokens"] <= 24 for c in row["candidates"])
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert len({tuple(c["completion"] for c in row["candidates"]) for row in rows}) > len(rows) / 2


def test_the_first_loss_and_the_curve(finished_run: Path) -> None:
    beta = 1.0  # of configs/demo.yaml
    curve = json.loads((finished_run / "model" / "curve.json").read_text())
    assert curve[0]["loss"] > (1 / (2 * beta)) ** 2  # the likelihood term lies on top
    assert curve[0]["nats_per_token/margin"] == pytest.approx(0, abs=1e-4)  # the references are the engine's own
    assert {entry["nats_per_token/target"] for entry in curve} == {1 / (2 * beta)}


def test_the_same_command_again_is_done_at_once(finished_run: Path) -> None:
    start = time.monotonic()
    again = semtag("run", *tiny_demo(finished_run.parent))
    assert again.returncode == 0
    assert "All is done" in again.stdout
    assert time.monotonic() - start < 10


def test_another_config_is_refused_by_key(finished_run: Path) -> None:
    other = semtag("run", *tiny_demo(finished_run.parent, "sampling.samples=5"))
    assert other.returncode == 2
    assert "sampling.samples: 3 when the rank stage ran, 5 now" in other.stderr


def test_verify_holds_and_finds_what_was_tampered_with(finished_run: Path, tmp_path: Path) -> None:
    assert semtag("verify", str(finished_run)).returncode == 0
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy)
    rows = list(read_rows(copy / "ranked"))
    with RowWriter(copy / "ranked" / "part-00000.parquet", RANKED) as out:
        for row in [*rows[1:], rows[1]]:
            out.write(row)
    pairs = list(read_rows(copy / "pairs"))
    pairs[0] |= {"chosen_sample": pairs[0]["rejected_sample"], "rejected_sample": pairs[0]["chosen_sample"]}
    (file,) = (copy / "pairs").glob("*.parquet")
    with RowWriter(file, PAIR) as out:
        for row in pairs:
            out.write(row)
    (copy / ".lists.partial").mkdir()
    bad = semtag("verify", str(copy))
    assert bad.returncode == 1
    for problem in ("is ranked twice", "neither ranked nor rejected", "left half-written", "pair "):
        assert problem in bad.stdout


def test_verify_leaves_a_run_at_work_alone(finished_run: Path) -> None:
    with RunDir(finished_run).lock():
        busy = semtag("verify", str(finished_run))
    assert busy.returncode == 2
    assert "Another process works on" in busy.stderr


def test_the_report_can_be_written_anew(finished_run: Path) -> None:
    page = finished_run / "evaluation" / "report.html"
    before = page.read_text()
    page.unlink()
    assert semtag("report", str(finished_run)).returncode == 0
    assert page.read_text() == before


def test_a_killed_stage_starts_anew_and_pairs_do_not_depend_on_it(finished_run: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(finished_run, root / "demo")
    manifest = json.loads((root / "demo" / "manifest.json").read_text())
    manifest["stages"]["pairs"]["state"] = "running"  # as a kill leaves it
    for later in ("train", "evaluate"):
        del manifest["stages"][later]
    (root / "demo" / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(root / "demo" / "pairs")
    (root / "demo" / ".pairs.partial").mkdir()
    done = semtag("pairs", *tiny_demo(root))
    assert done.returncode == 0, done.stdout
    assert not (root / "demo" / ".pairs.partial").exists()
    again, before = (
        sorted(read_rows(run / "pairs"), key=lambda row: [row[key] for key in PAIR_KEYS])
        for run in (root / "demo", finished_run)
    )
    assert again == before
