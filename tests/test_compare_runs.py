"""Several runs on one page, and a page written anew."""

import json
from pathlib import Path
from typing import Any

import pytest

from semtag.configs.errors import UserError
from semtag.evaluation.compare_runs import compare_runs, differing
from semtag.evaluation.report import rewrite
from semtag.evaluation.terminal import read_report
from semtag.store.run_dir import RunDir
from tests.report_fixture import ATTACK, some_report
from tests.test_report import run_of


@pytest.fixture
def report() -> dict[str, Any]:
    return json.loads(json.dumps(some_report()))


def test_a_page_written_anew_leaves_the_rest_of_the_evaluation(report: dict[str, Any], tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", report)
    assert rewrite(run) == str(tmp_path / "run" / "evaluation" / "report.html")
    assert (tmp_path / "run" / "evaluation" / "answers.parquet").read_bytes() == b"kept"
    assert read_report(run) == report


def test_runs_are_compared(report: dict[str, Any], tmp_path: Path) -> None:
    first, second = run_of(tmp_path / "first", report), json.loads(json.dumps(report))
    second["run"] = "other"
    second["config"]["training"]["beta"] = 0.25
    second["config"]["cluster"]["address"] = "10.0.0.1:6379"  # shapes no result
    second["gates"][0]["passed"] = False
    second["versions"] = {"ray": "2"}
    out = tmp_path / "out.html"
    said = compare_runs([first, run_of(tmp_path / "second", second)], out)
    lines = said.splitlines()
    assert f"demo {ATTACK}" in lines[2]
    assert "failed: " in lines[3]
    assert "training.beta: " in said
    assert "; other 0.25" in said
    assert "ray: " in said
    assert "address" not in said
    assert "+0.200 [+0.150, +0.250]" in lines[2]
    page = out.read_text()
    assert ATTACK not in page
    assert "training.beta" in page
    assert "&lt;script&gt;" in page
    compare_runs([first, first], out)  # again, over our own page
    assert str(tmp_path / "first") in out.read_text()
    assert "All settings that shape a result are the same." in out.read_text()


def test_a_comparison_goes_over_no_other_file(report: dict[str, Any], tmp_path: Path) -> None:
    run, out = run_of(tmp_path / "run", report), tmp_path / "thesis.html"
    out.write_text("years of work")
    with pytest.raises(UserError, match="is there already"):
        compare_runs([run, run], out)
    assert out.read_text() == "years of work"
    with pytest.raises(UserError, match="Cannot write to"):
        compare_runs([run, run], tmp_path / "nowhere" / "out.html")


def test_a_report_of_another_version_is_refused(report: dict[str, Any], tmp_path: Path) -> None:
    new, old = run_of(tmp_path / "new", report), run_of(tmp_path / "old", report | {"schema": 4})
    with pytest.raises(UserError, match=r"old.*has schema 4, this Semtag writes 8"):
        compare_runs([new, old], tmp_path / "out.html")
    with pytest.raises(UserError, match="has schema 4"):
        rewrite(old)
    with pytest.raises(UserError, match=r"no evaluation/report\.json"):
        rewrite(RunDir(tmp_path / "none"))


def test_what_differs() -> None:
    assert differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}]) == {"b": [2, 3], "c": [None, 4]}
