"""report.json -> report.html, one self-contained page. All model output is escaped."""

import json
import shutil
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from semtag.evaluation.arms import BASE, PEOPLE, TUNED
from semtag.evaluation.judging.outcomes import Judgement, finding, standing
from semtag.evaluation.measures import MEASURES
from semtag.evaluation.report import svg
from semtag.evaluation.report.findings import EXTRACTORS, Claim, claims, findings
from semtag.evaluation.report.page import axis, for_script, render_page, words
from semtag.evaluation.report.records import Example, GateResult, Report, ShownAnswer
from semtag.evaluation.report.terminal import read_report
from semtag.store.locations import explain_store_errors, local_folder, uri
from semtag.store.run_dir import RunDir

CLASSES = 20  # named on the page
BINS = 36


class Question(NamedTuple):
    """A question, or a part of one, with the claims that answer it. `id` names its table."""

    id: str
    head: str
    lead: str
    claims: list[Claim]


class Figures(NamedTuple):
    """The page's figures; None where training logged no such thing."""

    similarities: Markup
    margins: Markup
    loss: Markup | None
    nats: Markup | None


def rewrite(run: RunDir) -> str:
    """Write the page again with the judgements, beside what else the evaluation left; return where the page is."""
    with explain_store_errors(run.path):
        report, before = read_report(run), run.layout.evaluation
        with run.replace_folder(before) as folder:
            shutil.copytree(local_folder(uri(before)), folder, dirs_exist_ok=True)
            (folder / run.layout.page.name).write_text(render(report, standing(run)), encoding="utf-8")
    return str(run.layout.page)


def render(report: Report, judged: Sequence[Judgement] = ()) -> str:
    """Return the page. `judged` is what people and models preferred."""
    arms = {arm.name: arm for arm in report.arms}
    return render_page(
        "report.html.j2",
        "report",
        report=report,
        arms=arms,
        pair=[arms[BASE], arms[TUNED]],
        findings=findings(report),
        questions=_questions(report),
        people=claims(report, "equal words", [PEOPLE]),
        judged=[(one, finding(one)) for one in judged],
        axes=_axes(report.gates),
        examples=[_sides(example) for example in report.examples],
        reading=_reading,
        classes=CLASSES,
        figures=_figures(report),
        rows_data=for_script([[row.text, row.base, row.tuned] for row in report.rows]),
        map_data=for_script(report.topics.map.model_dump()) if report.topics and report.topics.map else "",
        config=json.dumps(report.config, indent=1, ensure_ascii=False),
    )


def _questions(report: Report) -> list[Question]:
    """Return the questions that contrasts answer. The best of many samples costs more than one, so it stands alone."""
    costs = {arm.name: arm.cost for arm in report.arms}
    asked = [
        Question(
            "training",
            "Is it better than not training?",
            "The tagger as delivered against each way to ask the untrained model for one answer.",
            claims(report, "primary"),
        ),
        Question(
            "best-of-many",
            "And than the best of many answers without training?",
            f"The untrained model writes {costs.get('base_best')} answers a text, of which the scoring model picks the "
            f"best; the tagger writes {costs[TUNED]}.",
            claims(report, "best of many"),
        ),
        Question(
            "other-runs",
            "And than the taggers of other runs?",
            "The taggers that evaluation.taggers names, asked in the same way.",
            claims(report, "other runs"),
        ),
        Question(
            "extractors",
            "Is it better than an extractor?",
            "Extractors need no language model. Their lists are cut to the tagger's number of words, text by text; "
            "agreement with people is of whole lists.",
            claims(report, "equal words", EXTRACTORS),
        ),
    ]
    return [one for one in asked if one.claims]


def _axes(gates: Sequence[GateResult]) -> dict[str, tuple[float, float]]:
    """Return the ends of each gate's axis: one for all shares and ranks, one for numbers of words."""
    kinds = {gate.name: MEASURES[gate.measure].kind == "number" for gate in gates}
    ends = {}
    for kind in (False, True):
        own = [gate for gate in gates if kinds[gate.name] is kind]
        found = [(gate.limit, gate.difference.low, gate.difference.value, gate.difference.high) for gate in own]
        ends[kind] = axis(end for four in found for end in four)
    return {name: ends[kind] for name, kind in kinds.items()}


def _reading(arm: str, read: str) -> str:
    """Return what a task read, in words. Example: arm `tuned` and `both` become `text and tags of tuned`."""
    return {"text": "text alone", "tags": f"tags of {words(arm)} alone", "both": f"text and tags of {words(arm)}"}[read]


def _sides(example: Example) -> list[tuple[ShownAnswer, set[str]]]:
    """Return the answers of an example, those of base and tuned first, each with the tags of the answer beside it.

    All answers but tuned's stand beside tuned's. Tags beside are case-folded.
    """
    base, tuned, *others = example.answers
    of_base, of_tuned = ({*map(str.casefold, answer.tags)} for answer in (base, tuned))
    return [(base, of_tuned), (tuned, of_base), *((answer, of_tuned) for answer in others)]


# -- figures ------------------------------------------------------------------------------------------------------


def _figures(report: Report) -> Figures:
    loss, parts = _logged(report, "loss"), ("chosen", "rejected", "margin")
    nats = {part: _logged(report, f"nats_per_token/{part}") for part in parts}
    moved = "; ".join(f"{part} {_course(values)}" for part, values in nats.items())
    return Figures(
        _similarities(report),
        _margins(report),
        svg.curves({"tuned": loss}, "loss", f"Loss {_course(loss)}") if any(loss) else None,
        svg.curves(nats, "nats per token", f"Nats per token: {moved}") if any(map(any, nats.values())) else None,
    )


def _logged(report: Report, name: str) -> list[float | None]:
    return [entry.get(name) for entry in report.curve]


def _course(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None] or [0.0]
    return f"from {known[0]:.3g} to {known[-1]:.3g} in {len(values)} steps"


def _similarities(report: Report) -> Markup:
    own = report.similarities
    every = [0.0, 0.1, *own[BASE], *own[TUNED]]
    edges = np.linspace(min(every), max(every), BINS + 1)
    counts = {arm: np.histogram(values, edges)[0].tolist() for arm, values in own.items()}
    quarters = {arm: np.quantile(values or [0.0], (0.25, 0.5, 0.75)) for arm, values in own.items()}
    said = "; ".join(f"{arm} {low:.3f}, {middle:.3f}, {high:.3f}" for arm, (low, middle, high) in quarters.items())
    label = f"Similarity of tags and text, quartiles of {report.held_out_texts} texts: {said}"
    return svg.histogram(edges.tolist(), counts, "similarity of tags and text", "texts", label)


def _margins(report: Report) -> Markup:
    margins = report.margins
    label = f"Score gaps of {sum(margins.counts)} pairs, from {margins.edges[0]:.3g} to {margins.edges[-1]:.3g}"
    return svg.histogram(margins.edges, {TUNED: margins.counts}, "score gap of chosen and rejected", "pairs", label)
