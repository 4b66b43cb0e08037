"""What a report found, in sentences that claim no more than its contrasts and gates do."""

from collections.abc import Sequence
from typing import NamedTuple

from semtag.evaluation.arms import CUT, PEOPLE
from semtag.evaluation.report.page import counted, words
from semtag.evaluation.report.records import Contrast, Finding, Report

# The measures that the questions are answered by, in the order of the page.
ASKED = ("found_by_meaning", "found_by_words", "similarity", "well_formed", "present_f1_at_m", "f1_at_m")
EXTRACTORS = tuple(arm for arm in CUT if arm != PEOPLE)
HEADS = {"better": "better than each by", "worse": "worse than some by", "unclear": "better than each is not shown by"}


class Claim(NamedTuple):
    """What the `arms` contrasts of a measure say together: better only where better than each, worse where than any.

    `decided_by` is the contrast of the largest corrected p; where the tagger is worse, its surest loss.
    """

    measure: str
    finding: Finding
    decided_by: Contrast
    arms: int


def claims(report: Report, family: str, arms: Sequence[str] = ()) -> list[Claim]:
    """Return a claim for each measure of a family of contrasts, against all arms of the family or those named."""
    own: dict[str, list[Contrast]] = {measure: [] for measure in ASKED}
    for one in report.contrasts:
        if one.family == family and one.measure in own and (not arms or one.second in arms):
            own[one.measure].append(one)
    return [_claim(measure, found) for measure, found in own.items() if found]


def _claim(measure: str, contrasts: list[Contrast]) -> Claim:
    def doubt(contrast: Contrast) -> tuple[float, float, float]:
        return contrast.p_holm, contrast.p, -abs(contrast.difference.value or 0.0)

    if losses := [one for one in contrasts if one.finding == "worse"]:
        return Claim(measure, "worse", min(losses, key=doubt), len(contrasts))
    weakest = max([one for one in contrasts if one.finding == "unclear"] or contrasts, key=doubt)
    return Claim(measure, weakest.finding, weakest, len(contrasts))


def findings(report: Report) -> list[str]:
    """Return a sentence for each of the page's three questions, and one on the judge."""
    trained_for = "the very model that the tagger was trained to please; evaluation.second_model names another"
    judge = report.judge
    return [
        _compared("untrained arm", claims(report, "primary")),
        _compared("extractor", claims(report, "equal words", EXTRACTORS)),
        f"Of {len(report.gates)} gates against gaming the score: {counted(report.gates)}.",
        f"Meaning is judged by {judge.model}, {trained_for if judge.trained_for else 'which training never used'}.",
    ]


def _compared(against: str, found: list[Claim]) -> str:
    if not found:
        return f"No {against} was compared."
    parts = []
    for finding, head in HEADS.items():
        if named := [words(one.measure) for one in found if one.finding == finding]:
            parts.append(f"{head} {', '.join(named)}")
    numbers = sorted(one.decided_by.difference.n for one in found)
    texts = " to ".join(f"{number:,}" for number in sorted({numbers[0], numbers[-1]}))
    return (
        f"The tagger against each {against}, {max(one.arms for one in found)} in all: {'; '.join(parts)} (n {texts})."
    )
