"""Candidates from a file: their shapes, and an older run ranked anew."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.parquet import read_rows
from cluster.run_dir import RunDir
from configs.load import load_config
from configs.schema import Config
from generation.replay import read_candidates
from tests.conftest import ROOT, TINY, semtag, tiny_demo


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(ROOT / "configs" / "demo.yaml", TINY)


def test_strings_and_objects_become_candidates(config: Config) -> None:
    rows = read_candidates(["[a][b]", "Sure! [a]"], config)
    assert [(row["sample"], row["format"], row["answer"]) for row in rows] == [
        (0, "valid", "[a][b]"),
        (1, "repaired", "[a]"),
    ]
    late, early = {"completion": "[b", "sample": 1, "finish_reason": "length"}, {"completion": "[a]", "logprob": -1.5}
    first, second = read_candidates([late, early], config)
    assert (first["completion"], first["logprob"], first["num_tokens"]) == ("[a]", -1.5, None)
    assert (second["completion"], second["reason"]) == ("[b", "truncated")


@pytest.mark.parametrize("given", [None, [], "[a]", [3], [{"text": "[a]"}], [{"completion": "[a]", "logprob": "x"}]])
def test_what_is_no_list_of_completions_is_refused(given: Any, config: Config) -> None:
    with pytest.raises(ValueError, match="column 'completions'"):
        read_candidates(given, config)


def test_an_older_run_is_ranked_anew_without_an_engine(finished_run: Path, tmp_path: Path) -> None:
    replay = [
        f"data.path={RunDir(finished_run).layout.round(1).ranked}",
        "data.format=parquet",
        "data.held_out=0",
        "rounds.count=1",
        "rounds.validation=0",
        "sampling.engine=replay",
        "sampling.candidates=candidates",
    ]
    done = semtag("rank", *tiny_demo(tmp_path, *replay))
    assert done.returncode == 0, done.stdout + done.stderr
    layout = RunDir(tmp_path / "demo").layout.round(1)
    old = {row["text_id"]: row["candidates"] for row in read_rows(RunDir(finished_run).layout.round(1).ranked)}
    new = {row["text_id"]: row["candidates"] for row in read_rows(layout.ranked)}
    assert new == old
    done = semtag("pairs", *tiny_demo(tmp_path, *replay, "pairs.strategy=margin_bins", "pairs.margin_bin=0.05"))
    assert done.returncode == 0, done.stdout + done.stderr
    margins = [row["margin"] for row in read_rows(layout.pairs) if row["kind"] == "similarity"]
    bins = Counter(int(margin / 0.05) for margin in margins)
    assert len(bins) > 1 and bins.total() <= max(len(new), len(bins))
    assert semtag("verify", str(tmp_path / "demo")).returncode == 0
