"""Several runs side by side: what came of each, and which settings made them differ."""

from pathlib import Path
from typing import Any

from semtag.cluster.text_table import text_table
from semtag.configs.errors import UserError
from semtag.configs.load import flatten, validate
from semtag.evaluation.page import Figures, between, plain, render_page, shown
from semtag.evaluation.terminal import failed_gates, read_report
from semtag.store.locations import write_text
from semtag.store.run_dir import RunDir

MADE = '<meta name="generator" content="semtag report">'  # stands in the head of every page that Semtag makes
HEADINGS = ("run", "texts", "base", "tuned", "similarity, tuned less base", "found by words, tuned less base", "gates")
LONGEST = 60  # characters of a setting's value on a terminal


def compare_runs(runs: list[RunDir], out: Path) -> str:
    """Write the page and return the table for a terminal.

    Raises UserError for a run without a report, for one of another version, and where `out` is no page of ours.
    """
    reports = [read_report(run) for run in runs]
    names = _names(runs, reports)
    rows = [_row(name, report) for name, report in zip(names, reports, strict=True)]
    settings = differing([_shaping(name, report) for name, report in zip(names, reports, strict=True)])
    versions = differing([report["versions"] for report in reports])
    page = render_page("compare_runs.html.j2", "report", rows=rows, settings=settings, versions=versions, names=names)
    _write(out, page)
    return "\n".join(
        [*text_table([HEADINGS, *map(_cells, rows)]), "", *_lines({**settings, **versions}, names), "", f"page: {out}"]
    )


def _names(runs: list[RunDir], reports: list[Figures]) -> list[str]:
    """What the runs are called, or where they lie when two are called the same."""
    names = [str(report["run"]) for report in reports]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _row(name: str, report: Figures) -> Figures:
    arms = {arm["name"]: arm for arm in report["arms"]}
    against = arms["tuned"]["against"]
    return {
        "name": name,
        "texts": report["held_out_texts"],
        "base": arms["base"]["well_formed"],
        "tuned": arms["tuned"]["well_formed"],
        "similarity": against["similarity"],
        "found_by_words": against.get("found_by_words"),
        "gates": len(report["gates"]),
        "failed": failed_gates(report),
    }


def _shaping(name: str, report: Figures) -> dict[str, Any]:
    """The settings of a run that shape what came of it: dotted key -> value."""
    try:
        config = validate(report["config"])
    except UserError as error:
        raise UserError(f"{name}: {error.what}", "Read it with the Semtag that wrote it.") from None
    return {key: value for key, value in flatten(config, shaping_only=True).items() if key != "run.name"}


def differing(values: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The keys whose values are not the same everywhere, each with all its values; None where one lacks it."""
    keys = dict.fromkeys(key for own in values for key in own)
    found = {key: [own.get(key) for own in values] for key in keys}
    return {key: own for key, own in found.items() if any(value != own[0] for value in own)}


def _cells(row: Figures) -> tuple[str, ...]:
    return (
        row["name"],
        f"{row['texts']:,}",
        *(f"{shown(row[arm]['value'], 'percent')} well formed" for arm in ("base", "tuned")),
        *(
            between(row[name]["difference"], "signed") if row[name] else "-"
            for name in ("similarity", "found_by_words")
        ),
        f"failed: {', '.join(row['failed'])}" if row["failed"] else f"all {row['gates']} passed",
    )


def _lines(settings: dict[str, list[Any]], names: list[str]) -> list[str]:
    if not settings:
        return ["All settings that shape a result are the same."]
    lines = ["what differs:"]
    for key, values in settings.items():
        said = (f"{name} {_in_a_line(value)}" for name, value in zip(names, values, strict=True))
        lines.append(f"  {key}: {'; '.join(said)}")
    return lines


def _in_a_line(value: Any) -> str:
    """A setting's value in a line."""
    text = " ".join(plain(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _write(out: Path, page: str) -> None:
    """Write the page over an older one of ours but over no other file."""
    if out.is_file():
        with out.open(encoding="utf-8", errors="replace") as file:
            if MADE not in file.read(2000):
                raise UserError(f"{out} is there already, and Semtag did not make it.", "Give --out another name.")
    write_text(out, page)
