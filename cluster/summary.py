"""What a run came to, as text for a terminal."""

import json
from typing import Any

from cluster.run_dir import RunDir

Report = dict[str, Any]


def read_report(run: RunDir) -> Report:
    """report.json of a run."""
    return json.loads(run.layout.report.read_text(encoding="utf-8"))


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
    return f"{_align(rows)}\n\n{_align(_arm_rows(report))}\n\n  {_gates(report)}\n{texts}; report: {run.layout.page}"


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


def _align(rows: list[tuple[str, str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:<{widths[3]}}".rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  " + "─" * (sum(widths) + 6), *lines[1:]])
