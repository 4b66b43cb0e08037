"""Outcomes of blind comparisons: counted, tested, compared from judge to judge, and kept in judgement/ of the run.

Suffixes of array names: N items, J judges.
"""

import contextlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import krippendorff
import numpy as np
from pydantic import Field, ValidationError
from scipy.stats import bootstrap

from semtag.cluster.text_table import text_table
from semtag.configs.errors import UserError
from semtag.evaluation.estimates import SURE
from semtag.evaluation.judging.selection import Outcome, select
from semtag.evaluation.report.page import between, shown
from semtag.evaluation.report.records import Estimate, Record
from semtag.evaluation.statistics import LEAST_CLUSTERS, mean_interval, sign_test
from semtag.store.locations import Place, make_folder, place_at
from semtag.store.run_dir import RunDir

ORDER: tuple[Outcome, ...] = ("first", "tie", "second")
VALUE = {outcome: place / 2 for place, outcome in enumerate(ORDER)}  # of an item for the second arm
RESAMPLES = 2000  # of the items, for an interval of agreement

Outcomes = Mapping[str, Outcome]  # item -> the arm that was preferred


class Verdict(Record):
    """What one judge chose, counted for the second arm."""

    judge: str = Field(description="The judge's name, or the path or hub name of a model.")
    kind: Literal["person", "majority", "model"]
    outcomes: dict[str, Outcome] = Field(description="Item -> the arm that was preferred.")
    wins: int
    losses: int
    ties: int
    win_rate: Estimate = Field(description="(wins + ties / 2) / items judged.")
    p: float = Field(description="Two-sided p of the exact sign test of wins and losses.")
    by_position: int | None = Field(None, description="Items on which a model's choice changed with the order.")
    repeated: int = Field(0, description="Items that the judge judged twice.")
    repeated_same: int = Field(0, description="Those of them with the same outcome.")


class Agreement(Record):
    """How far two judges agree on the items that both judged."""

    one: str
    other: str
    items: int
    same: int
    kappa: Estimate = Field(description="Cohen's kappa with quadratic weights; null where neither ever varies.")


class Judgement(Record):
    """A blind comparison of two arms, with the verdicts of its judges. The last verdict is the one to cite."""

    page: str = Field(description="Id of the items.")
    first: str = Field(description="An arm.")
    second: str = Field(description="The arm whose wins are counted.")
    items: int
    verdicts: list[Verdict]
    agreements: list[Agreement] = Field([], description="Of pairs of judges.")
    alpha: Estimate | None = Field(None, description="Krippendorff's ordinal alpha of two or more people.")
    notes: list[str] = Field(description="What to know beside the figures.")


def verdict_of(judge: str, kind: str, outcomes: Outcomes, **more: Any) -> Verdict:
    """Count outcomes; `more` are the verdict's other fields. Below 20 items the win rate has no interval."""
    counts = Counter(outcomes.values())
    values_N = _values(outcomes, list(outcomes))
    interval = mean_interval(values_N, np.arange(len(values_N))).if_enough(len(values_N))
    return Verdict(
        judge=judge,
        kind=kind,
        outcomes=dict(outcomes),
        wins=counts["second"],
        losses=counts["first"],
        ties=counts["tie"],
        win_rate=Estimate(**interval._asdict(), n=len(values_N)),
        p=sign_test(counts["second"], counts["first"]),
        **more,
    )


def majority_of(verdicts: Sequence[Verdict]) -> Verdict:
    """Give each item to the arm that more judges chose than chose the other; a tie where they are as many."""
    items = list(dict.fromkeys(item for verdict in verdicts for item in verdict.outcomes))
    values_J_N = np.array([_values(verdict.outcomes, items) for verdict in verdicts])
    signs_N = np.sign(np.nansum(values_J_N - VALUE["tie"], axis=0)).astype(int)
    return verdict_of(
        "most people", "majority", {item: ORDER[1 + sign] for item, sign in zip(items, signs_N, strict=True)}
    )


def _values(outcomes: Outcomes, items: Sequence[str]) -> np.ndarray:
    """Return the values of the items for the second arm, shape [N]; NaN where the judge did not judge an item."""
    return np.array([VALUE[outcomes[item]] if item in outcomes else np.nan for item in items])


# -- agreement ----------------------------------------------------------------------------------------------------


def agreement(one: Verdict, other: Verdict) -> Agreement:
    """Compare two verdicts on the items that both judged."""
    both = sorted(one.outcomes.keys() & other.outcomes.keys())
    same = sum(one.outcomes[item] == other.outcomes[item] for item in both)
    values_J_N = np.array([_values(verdict.outcomes, both) for verdict in (one, other)])
    kappa = _with_interval(weighted_kappa, values_J_N, vectorized=True)
    return Agreement(one=one.judge, other=other.judge, items=len(both), same=same, kappa=kappa)


def weighted_kappa(one_N: np.ndarray, other_N: np.ndarray, axis: int = -1) -> np.ndarray:
    """Compute Cohen's kappa with quadratic weights from moments (Fleiss and Cohen 1973, Educ Psychol Meas 33:613).

    scikit-learn's function gives the same, but takes minutes for a bootstrap.
    """
    apart = ((one_N - other_N) ** 2).mean(axis)
    means_apart = one_N.mean(axis) - other_N.mean(axis)
    return 1 - apart / (one_N.var(axis) + other_N.var(axis) + means_apart**2)


def alpha_of(verdicts: Sequence[Verdict]) -> Estimate:
    """Estimate Krippendorff's ordinal alpha of at least two judges over the items that two of them judged."""
    times = Counter(item for verdict in verdicts for item in verdict.outcomes)
    items = sorted(item for item, count in times.items() if count > 1)
    alpha = partial(krippendorff.alpha, value_domain=[*VALUE.values()], level_of_measurement="ordinal")
    values_J_N = np.array([_values(verdict.outcomes, items) for verdict in verdicts])
    return _with_interval(lambda *rated_J_N: alpha(np.array(rated_J_N)), values_J_N)


def _with_interval(statistic: Callable[..., Any], values_J_N: np.ndarray, vectorized: bool = False) -> Estimate:
    """Estimate a statistic of J judges, with a bootstrap interval over items (BCa; Efron 1987, JASA 82:171).

    There is no interval below 20 items, and where a resample without variation leaves the statistic undefined.
    """
    count, found = values_J_N.shape[1], [math.nan] * 3
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # 0 / 0 is such a value, and scipy says where there is no interval
        if count:
            found[0] = float(statistic(*values_J_N))
        if count >= LEAST_CLUSTERS:
            found[1:] = bootstrap(
                tuple(values_J_N), statistic, paired=True, vectorized=vectorized, n_resamples=RESAMPLES, method="BCa",
                rng=np.random.default_rng(0),
            ).confidence_interval  # fmt: skip
    value, low, high = (float(one) if math.isfinite(one) else None for one in found)
    return Estimate(value=value, low=low, high=high, n=count)


# -- for a terminal -----------------------------------------------------------------------------------------------


def judgement_text(judgement: Judgement) -> str:
    """Format a judgement: a column a judge, the finding, the agreements and the notes."""
    cells: dict[str, Callable[[Verdict], str]] = {
        "": lambda one: one.judge,
        "texts judged": lambda one: str(len(one.outcomes)),
        f"{judgement.second} better": lambda one: str(one.wins),
        f"{judgement.first} better": lambda one: str(one.losses),
        "equally good": lambda one: str(one.ties),
        f"win rate of {judgement.second}, ties as half": lambda one: between(one.win_rate, "percent"),
        "  p of the sign test": lambda one: shown(one.p, "p"),
        "same choice on repeated texts": lambda one: f"{one.repeated_same} of {one.repeated}" if one.repeated else "",
    }
    rows = [[label, *map(cell, judgement.verdicts)] for label, cell in cells.items()]
    lines = ["", *text_table(rows, right=range(1, len(rows[0]))), "", finding(judgement)]
    for one in judgement.agreements:
        kappa = between(one.kappa, "number")
        lines.append(
            f"{one.one} and {one.other} judge {one.same} of {one.items} texts the same, weighted kappa {kappa}."
        )
    if judgement.alpha:
        lines.append(f"Krippendorff's alpha of all people is {between(judgement.alpha, 'number')}.")
    return "\n".join([*lines, *(f"Note: {note}" for note in judgement.notes)])


def finding(judgement: Judgement) -> str:
    """Say what was found, and claim no more than the sign test does."""
    first, second, verdict = judgement.first, judgement.second, judgement.verdicts[-1]
    judged, p = len(verdict.outcomes), shown(verdict.p, "p")
    test = f"sign test of {verdict.wins} wins and {verdict.losses} losses, p {p if p.startswith('<') else f'= {p}'}"
    better, worse = (second, first) if verdict.wins >= verdict.losses else (first, second)
    if not verdict.wins + verdict.losses:
        said = f"No text was decided for {first} or {second}."
    elif verdict.p >= SURE:
        said = f"Chance may explain what difference there is between {first} and {second} ({test})."
    else:
        said = f"{better} is judged better than {worse} more often than chance would have it ({test})."
    if verdict.by_position is None:
        return said
    return f"{said} {verdict.by_position} of {judged} texts were decided by position, and count as ties."


# -- files --------------------------------------------------------------------------------------------------------


def new_file(run: RunDir, out: str | None, name: str, replaced: bool = False) -> Place:
    """Return where to write: `out`, or `name` in judgement/ of the run. Makes the folder.

    Raises UserError where something is there already that may not be `replaced`, and where there can be no folder.
    """
    file = place_at(out) if out else run.layout.judgement / name
    if file.exists() and not replaced:
        raise UserError(f"{file} is there already.", "Remove it or name another with --out; nothing is overwritten.")
    if isinstance(file, Path):
        make_folder(file.parent)
    return file


def judgements(run: RunDir) -> list[Judgement]:
    """Read the judgements in judgement/ of the run, by name. Other files there, such as saved results, are left out."""
    found = []
    files: list[Place] = list(run.layout.judgement.glob("*.json"))
    for file in sorted(files, key=str):
        with contextlib.suppress(ValidationError):
            found.append(Judgement.model_validate_json(file.read_bytes()))
    return found


def standing(run: RunDir) -> list[Judgement]:
    """Read the judgements whose items are those of the run's last evaluation."""
    found = []
    for one in judgements(run):
        with contextlib.suppress(UserError):  # an arm that was judged is no longer there
            if select(run, one.first, one.second, one.items).page == one.page:
                found.append(one)
    return found
