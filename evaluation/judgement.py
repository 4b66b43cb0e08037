"""What people chose on the page of `semtag judge`: unblinded, counted, tested, and compared from judge to judge."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from semtag.cluster.text_table import text_table
from semtag.configs.errors import UserError
from semtag.evaluation.judge import Outcome, Selection, select
from semtag.evaluation.page import SURE, Figures, between, shown
from semtag.evaluation.statistics import sign_test, wilson
from semtag.generation.texts import normalise
from semtag.store.locations import write_json
from semtag.store.run_dir import RunDir

OUTCOMES: tuple[Outcome, ...] = ("first", "second", "tie")


class Choice(BaseModel):
    """A person's choice on one item, and the seconds it took."""

    item: str
    choice: Literal["left", "right", "tie"]
    seconds: float = Field(0.0, ge=0)


class Results(BaseModel):
    """The file that the page saves."""

    page: str = Field(pattern="^[0-9]+-[0-9a-f]{16}$")
    judge: str = ""
    choices: list[Choice]


def read_results(file: Path) -> Results:
    """Raises UserError for what is not such a file."""
    try:
        return Results.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise UserError(f"{file} holds no results: {why}.", "Give a file that the page's Save button made.") from None


def check_belongs(results: Results, file: Path, selection: Selection) -> None:
    """Raises UserError for results of another page, and for choices that no page makes."""
    if results.page != selection.page:
        raise UserError(
            f"{file} is of another page, {results.page}; {selection.first} against {selection.second} in this run is "
            f"{selection.page}.",
            "Name the run and, with --first and --second, the arms that the page was made of.",
        )
    times = Counter(choice.item for choice in results.choices)
    if times.keys() - {item.id for item in selection.items} or any(count > 1 for count in times.values()):
        raise UserError(f"{file} has choices on no text of the page, or two on one.", "Save it from the page anew.")


def tally(outcomes: Iterable[Outcome]) -> Figures:
    """Wins of the second arm, its losses, ties; its share of the decided with interval, and the sign test's p."""
    counts = Counter(outcomes)
    wins, losses, ties = counts["second"], counts["first"], counts["tie"]
    return {
        "judged": wins + losses + ties,
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "win_rate": wilson(wins, wins + losses)._asdict(),
        "sign_p": sign_test(wins, losses),
    }


def agreement(one: dict[str, Outcome], other: dict[str, Outcome]) -> Figures:
    """On the items that both judged; kappa is None where chance alone would make them agree (Cohen 1960)."""
    from sklearn.metrics import cohen_kappa_score

    both = sorted(one.keys() & other.keys())
    mine, theirs = [one[item] for item in both], [other[item] for item in both]
    defined = len({*mine, *theirs}) > 1
    return {
        "items": len(both),
        "same": sum(left == right for left, right in zip(mine, theirs, strict=True)),
        "kappa": float(cohen_kappa_score(mine, theirs, labels=OUTCOMES)) if defined else None,
    }


def majority(judges: Sequence[dict[str, Outcome]]) -> dict[str, Outcome]:
    """What more judges of an item chose than chose the other arm; a tie where they are as many."""
    votes: Counter[str] = Counter()
    for outcomes in judges:
        for item, outcome in outcomes.items():
            votes[item] += {"first": -1, "second": 1, "tie": 0}[outcome]
    return {item: "second" if sum_ > 0 else "first" if sum_ < 0 else "tie" for item, sum_ in votes.items()}


def analyse(selection: Selection, results: Sequence[Results], names: Sequence[str]) -> Figures:
    """All figures, per judge, together, and for each pair of judges; `names` are the judges', all different."""
    items = {item.id: item for item in selection.items}
    unblinded = [{one.item: items[one.item].choice_of(one.choice) for one in result.choices} for result in results]
    judges = []
    for name, result, outcomes in zip(names, results, unblinded, strict=True):
        chosen = Counter(one.choice for one in result.choices)
        lefts, rights = chosen["left"], chosen["right"]  # who heeds the tags alone chooses each as often
        judges.append(
            {
                "judge": name,
                **tally(outcomes.values()),
                "left": {"share": wilson(lefts, lefts + rights)._asdict(), "p": sign_test(lefts, rights)},
                "median_seconds": statistics.median([one.seconds for one in result.choices] or [0.0]),
            }
        )
    return {
        "page": selection.page,
        "first": selection.first,
        "second": selection.second,
        "items": len(items),
        "judges": judges,
        "majority": tally(majority(unblinded).values()),
        "agreement": [
            {"judges": [names[one], names[other]], **agreement(unblinded[one], unblinded[other])}
            for one, other in combinations(range(len(names)), 2)
        ],
    }


def names_of(results: Sequence[Results], files: Sequence[Path]) -> list[str]:
    """What to call the judges: as they call themselves, or as their file is called where that tells them apart."""
    own = [normalise(result.judge) for result in results]
    return [
        (name if own.count(name) == 1 else f"{name} ({file.name})") if name else file.name
        for name, file in zip(own, files, strict=True)
    ]


def judgement_table(found: Figures) -> str:
    """The figures for a terminal, a column a judge."""
    first, second, judges = found["first"], found["second"], found["judges"]
    columns = [(judge["judge"], judge) for judge in judges]
    if len(judges) > 1:
        columns.append(("most judges", found["majority"]))
    rows = [["", *(name for name, _ in columns)], *outcome_rows(first, second, "equally good", columns)]
    rows.append(["left chosen", *(share(one["left"]["share"]) if "left" in one else "" for _, one in columns)])
    rows.append(["  p, if by chance", *(shown(one["left"]["p"], "p") if "left" in one else "" for _, one in columns)])
    rows.append(["seconds a text", *(f"{one['median_seconds']:.1f}" if "left" in one else "" for _, one in columns)])
    lines = [
        *text_table(rows, right=range(1, len(rows[0]))),
        "",
        verdict(first, second, found["majority"] if len(judges) > 1 else judges[0]),
        *(
            f"{' and '.join(pair['judges'])} judge {pair['same']} of {pair['items']} texts the same, "
            f"Cohen's kappa {shown(pair['kappa'], 'number')}."
            for pair in found["agreement"]
        ),
        *(
            f"Note: {judge['judge']} judged {judge['judged']} of {found['items']} texts."
            for judge in judges
            if judge["judged"] < found["items"]
        ),
    ]
    return "\n".join(lines)


def outcome_rows(first: str, second: str, tie: str, columns: Sequence[tuple[str, Figures]]) -> list[list[str]]:
    """Rows of a table, of what `tally` found for each column."""
    figures = [one for _, one in columns]
    return [
        ["texts judged", *(str(one["judged"]) for one in figures)],
        [f"{second} better", *(str(one["wins"]) for one in figures)],
        [f"{first} better", *(str(one["losses"]) for one in figures)],
        [tie, *(str(one["ties"]) for one in figures)],
        [f"{second} of the decided", *(share(one["win_rate"]) for one in figures)],
        ["  p of the sign test", *(shown(one["sign_p"], "p") for one in figures)],
    ]


def share(interval: Figures) -> str:
    """`75.0% [59.8%, 85.8%]`, or a dash where there was nothing to count."""
    return shown(None, "percent") if interval["value"] is None else between(interval, "percent")


def verdict(first: str, second: str, figures: Figures) -> str:
    """The finding as a sentence that claims no more than the test does."""
    wins, losses = figures["wins"], figures["losses"]
    if wins + losses == 0:
        return f"No text was decided for {first} or {second}."
    better, worse = (second, first) if wins >= losses else (first, second)
    p = shown(figures["sign_p"], "p")
    equals = "" if p.startswith("<") else "= "
    if figures["sign_p"] >= SURE:
        return f"Chance may explain what difference there is between {first} and {second} (sign test, p {equals}{p})."
    return f"{better} is judged better than {worse} more often than chance would have it (sign test, p {equals}{p})."


def analyse_files(run: RunDir, first: str, second: str, files: Sequence[Path]) -> None:
    """Print what the results say, and write it beside the first of their files."""
    results = [read_results(file) for file in files]
    selection = select(run, first, second, int(results[0].page.split("-")[0]))
    for result, file in zip(results, files, strict=True):
        check_belongs(result, file, selection)
    found = analyse(selection, results, names_of(results, files))
    place = files[0].parent / "judgement.json"
    write_json(place, found | {"files": list(map(str, files))})
    print(f"{judgement_table(found)}\n\n{place}")
