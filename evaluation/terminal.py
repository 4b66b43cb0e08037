"""What a run came to, as text for a terminal."""

import json
from typing import Any

from semtag.cluster.text_table import text_table
from semtag.configs.errors import UserError
from semtag.store.locations import explain_store_errors
from semtag.store.run_dir import RunDir

Report = dict[str, Any]
REPORT_SCHEMA = 8  # the version of evaluation/report_schema.json


def read_report(run: RunDir) -> Report:
    """The run's report.json. Raises UserError where there is none, or one of another version."""
    file = run.layout.report
    with explain_store_errors(run.path):
        if not file.exists():
            raise UserError(f"{run.path} has no evaluation/report.json.", "Do `semtag evaluate` first.")
        report = json.loads(file.read_text(encoding="utf-8"))
    if report.get("schema") != REPORT_SCHEMA:
        raise UserError(
            f"{file} has schema {report.get('schema')}, this Semtag writes {REPORT_SCHEMA}.",
            "Evaluate the run anew, or read it with the Semtag that wrote it.",
        )
    return report


def failed_gates(report: Report) -> list[str]:
    """Names of the gates that the tuned model did not pass."""
    return [gate["name"] for gate in report["gates"] if not gate["passed"]]


def result_table(run: RunDir, report: Report) -> str:
    """Base against tuned, every arm, the gates, and where the run's report is."""
    arms = {arm["name"]: arm for arm in report["arms"]}
    base, tuned = (f"{arms[name]['well_formed']['value']:.1%}" for name in ("base", "tuned"))
    change = arms["tuned"]["against"]["well_formed"]
    rows = [
        ("", "base", "tuned", "difference [95 % interval]"),
        ("well formed", base, tuned, f"{change['difference']['value']:+.1%}, McNemar p {change['p']:.2g}"),
        _similarity_row("similarity, both well formed", report["similarity"]["both_valid"]),
        _similarity_row("similarity, all texts", report["similarity"]["all_texts"]),
    ]
    texts = f"{report['held_out_texts']} held-out texts"
    tables = [*text_table(rows, right=(1, 2)), "", *text_table(_arm_rows(report), right=(1, 2)), ""]
    return "\n".join([*tables, _gates(report), f"{texts}; report: {run.layout.page}"])


def _arm_rows(report: Report) -> list[tuple[str, str, str, str]]:
    rows = [("", "well formed", "similarity", "BM25 finds the text [95 % interval]")]
    for arm in report["arms"]:
        found = arm["measures"]["found_by_words"]
        interval = f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
        similarity = arm["similarity"]["value"]
        rows.append(
            (arm["name"].replace("_", " "), f"{arm['well_formed']['value']:.1%}", f"{similarity:.3f}", interval)
        )
    return rows


def _gates(report: Report) -> str:
    failed = failed_gates(report)
    return f"gates: {', '.join(failed)} FAILED" if failed else f"all {len(report['gates'])} gates passed"


def _similarity_row(label: str, figures: dict[str, Any]) -> tuple[str, str, str, str]:
    difference = figures["difference"]
    if difference["value"] is None:
        return label, "-", "-", f"too few texts ({figures['texts']})"
    interval = f"{difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return label, f"{figures['base']['value']:.3f}", f"{figures['tuned']['value']:.3f}", interval
