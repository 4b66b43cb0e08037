"""Several runs side by side: what came of each, how the first differs from the others, and which settings differ."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semtag.cluster.text_table import text_table
from semtag.configs.errors import UserError
from semtag.configs.load import flatten, validate
from semtag.evaluation.arms import BASE, TUNED
from semtag.evaluation.estimates import Planned, contrasts
from semtag.evaluation.gates import LEAST_TEXTS
from semtag.evaluation.report.findings import claims
from semtag.evaluation.report.page import between, change_of, counted, plain, render_page, said, shown, words
from semtag.evaluation.report.records import Contrast, Estimate, Report
from semtag.evaluation.report.terminal import failed_gates, read_report
from semtag.evaluation.rows import Key, Rows, Series, by_key, read_rows_table
from semtag.store.locations import explain_store_errors, write_text
from semtag.store.run_dir import RunDir

MADE = '<meta name="generator" content="semtag report">'  # stands in the head of every page that Semtag makes
LONGEST = 60  # characters of a setting's value on a terminal
MEASURED = ("found_by_meaning", "found_by_words", "similarity", "well_formed", "words")
RANKS = ("found_by_meaning", "found_by_words")  # of a text among all texts of the run
SCORER = ("scoring.model", "scoring.text_prefix", "scoring.tags_prefix")
SECOND = ("evaluation.second_model", "evaluation.second_text_prefix", "evaluation.second_query_prefix")

Settings = Mapping[str, Any]  # dotted key -> value


class Line(NamedTuple):
    """What came of a run. `better` are the measures by which the tagger is better than each untrained arm."""

    name: str
    texts: int
    base: Estimate
    tuned: Estimate
    better: str
    gates: str
    failed: bool


class Versus(NamedTuple):
    """The tagger of the first run against that of another one, on the `texts` held-out texts that both have.

    `left_out` says which measures do not compare, and why.
    """

    other: str
    texts: int
    left_out: dict[str, str]
    contrasts: list[Contrast]


def compare_runs(runs: list[RunDir], out: Path) -> str:
    """Write the page and return the tables for a terminal.

    Raises UserError for a run without a report, for one of another version, for a run that is named twice, and where
    `out` is no page of ours.
    """
    reports = [read_report(run) for run in runs]
    names = _names(runs, reports)
    lines = [_line(name, report) for name, report in zip(names, reports, strict=True)]
    shaping = [_shaping(name, report) for name, report in zip(names, reports, strict=True)]
    settings, versions = differing(shaping), differing([report.versions for report in reports])
    found = versus(names, [_rows(run) for run in runs], shaping, reports[0])
    page = render_page(
        "compare_runs.html.j2", "report", lines=lines, found=found, settings=settings, versions=versions, names=names,
        least=LEAST_TEXTS,
    )  # fmt: skip
    _write(out, page)
    told = [*_told(lines), *(line for one in found for line in _told_versus(names[0], one))]
    return "\n".join([*told, "", *_told_settings({**settings, **versions}, names), "", f"page: {out}"])


def _names(runs: list[RunDir], reports: list[Report]) -> list[str]:
    """Return what the runs are called, or where they lie when two are called the same."""
    paths = [str(run.path) for run in runs]
    if twice := [path for path in dict.fromkeys(paths) if paths.count(path) > 1]:
        raise UserError(f"{twice[0]} is named twice.", "Name each run once.")
    names = [report.run for report in reports]
    return names if len(set(names)) == len(names) else paths


def _line(name: str, report: Report) -> Line:
    formed = {arm.name: arm.measures["well_formed"] for arm in report.arms}
    better = [words(claim.measure) for claim in claims(report, "primary") if claim.finding == "better"]
    gates, failed = counted(report.gates), bool(failed_gates(report))
    return Line(name, report.held_out_texts, formed[BASE], formed[TUNED], ", ".join(better) or "none", gates, failed)


def _rows(run: RunDir) -> Rows:
    with explain_store_errors(run.path):
        if not run.layout.rows.exists():
            raise UserError(f"{run.path} has no evaluation/{run.layout.rows.name}.", "Evaluate the run again.")
        return read_rows_table(run.layout.rows)


def _shaping(name: str, report: Report) -> Settings:
    """Return the settings of a run that shape what came of it."""
    try:
        config = validate(report.config)
    except UserError as error:
        raise UserError(f"{name}: {error.what}", "Read it with the Semtag that wrote it.") from None
    rounds = range(1, config.rounds.count + 1)
    held_out = any(config.of_round(number).training.held_out for number in rounds)
    # Without a held-out loss a checkpoint decides nothing.
    hidden = ("run.name",) if held_out else ("run.name", "training.save_steps")
    return {key: value for key, value in flatten(config, shaping_only=True).items() if key not in hidden}


def differing(values: Sequence[Settings]) -> dict[str, list[Any]]:
    """Return the keys whose values are not the same everywhere, each with all its values; None where one lacks it."""
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys(chain(*values)):
        own = [settings.get(key) for settings in values]
        if own.count(own[0]) < len(own):
            found[key] = own
    return found


def _write(out: Path, page: str) -> None:
    """Write the page over an older one of ours but over no other file."""
    if out.is_file():
        with out.open(encoding="utf-8", errors="replace") as file:
            if MADE not in file.read(2000):
                raise UserError(f"{out} is there already, and Semtag did not make it.", "Give --out another name.")
    write_text(out, page)


# -- from run to run ----------------------------------------------------------------------------------------------


def versus(names: Sequence[str], tables: Sequence[Rows], shaping: Sequence[Settings], report: Report) -> list[Versus]:
    """Compare the tagger of the first run, whose report is given, with that of each other one, text by text.

    The p values are corrected for all these contrasts together.
    """
    config, first = report.config, tables[0]
    parts: list[tuple[str, int, dict[str, str]]] = []
    series: list[Series] = []
    planned: list[Planned] = []
    for name, other, own in zip(names[1:], tables[1:], shaping[1:], strict=True):
        ids_N, left_out = _shared(first, other), _left_out(first, other, shaping[0], own)
        parts.append((name, len(ids_N), left_out))
        kept = [measure for measure in MEASURED if measure not in left_out and len(ids_N) >= LEAST_TEXTS]
        ours = [_of_run(first[_key(measure)], ids_N, names[0], name) for measure in kept]
        theirs = [_of_run(other[_key(measure)], ids_N, name, name) for measure in kept]
        series += [*ours, *theirs]
        planned += [Planned(name, one.key, two.key) for one, two in zip(ours, theirs, strict=True)]
    found = contrasts(by_key(series), planned, config["evaluation"]["resamples"], config["run"]["seed"])
    return [Versus(*part, _of_family(found, part[0])) for part in parts]


def _of_family(found: Sequence[Contrast], family: str) -> list[Contrast]:
    return [one for one in found if one.family == family]


def _key(measure: str) -> Key:
    return Key(TUNED, "tags", "tags", "", measure)


def _shared(first: Rows, other: Rows) -> np.ndarray:
    """Return the ids of the texts that both runs held out, in order; an id is a hash of the text."""
    return np.intersect1d(first[_key("words")].units_N, other[_key("words")].units_N)


def _of_run(series: Series, ids_N: np.ndarray, run: str, other: str) -> Series:
    """Return a series of a run for some of its texts. `other` tells apart what is compared with several runs."""
    order_N = np.argsort(series.units_N)
    places_N = order_N[np.searchsorted(series.units_N, ids_N, sorter=order_N)]
    key = series.key._replace(arm=run, method=other)
    return Series(key, ids_N, series.clusters_N[places_N], series.values_N[places_N])


def _left_out(first: Rows, other: Rows, settings: Settings, others: Settings) -> dict[str, str]:
    """Return why measures of two runs do not compare: measure -> reason."""
    found = {}
    if any(settings[key] != others[key] for key in SCORER):
        found["similarity"] = "the runs score by different models"
    if _judge(settings) != _judge(others):
        found["found_by_meaning"] = "the runs judge by different models"
    if not len(_shared(first, other)) == len(first[_key("words")].units_N) == len(other[_key("words")].units_N):
        found |= dict.fromkeys(RANKS, "the runs rank among different texts")
    return found


def _judge(settings: Settings) -> list[Any]:
    return [settings[key] for key in (SECOND if settings["evaluation.second_model"] else SCORER)]


# -- for a terminal -----------------------------------------------------------------------------------------------


def _told(lines: Sequence[Line]) -> list[str]:
    rows = [("run", "texts", "base well formed", "tuned well formed", "better than each untrained arm by", "gates")]
    for line in lines:
        base, tuned = between(line.base, "percent"), between(line.tuned, "percent")
        rows.append((line.name, f"{line.texts:,}", base, tuned, line.better, line.gates))
    return text_table(rows, right=(1,))


def _told_versus(first: str, found: Versus) -> list[str]:
    head = ["", f"{first} against {found.other}, on {found.texts:,} texts that both held out:"]
    if found.texts < LEAST_TEXTS:
        return [*head, f"  too few texts for a comparison, which needs {LEAST_TEXTS}"]
    rows = [("measure", "first", "difference [95 %]", "n", "p (Holm)")]
    for one in found.contrasts:
        difference, n = between(one.difference, change_of(one.measure)), f"{one.difference.n:,}"
        rows.append((words(one.measure), said(one), difference, n, shown(one.p_holm, "p")))
    left_out = (f"  {words(measure)} is left out: {why}" for measure, why in found.left_out.items())
    return [*head, *text_table(rows, right=(3, 4)), *left_out]


def _told_settings(settings: Mapping[str, list[Any]], names: Sequence[str]) -> Iterator[str]:
    yield "what differs:" if settings else "All settings that shape a result are the same."
    for key, values in settings.items():
        own = (f"{name} {_in_a_line(value)}" for name, value in zip(names, values, strict=True))
        yield f"  {key}: {'; '.join(own)}"


def _in_a_line(value: Any) -> str:
    """Write a setting's value in a line."""
    text = " ".join(plain(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
