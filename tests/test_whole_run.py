"""The whole job for real: vLLM samples, sentence-transformers scores, TRL trains, the report is written."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from semtag.evaluation.arms import arms_of
from semtag.evaluation.evaluate import weights_place
from semtag.evaluation.report.terminal import read_report
from semtag.evaluation.rows import Key, read_rows_table
from semtag.generation.prompts import load_tokenizer
from semtag.scoring.records import RANKED
from semtag.store.layout import Step
from semtag.store.locations import write_json
from semtag.store.parquet import read_rows
from semtag.store.rounds import delivered_round, start_of
from semtag.store.run_dir import RunDir
from semtag.training.tokenized import PAIR_KEYS
from tests.conftest import semtag, tiny_demo
from tests.tampering import problems, rewrite


def test_the_layout_of_a_finished_run(finished_run: Path) -> None:
    layout = RunDir(finished_run).layout
    whole = {"config.yaml", "manifest.json", "ledger.json", "texts", "rejects", "evaluation", "logs"}
    whole |= {".lease", ".lock", "round-0", "round-1", "round-2"}
    assert {path.name for path in finished_run.iterdir()} == whole
    assert {path.name for path in layout.evaluation.iterdir()} >= {
        "report.html",
        "report.json",
        "rows.parquet",
        "answers.parquet",
    }
    for number in (1, 2):
        own = layout.round(number)
        model, merged = ({path.name for path in folder.iterdir()} for folder in (own.adapter, own.merged))
        assert model >= {"adapter_model.safetensors", "adapter_config.json", "curve.json", "README.md"}
        assert merged >= {"model.safetensors", "config.json", "tokenizer.json", "README.md"}
        assert not {name for name in model | merged if name.endswith((".bin", ".pt", ".pkl", ".pickle"))}
        assert pq.read_schema(own.ranked / "part-00000.parquet").equals(RANKED)
        assert not own.training.exists() and not own.sampled.parent.exists()


def test_the_report_holds_what_it_promises(finished_run: Path) -> None:
    run = RunDir(finished_run)
    report = read_report(run)
    delivered = delivered_round(run)
    assert [arm.name for arm in report.arms] == [arm.name for arm in arms_of(run.config(), [3 - delivered])]
    held_out, answered = (
        {row["text_id"] for row in read_rows(file)} for file in (run.layout.held_out, run.layout.answers)
    )
    assert answered == held_out and report.held_out_texts == len(held_out)
    assert [line.round for line in report.rounds] == [1, 2]
    assert all(line.validation and line.validation.texts == 4 for line in report.rounds)
    assert run.ledger().of("evaluate")["texts"].as_json() == {"in": len(held_out), "out": len(held_out), "dropped": {}}


def test_every_figure_has_its_number_of_texts_and_lies_within_its_interval(finished_run: Path) -> None:
    report = read_report(RunDir(finished_run))
    arms = [figure for arm in report.arms for figure in (arm.measures | arm.agreement).values()]
    compared = [one.difference for one in (*report.contrasts, *report.gates)]
    figures = [*arms, *compared, *(figure for use in report.uses for figure in use.measures.values())]
    assert len(figures) > 100 and all(figure.n > 0 for figure in figures)
    for figure in figures:
        assert (figure.low is None) == (figure.high is None)
        if figure.low is not None and figure.high is not None and figure.value is not None:
            assert figure.low <= figure.value <= figure.high


def test_every_figure_comes_from_the_rows(finished_run: Path) -> None:
    run = RunDir(finished_run)
    report, rows = read_report(run), read_rows_table(run.layout.rows)
    for arm in report.arms:
        for name, figure in arm.measures.items():
            series = rows[Key(arm.name, "tags", "tags", "", name)]
            assert figure.value == pytest.approx(float(np.nanmean(series.values_N)))
    for one in report.contrasts:
        first, second = (
            rows[Key(arm, input_, one.task, one.method, one.measure)]
            for arm, input_ in ((one.first, one.first_input), (one.second, one.second_input))
        )
        difference_N = first.values_N - second.values_N  # paired, unit by unit
        assert one.difference.value == pytest.approx(float(np.nanmean(difference_N)))
        assert one.difference.n == int((~np.isnan(difference_N)).sum()) and one.p_holm >= one.p


def test_each_model_of_the_evaluation_lies_where_its_round_left_it(finished_run: Path) -> None:
    run = RunDir(finished_run)
    config, delivered = run.config(), str(run.layout.round(delivered_round(run)).merged)
    expected = {"base": config.model.base, "tuned": delivered, "round_1": str(run.layout.round(1).merged)}
    assert {model: weights_place(run, config, model) for model in expected} == expected


def test_every_candidate_is_there_with_its_log_probability(finished_run: Path) -> None:
    layout, learned = RunDir(finished_run).layout, list[set[int]]()
    for number in (1, 2):
        rows = list(read_rows(layout.round(number).ranked))
        learned.append({row["text_id"] for row in rows})
        assert learned[-1] == {row["text_id"] for row in read_rows(layout.train_texts(number, reuse=False))}
        for row in rows:
            assert sorted(c["sample"] for c in row["candidates"]) == [0, 1, 2]
            assert all(c["logprob"] < 0 and c["num_tokens"] == len(c["token_ids"]) <= 40 for c in row["candidates"])
            assert [message["role"] for message in row["prompt"]] == ["system", "user"]
            # The first round alone is shown examples.
            assert (row["sampled_prompt_ids"] == row["prompt_ids"]) == (number == 2)
            assert len(row["sampled_prompt_ids"]) >= len(row["prompt_ids"])
        assert len({tuple(c["completion"] for c in row["candidates"]) for row in rows}) > len(rows) / 2
        assert sum(c["format"] == "valid" for row in rows for c in row["candidates"]) > len(rows)
    assert not learned[0] & learned[1]


def test_the_first_loss_and_the_curve(finished_run: Path) -> None:
    beta = 1.0  # of configs/demo.yaml
    for number in (1, 2):
        curve = json.loads((RunDir(finished_run).layout.round(number).adapter / "curve.json").read_text())
        assert curve[0]["loss"] > (1 / (2 * beta)) ** 2  # the likelihood term lies on top
        assert curve[0]["nats_per_token/margin"] == pytest.approx(0, abs=1e-4)
        assert {entry["nats_per_token/target"] for entry in curve} == {1 / (2 * beta)}


def test_log_and_manifest_say_how_many_came_from_where(finished_run: Path) -> None:
    run = RunDir(finished_run)
    for number in (1, 2):  # drawn within the grammar, so that none can come from sampling
        counts = run.counts(Step("train", number))
        everything = 2 * counts["pairs"]
        assert counts["references"] == {"from_sampling": 0, "recomputed_for_another_prompt_or_grammar": everything}
        assert f"{everything} recomputed for another prompt or grammar" in run.layout.page.read_text()


def test_a_round_s_merged_model_is_its_start_and_its_adapter_in_one(finished_run: Path) -> None:
    run = RunDir(finished_run)
    config, ids = run.config(), torch.randint(10, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    for number in (1, 2):
        layout, start = run.layout.round(number), start_of(run, config, number)
        plain, merged = (AutoModelForCausalLM.from_pretrained(folder) for folder in (start, layout.merged))
        with torch.no_grad():
            untouched = plain(ids).logits
            adapted = PeftModel.from_pretrained(plain, layout.adapter).eval()(ids).logits
            torch.testing.assert_close(merged(ids).logits, adapted, rtol=0, atol=1e-4)
        assert (untouched - adapted).abs().max() > 1e-3
        templates = {load_tokenizer(folder, config.model).chat_template for folder in (start, layout.merged)}
        assert len(templates) == 1


def test_the_same_command_again_is_done_at_once(finished_run: Path) -> None:
    start = time.monotonic()
    again = semtag("run", *tiny_demo(finished_run.parent))
    assert again.returncode == 0
    assert "All is done already" in again.stdout and "validate-2, evaluate." in again.stdout
    assert "round 2: " in again.stdout and "on 4 validation texts" in again.stdout
    assert time.monotonic() - start < 10


def test_another_config_is_refused_by_key(finished_run: Path) -> None:
    other = semtag("run", *tiny_demo(finished_run.parent, "sampling.samples=5"))
    assert other.returncode == 2
    assert "sampling.samples: 3 when rank-1 ran, 5 now" in other.stderr
    second = semtag("run", *tiny_demo(finished_run.parent, "rounds.each=[{}, {training: {beta: 2}}]"))
    assert second.returncode == 2
    assert "training.beta: 1.0 when train-2 ran, 2.0 now" in second.stderr and "train-1" not in second.stderr


def test_verify_holds_and_finds_what_was_tampered_with(finished_run: Path, copy: RunDir) -> None:
    done = semtag("verify", str(finished_run))
    assert done.returncode == 0, done.stdout
    assert "round 2: every train text exactly once, ranked or rejected" in done.stdout
    rewrite(copy.layout.round(1).ranked, lambda rows: [*rows[1:], rows[1]])
    copy.layout.round(1).lists.with_name(".lists.partial").mkdir()
    bad = semtag("verify", str(copy.path))
    assert bad.returncode == 1
    for problem in ("is ranked twice", "neither ranked nor rejected", "left half-written"):
        assert problem in bad.stdout


def swapped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first = rows[0]
    return [first | {"chosen_sample": first["rejected_sample"], "rejected_sample": first["chosen_sample"]}, *rows[1:]]


def scored_otherwise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    [answer] = rows[0]["candidates"]
    return [rows[0] | {"candidates": [answer | {"format": "valid", "score": 0.75}]}, *rows[1:]]


def test_a_tampered_pair_of_round_two_is_named(copy: RunDir) -> None:
    rewrite(copy.layout.round(2).pairs, swapped)
    [(check, [problem])] = problems(copy).items()
    assert check == "round 2: every pair is a preference, and pairs and lists are those of the ranked texts"
    assert problem.startswith("pair ")
    rewrite(copy.layout.round(2).pairs, lambda rows: rows[1:])
    assert any(
        re.search(r"ledger.json names \d+ pairs of pairs-2 for .*round-2/pairs", one)
        for [one] in problems(copy).values()
    )


@pytest.mark.parametrize("number", [1, 2])
def test_tampered_merged_weights_are_named(number: int, copy: RunDir) -> None:
    folder = copy.layout.round(number).merged
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    [(check, [problem])] = problems(copy).items()
    assert check == f"round {number}: adapter and merged weights are those that training wrote"
    assert problem.startswith(f"the weights in {folder} have the hash ")


def test_tampered_validation_answers_are_named(copy: RunDir) -> None:
    rewrite(copy.layout.round(2).validation, scored_otherwise)
    [(check, said)] = problems(copy).items()
    assert check == "round 2: every validation text has one answer, and the answers give the manifest's figures"
    assert [problem.split(" is ")[0] for problem in said] == ["manifest.json: well_formed", "manifest.json: mean_score"]
    rewrite(copy.layout.round(2).validation, lambda rows: rows[1:])
    assert "does not hold each validation text once" in problems(copy)[check][0]


def test_verify_leaves_a_run_at_work_alone(finished_run: Path) -> None:
    with RunDir(finished_run).lock():
        busy = semtag("verify", str(finished_run))
    assert busy.returncode == 2
    assert "Another process works on" in busy.stderr


def test_the_report_can_be_written_anew(finished_run: Path) -> None:
    page = RunDir(finished_run).layout.page
    before = page.read_text()
    page.unlink()
    assert semtag("report", str(finished_run)).returncode == 0
    assert page.read_text() == before


@pytest.mark.cluster
def test_a_killed_stage_starts_anew_and_pairs_do_not_depend_on_it(
    finished_run: Path, copy: RunDir, tmp_path: Path
) -> None:
    manifest, layout = copy.manifest().as_json(), copy.layout.round(2)
    manifest["steps"]["pairs-2"]["state"] = "running"  # as a kill leaves it
    for later in ("train-2", "validate-2", "evaluate"):
        del manifest["steps"][later]
    write_json(copy.layout.manifest, manifest)
    shutil.rmtree(layout.pairs)
    partial = layout.pairs.with_name(".pairs.partial")
    partial.mkdir()
    done = semtag("pairs", *tiny_demo(tmp_path, "run.name=copy"), "--round", "2")
    assert done.returncode == 0, done.stdout
    assert not partial.exists()
    again, before = (
        sorted(read_rows(run.layout.round(2).pairs), key=lambda row: [row[key] for key in PAIR_KEYS])
        for run in (copy, RunDir(finished_run))
    )
    assert again == before
