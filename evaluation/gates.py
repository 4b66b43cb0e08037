"""Gates: does the tagger tag better, or has it only learnt what raises the similarity that it was trained for?

A gate compares the tagger with the untrained model on all texts. It passes where the whole interval lies on the good
side of the bound, fails where it lies on the bad side, and is undecided else. Whether similarity rose plays no part.
"""

from typing import NamedTuple

from semtag.evaluation.arms import BASE, TUNED
from semtag.evaluation.estimates import difference
from semtag.evaluation.measures import MEASURES
from semtag.evaluation.report.records import Estimate, GateResult, Outcome
from semtag.evaluation.rows import Key, Rows

LEAST_TEXTS = 30  # with fewer no gate is decided


class Gate(NamedTuple):
    """A measure that must be at most, or at least, `factor` times the untrained model's, plus `bound`."""

    name: str
    measure: str
    bound: float
    factor: float = 1.0

    def said(self) -> str:
        """Return what must hold, in words."""
        measure = MEASURES[self.measure]
        change = f"{100 * self.bound:+.0f} points" if measure.kind == "percent" else f"{self.bound:+g}"
        if self.factor != 1:
            change = f"{self.factor:g} times the untrained model's"
        return f"{'at least' if measure.higher_is_better else 'at most'} {change}"


# Margins of non-inferiority for what honest tags have; allowances for what gaming adds. docs/evaluation.md says which
# taggers they were tried on.
GATES = (
    Gate("form", "well_formed", -0.02),
    Gate("coverage", "covered", -0.02),
    Gate("found by words", "found_by_words", -0.03),
    Gate("found by meaning", "found_by_meaning", -0.03),
    Gate("own text", "found_among_like", -0.03),
    Gate("copied runs", "long_runs", 0.15),
    Gate("cut-up text", "adjoining", 0.2),
    Gate("inflected copies", "inflected", 0.15),
    Gate("stuffed answers", "words", 0.0, factor=1.5),
    Gate("same tags", "repeated", 0.05),
)


def gate_results(rows: Rows) -> list[GateResult]:
    """Judge the tagger by every gate, compared with the untrained model."""
    results = []
    for gate in GATES:
        tagger, untrained = (Key(arm, "tags", "tags", "", gate.measure) for arm in (TUNED, BASE))
        found = difference(rows, tagger, untrained, gate.factor)
        results.append(
            GateResult(
                name=gate.name,
                measure=gate.measure,
                bound=gate.said(),
                limit=gate.bound,
                difference=found,
                outcome=_outcome(found, gate.bound, MEASURES[gate.measure].higher_is_better),
            )
        )
    return results


def _outcome(found: Estimate, bound: float, higher_is_better: bool) -> Outcome:
    if found.low is None or found.high is None or found.n < LEAST_TEXTS:
        return "undecided"
    if found.low >= bound if higher_is_better else found.high <= bound:
        return "passed"
    if found.high < bound if higher_is_better else found.low > bound:
        return "failed"
    return "undecided"
