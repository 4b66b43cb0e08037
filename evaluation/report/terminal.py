"""What came of a run, as text for a terminal."""

import json

from semtag.cluster.text_table import text_table
from semtag.configs.errors import UserError
from semtag.evaluation.measures import MEASURES
from semtag.evaluation.report.findings import Claim, claims
from semtag.evaluation.report.page import between, change_of, counted, shown, words
from semtag.evaluation.report.records import SCHEMA_VERSION, Report
from semtag.store.locations import explain_store_errors
from semtag.store.run_dir import RunDir

COLUMNS = ("well_formed", "similarity", "found_by_words", "found_by_meaning")


def read_report(run: RunDir) -> Report:
    """Read a run's report.json. Raises UserError where there is none, or one of another version."""
    file = run.layout.report
    with explain_store_errors(run.path):
        if not file.exists():
            raise UserError(f"{run.path} has no evaluation/report.json.", "Do `semtag evaluate` first.")
        report = json.loads(file.read_text(encoding="utf-8"))
    version = report.get("schema_version", report.get("schema"))
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{file} has schema {version}, this Semtag writes {SCHEMA_VERSION}.",
            "Evaluate the run again, or read it with the Semtag that wrote it.",
        )
    return Report.model_validate(report)


def failed_gates(report: Report) -> list[str]:
    """Return the names of the gates that failed; an undecided gate did not."""
    return [gate.name for gate in report.gates if gate.outcome == "failed"]


def result_table(run: RunDir, report: Report) -> str:
    """Return the tagger against all untrained arms, every arm, the gates, and where the run's report is."""
    primary = [("tagger against untrained", "", "decided by", "difference [95 %]", "n", "p (Holm)")]
    arms = [("", "n", *map(words, COLUMNS))]
    for arm in report.arms:
        figures = (between(arm.measures[name], MEASURES[name].kind) for name in COLUMNS)
        arms.append((words(arm.name), f"{arm.measures[COLUMNS[0]].n:,}", *figures))
    return "\n".join(
        [
            *text_table([*primary, *map(_claim_row, claims(report, "primary"))], right=(4, 5)),
            "",
            *text_table(arms, right=(1,)),
            "",
            f"gates: {counted(report.gates)}",
            f"{report.held_out_texts} held-out texts; report: {run.layout.page}",
        ]
    )


def _claim_row(claim: Claim) -> tuple[str, ...]:
    contrast = claim.decided_by
    found = between(contrast.difference, change_of(claim.measure))
    return (
        words(claim.measure),
        {"better": "better than each", "worse": "worse", "unclear": "not shown"}[claim.finding],
        words(contrast.second),
        found,
        f"{contrast.difference.n:,}",
        shown(contrast.p_holm, "p"),
    )
