"""Several runs on one page, and a page written again."""

import re
from pathlib import Path
from typing import Any

import pytest

from semtag.configs.errors import UserError
from semtag.evaluation.report.compare_runs import compare_runs, differing
from semtag.evaluation.report.html import rewrite
from semtag.evaluation.report.records import Report
from semtag.evaluation.report.terminal import read_report
from semtag.store.run_dir import RunDir
from tests.report_fixture import ATTACK, run_of, some_report


def changed(report: Report, **sections: dict[str, Any]) -> Report:
    """The report of a run called `other`, with other settings."""
    config = report.config | {name: report.config[name] | keys for name, keys in sections.items()}
    return report.model_copy(update={"run": "other", "config": config})


def compared(runs: list[RunDir], out: Path) -> list[str]:
    return [" ".join(line.split()) for line in compare_runs(runs, out).splitlines()]


@pytest.fixture(scope="module")
def report() -> Report:
    return some_report()


def test_a_page_written_again_leaves_the_rest_of_the_evaluation(report: Report, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", report)
    before = run.layout.rows.read_bytes()
    assert rewrite(run) == str(tmp_path / "run" / "evaluation" / "report.html")
    assert "<h1" in (tmp_path / "run" / "evaluation" / "report.html").read_text()
    assert run.layout.rows.read_bytes() == before
    assert read_report(run) == report


def test_runs_are_compared_text_by_text(report: Report, tmp_path: Path) -> None:
    # Each text is found better by 0.25 in the first run, and both say as much and in as good a form.
    runs = [run_of(tmp_path / "first", report, better=0.25), run_of(tmp_path / "second", changed(report))]
    lines = compared(runs, tmp_path / "out.html")
    assert f"demo {ATTACK} against other, on 60 texts that both held out:" in lines
    assert "similarity better +0.250 [+0.250, +0.250] 60 < 0.001" in lines
    for measure in ("found by meaning", "found by words"):  # the sign test's p of 60 of 60 is 2 / 2^60
        assert any(re.fullmatch(rf"{measure} better \+0.250 \[.*\] 60 < 0.001", line) for line in lines)
    assert "well formed not clear +0.0 [+0.0, +0.0] points 60 1.000" in lines
    assert "words not clear +0.00 [+0.00, +0.00] 60 1.000" in lines
    page = (tmp_path / "out.html").read_text()
    assert ATTACK not in page and "60 shared texts" in page


def test_only_what_compares_is_compared(report: Report, tmp_path: Path) -> None:
    other = changed(report, evaluation={"second_model": None}, scoring={"text_prefix": "passage: "})
    first = run_of(tmp_path / "first", report)
    fewer = run_of(tmp_path / "fewer", other, texts=range(25, 60))
    lines = compared([first, fewer], tmp_path / "out.html")
    assert f"demo {ATTACK} against other, on 35 texts that both held out:" in lines
    assert [line.split()[0] for line in lines if line.endswith(" 35 1.000")] == ["well", "words"]
    assert "found by words is left out: the runs rank among different texts" in lines
    assert "similarity is left out: the runs score by different models" in lines
    few = run_of(tmp_path / "few", other, texts=range(40, 100))
    assert "too few texts for a comparison, which needs 30" in compared([first, few], tmp_path / "out.html")


@pytest.mark.parametrize("held_out", [0.0, 0.1])
def test_checkpoints_shape_a_result_where_texts_are_held_out(report: Report, tmp_path: Path, held_out: float) -> None:
    often, seldom = (changed(report, training={"held_out": held_out, "save_steps": steps}) for steps in (10, 50))
    said = compare_runs([run_of(tmp_path / "often", often), run_of(tmp_path / "seldom", seldom)], tmp_path / "out.html")
    assert ("training.save_steps: " in said) == bool(held_out)


def test_what_differs_is_listed(report: Report, tmp_path: Path) -> None:
    second = changed(report, training={"beta": 0.25}, cluster={"address": "10.0.0.1:6379"})  # shapes no result
    second = second.model_copy(update={"versions": {"ray": "2"}, "gates": second.gates[:1]})
    out, first = tmp_path / "out.html", run_of(tmp_path / "first", report)
    said = compare_runs([first, run_of(tmp_path / "second", second)], out)
    assert f"1 passed, 1 failed (found {ATTACK}), 1 undecided" in said.splitlines()[2]
    assert said.splitlines()[3].endswith("found by meaning, well formed      1 passed, 0 failed, 0 undecided")
    assert "; other 0.25" in said and "ray: " in said and "address" not in said
    assert "training.beta" in out.read_text()
    compare_runs([first, run_of(tmp_path / "same", report)], out)  # again, over our own page
    assert str(tmp_path / "first") in out.read_text()
    assert "All settings that shape a result are the same." in out.read_text()


def test_what_cannot_be_compared_is_refused(report: Report, tmp_path: Path) -> None:
    run, other = run_of(tmp_path / "run", report), run_of(tmp_path / "other", changed(report))
    with pytest.raises(UserError, match="is named twice"):
        compare_runs([run, run], tmp_path / "out.html")
    out = tmp_path / "thesis.html"
    out.write_text("years of work")
    with pytest.raises(UserError, match="is there already"):
        compare_runs([run, other], out)
    assert out.read_text() == "years of work"
    with pytest.raises(UserError, match="Cannot write to"):
        compare_runs([run, other], tmp_path / "nowhere" / "out.html")
    other.layout.rows.unlink()
    with pytest.raises(UserError, match=r"other has no evaluation/rows\.parquet"):
        compare_runs([run, other], tmp_path / "out.html")


def test_a_report_of_another_version_is_refused(report: Report, tmp_path: Path) -> None:
    run = run_of(tmp_path / "old", report)
    for old, found in (('{"schema": 4}', "4"), ('{"schema_version": 10}', "10")):
        run.layout.report.write_text(old)
        with pytest.raises(UserError, match=rf"old.*has schema {found}, this Semtag writes 9"):
            rewrite(run)
    with pytest.raises(UserError, match=r"no evaluation/report\.json"):
        rewrite(RunDir(tmp_path / "none"))


def test_what_differs() -> None:
    assert differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}]) == {"b": [2, 3], "c": [None, 4]}
