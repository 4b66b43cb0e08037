"""`semtag judge`: a blind page on which a person compares two arms' tags. What came of it: evaluation/judgement.py.

The page holds texts with a left and a right list of tags. Which arm stands where follows from the run's seed alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from semtag.configs.errors import UserError
from semtag.evaluation.page import for_script, render_page
from semtag.store.hashing import hash64
from semtag.store.locations import Place, make_folder, place_at, write_text
from semtag.store.parquet import read_rows
from semtag.store.run_dir import RunDir

Outcome = Literal["first", "second", "tie"]


class Item(NamedTuple):
    """A text to judge, with the tags of both arms; `id` tells neither the text nor the arms."""

    id: str
    text: str
    first: list[str]
    second: list[str]
    first_is_left: bool

    def choice_of(self, side: str) -> Outcome:
        """The arm behind a side."""
        if side == "tie":
            return "tie"
        return "first" if (side == "left") == self.first_is_left else "second"


@dataclass(frozen=True)
class Selection:
    """The items to judge, and how many of the texts were not among those to choose from, and why."""

    first: str
    second: str
    items: list[Item]
    texts: int
    malformed: int
    equal: int

    def shown(self) -> list[dict[str, Any]]:
        """The items as the page has them."""
        sides = ((item, item.first, item.second) if item.first_is_left else (item, item.second, item.first)
                 for item in self.items)  # fmt: skip
        return [{"item": item.id, "text": item.text, "left": left, "right": right} for item, left, right in sides]

    @property
    def page(self) -> str:
        """The page's id: how many items it has, and a hash of them."""
        return f"{len(self.items)}-{_hex('page', json.dumps(self.shown()))}"

    @property
    def story(self) -> str:
        """What was chosen, in words."""
        return (
            f"{len(self.items)} of {self.texts} texts, chosen by hash. Left out: {self.malformed} where an answer is "
            f"malformed, {self.equal} where both have the same tags."
        )


def select(run: RunDir, first: str, second: str, count: int) -> Selection:
    """`count` held-out texts on which both arms answer well formed and not the same, in an order of chance.

    Each arm stands as often on the left as on the right. The same run gives the same items again.
    """
    file, seed = run.layout.answers, run.config().run.seed
    if not file.exists():
        raise UserError(f"{run.path} has no evaluation/answers.parquet.", "Do `semtag evaluate` first.")
    texts = malformed = equal = 0
    fit: list[Item] = []
    for row in read_rows(file, ["text_id", "text", "answers"]):
        answers = {answer["arm"]: answer for answer in row["answers"]}
        _check_arms(first, second, list(answers))
        own, other = answers[first], answers[second]
        texts += 1
        if not own["format"] == other["format"] == "valid":
            malformed += 1
        elif _same(own["tags"], other["tags"]):
            equal += 1
        else:
            id_ = _hex("item", seed, first, second, row["text_id"])
            fit.append(Item(id_, row["text"], own["tags"], other["tags"], False))
    if not fit:
        raise UserError(
            f"There is nothing to judge: of {texts} texts, {malformed} have a malformed answer of {first} or {second}, "
            f"and {equal} the same tags of both.",
            "Choose other arms with --first and --second.",
        )
    chosen = sorted(fit)[:count]
    left = {item.id for item in sorted(chosen, key=lambda item: _hex("side", seed, item.id))[: len(chosen) // 2]}
    items = [item._replace(first_is_left=item.id in left) for item in chosen]
    return Selection(first, second, items, texts, malformed, equal)


def _check_arms(first: str, second: str, there: list[str]) -> None:
    for arm in (first, second):
        if arm not in there:
            raise UserError(f"There is no arm '{arm}' in this run.", f"There are: {', '.join(there)}.")
    if first == second:
        raise UserError(f"'{first}' cannot be judged against itself.", "Give --first or --second another arm.")


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether nobody would prefer one to the other: the same tags, whatever their case and order."""
    return sorted(map(str.casefold, one)) == sorted(map(str.casefold, other))


def _hex(*parts: object) -> str:
    return f"{hash64('judge', *parts) % 2**64:016x}"


def render(selection: Selection) -> str:
    """The page: one file that loads nothing, and runs nothing but its own script."""
    data = for_script({"page": selection.page, "items": selection.shown()})
    return render_page("judge.html.j2", "judge", count=len(selection.items), data=data)


def free_place(run: RunDir, out: str | None, name: str) -> Place:
    """Where to write: `out`, or `name` in judgement/ of the run; makes its folder.

    Raises UserError where something is there already, and where there can be no folder.
    """
    place = place_at(out) if out else run.layout.judgement / name
    if place.exists():
        raise UserError(f"{place} is there already.", "Remove it or name another with --out; nothing is overwritten.")
    if isinstance(place, Path):
        make_folder(place.parent)
    return place


def make_page(run: RunDir, first: str, second: str, count: int, out: str | None) -> None:
    """Write the page and say what to do with it."""
    place = free_place(run, out, "judge.html")
    selection = select(run, first, second, count)
    write_text(place, render(selection))
    arms = "" if (first, second) == ("base", "tuned") else f" --first {first} --second {second}"
    print(f"{place}\n{selection.story}")
    print(f"Open it in a browser, judge, save; then: semtag judge {run.path}{arms} --results FILE")
