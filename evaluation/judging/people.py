"""What people chose on the page of `semtag judge`: read, unblinded, counted, and compared with other judges."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

from semtag.configs.errors import UserError
from semtag.evaluation.judging.outcomes import (
    Judgement,
    Verdict,
    agreement,
    alpha_of,
    judgement_text,
    judgements,
    majority_of,
    new_file,
    verdict_of,
)
from semtag.evaluation.judging.selection import Outcome, Selection, select
from semtag.generation.texts import normalise
from semtag.store.locations import write_text
from semtag.store.run_dir import RunDir


class Choice(BaseModel, frozen=True):
    """A person's choice on one item."""

    item: str
    choice: Literal["left", "right", "tie"]


class Results(BaseModel, frozen=True):
    """The file that the page saves. Its judge is who bears that name, control characters and white space aside."""

    page: str = Field(pattern="^[0-9]{1,9}-[0-9a-f]{16}$")
    judge: Annotated[str, AfterValidator(normalise), Field(min_length=1)]
    saved: AwareDatetime
    choices: list[Choice]


def analyse_files(run: RunDir, first: str, second: str, files: Sequence[Path], out: str | None) -> None:
    """Write what the files say, and print it. Files of models among them, and in the run, are compared with people.

    Raises UserError for a file that is none of this page.
    """
    read = [(file, read_file(file)) for file in files]
    results = [one for _, one in read if isinstance(one, Results)]
    if not results:
        raise UserError("--results names no file of a person.", "Give a file that the page's Save button made.")
    selection = select(run, first, second, int(results[0].page.split("-")[0]))
    for file, one in read:
        check_belongs(one, file, selection)
    given = [one for _, one in read if isinstance(one, Judgement)]
    own = [one for one in judgements(run) if one.page == selection.page]
    models = {one.judge: one for judgement in [*own, *given] for one in judgement.verdicts if one.kind == "model"}
    found = analyse(selection, results, list(models.values()))
    # The same page's last analysis may go, because people's own files are still there.
    target = new_file(run, out, f"people-{selection.page}.json", replaced=not out)
    write_text(target, found.model_dump_json(indent=1))
    print(f"{judgement_text(found)}\n\n{target}")


def read_file(file: Path) -> Results | Judgement:
    """Read the results of a person, or the judgement of a model. Raises UserError for what is neither."""
    try:
        return TypeAdapter[Results | Judgement](Results | Judgement).validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise UserError(f"{file} holds no results: {why}.", "Give a file that the page's Save button made.") from None


def check_belongs(read: Results | Judgement, file: Path, selection: Selection) -> None:
    """Raise UserError for results of another page, and for choices that no page makes."""
    if read.page != selection.page:
        raise UserError(
            f"{file} is of another page, {read.page}; {selection.first} against {selection.second} in this run is "
            f"{selection.page}.",
            "Name the run and, with --first and --second, the arms that the page was made of.",
        )
    times = Counter(choice.item for choice in read.choices) if isinstance(read, Results) else Counter()
    if times.keys() - {id_ for id_, *_ in selection.shown} or any(count > 1 for count in times.values()):
        raise UserError(f"{file} has choices on no text of the page, or two on one.", "Save it from the page again.")


def analyse(selection: Selection, results: Sequence[Results], models: Sequence[Verdict] = ()) -> Judgement:
    """Unblind and count the results, of each person and of the majority; compare people with each other and models."""
    latest = {one.judge: one for one in sorted(results, key=lambda one: one.saved)}
    people = [person(selection, one) for one in latest.values()]
    verdicts = [*people, *([majority_of(people)] if len(people) > 1 else [])]
    times = Counter(one.judge for one in results)
    return Judgement(
        page=selection.page,
        first=selection.first,
        second=selection.second,
        items=len(selection.items),
        verdicts=verdicts,
        agreements=[agreement(one, other) for one, other in [*combinations(people, 2), *product(models, verdicts)]],
        alpha=alpha_of(people) if len(people) > 1 else None,
        notes=[
            selection.story,
            *(f"{name} saved {count} files; the last one counts." for name, count in times.items() if count > 1),
            *(
                f"{one.judge} judged {len(one.outcomes)} of {len(selection.items)} texts."
                for one in people
                if len(one.outcomes) < len(selection.items)
            ),
        ],
    )


def person(selection: Selection, results: Results) -> Verdict:
    """Unblind and count what one person chose. A repeated item counts for the person's agreement with himself alone."""
    items = {item.id: item for item in [*selection.items, *selection.repeated]}
    chosen: dict[str, Outcome] = {one.item: items[one.item].outcome_of(one.choice) for one in results.choices}
    pairs = zip(selection.items, selection.repeated, strict=False)
    twice = [(one.id, again.id) for one, again in pairs if {one.id, again.id} <= chosen.keys()]
    return verdict_of(
        results.judge,
        "person",
        {item.id: chosen[item.id] for item in selection.items if item.id in chosen},
        repeated=len(twice),
        repeated_same=sum(chosen[one] == chosen[again] for one, again in twice),
    )
