"""Semtag from Python: light to import, and the same runs as by the command line."""

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import semtag
from semtag.configs.errors import UserError
from semtag.configs.load import is_shipped
from semtag.store.layout import Step
from semtag.store.parquet import count_rows
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT, readme_lines

HEAVY = {"torch", "ray", "vllm", "transformers", "trl", "numpy", "pyarrow", "datasets"}


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(semtag).attempted > 0
    assert doctest.testmod(semtag).failed == 0


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, semtag; semtag.load_config('demo'); print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(loaded.split()) & HEAVY


def test_a_shipped_config_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {name for name in ("demo", "zephyr_squad", "cluster_millions", "none") if not is_shipped(name)} == {"none"}
    config = semtag.load_config("demo", run={"name": "mine"}, training={"lora": {"rank": 4}})
    assert Path(config.data.path).read_text().startswith("{")  # type: ignore[arg-type]
    assert (config.run.name, config.training.lora.rank, config.training.lora.alpha) == ("mine", 4, 16)
    (tmp_path / "demo").touch()  # a file of the user's goes before a name of ours
    assert not is_shipped("demo")


def test_an_unknown_key_or_config_is_named() -> None:
    with pytest.raises(UserError, match=r"Did you mean training\.beta\?"):
        semtag.load_config("demo", training={"betta": 1})
    with pytest.raises(UserError, match=r"a config that is shipped: cluster_millions, demo, .*qwen3_8b, zephyr_squad"):
        semtag.load_config("demos")


def test_a_finished_run_is_done_at_once_and_gives_its_pairs(finished_run: Path, capfd: Any) -> None:
    config = str(finished_run / "config.yaml")
    assert semtag.run(config).path == finished_run
    assert "All is done already" in capfd.readouterr().out
    for step, does in ((Step("pairs", 2), semtag.pairs), (Step("train", 2), semtag.train)):
        does(config, round=2)
        assert f"All is done already in {finished_run}: {step.name}." in capfd.readouterr().out
    pairs, layout = semtag.load_pairs(finished_run, round=1), RunDir(finished_run).layout
    assert len(pairs) == count_rows(layout.round(1).pairs) > 0
    assert pairs.column_names == semtag.PAIR_COLUMNS
    assert [message["role"] for message in pairs[0]["chosen"]] == ["assistant"]
    assert {"prompt", "chosen", "rejected"} <= set(semtag.load_pairs(str(finished_run)).column_names)


def test_the_readme_makes_a_run_and_reads_its_pairs(finished_run: Path) -> None:
    """Its line that makes a run has keys that are there; its line that reads pairs reads those of a run."""
    _, lines = readme_lines()
    names: dict[str, Any] = {"semtag": semtag}
    exec(lines["run"].replace("semtag.run(", "semtag.load_config("), names)
    assert (names["run"].run.name, names["run"].data.path) == ("mine", "texts.jsonl")
    names["run"] = finished_run
    exec(lines["pairs"], names)
    assert len(names["pairs"]) > 0


def test_what_is_no_run_has_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run directory"):
        semtag.load_pairs(tmp_path)


def test_trl_takes_the_pairs(finished_run: Path, model_path: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(str(tmp_path), use_cpu=True, max_steps=1, report_to=[], loss_type=["ipo"])
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(model_path),
        args=arguments,
        train_dataset=semtag.load_pairs(finished_run),
        processing_class=AutoTokenizer.from_pretrained(model_path),
    )
    assert trainer.train().global_step == 1


def test_a_step_that_fails_is_an_error_and_says_why(tmp_path: Path, capfd: Any) -> None:
    with pytest.raises(RuntimeError, match="failed with exit status 2"):
        semtag.run("demo", run={"root": str(tmp_path)}, data={"path": str(tmp_path / "none.jsonl")})
    assert "none.jsonl" in capfd.readouterr().out
