"""What judges compare: held-out texts with the tags of two arms, chosen and ordered by hashes of the run's seed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from semtag.configs.errors import UserError
from semtag.store.hashing import hash64
from semtag.store.parquet import read_rows
from semtag.store.run_dir import RunDir

Outcome = Literal["first", "tie", "second"]
LEAST_REPEATING = 20  # items; a shorter page repeats none


Shown = tuple[str, str, list[str], list[str]]  # an item as the page has it: id, text, left tags, right tags


class Item(NamedTuple):
    """A text to judge, with the tags of both arms. `id` tells neither the text nor the arms."""

    id: str
    text: str
    first: list[str]
    second: list[str]
    first_is_left: bool = False

    def outcome_of(self, side: str) -> Outcome:
        """Return the arm behind a side."""
        if side == "tie":
            return "tie"
        return "first" if (side == "left") == self.first_is_left else "second"

    def shown(self) -> Shown:
        """Put each arm on its side."""
        left, right = (self.first, self.second) if self.first_is_left else (self.second, self.first)
        return self.id, self.text, left, right


@dataclass(frozen=True)
class Selection:
    """The items to judge, and how many of the texts could not be among them, and why."""

    first: str
    second: str
    items: list[Item]
    texts: int
    untagged: int
    equal: int

    @property
    def repeated(self) -> list[Item]:
        """Return the first tenth of the items once more, with their sides swapped and ids of their own."""
        count = len(self.items) // 10 if len(self.items) >= LEAST_REPEATING else 0
        return [
            one._replace(id=_hex("repeated", one.id), first_is_left=not one.first_is_left) for one in self.items[:count]
        ]

    @property
    def shown(self) -> list[Shown]:
        """Return all that a page shows: the items, and then the repeated ones, as far apart as can be."""
        return [item.shown() for item in [*self.items, *self.repeated]]

    @property
    def page(self) -> str:
        """Return the page's id: how many items it has, and a hash of all that it shows."""
        return f"{len(self.items)}-{_hex('page', json.dumps(self.shown))}"

    @property
    def story(self) -> str:
        """Say what was chosen."""
        return (
            f"{len(self.items)} of {self.texts} texts, chosen by hash. Left out: {self.untagged} where {self.first} or "
            f"{self.second} has no tags, {self.equal} where both have the same."
        )


def select(run: RunDir, first: str, second: str, count: int) -> Selection:
    """Choose `count` held-out texts to which both arms give tags, and not the same ones, in an order of chance.

    Each arm stands as often on the left as on the right. The same run gives the same items again. Raises UserError
    where an arm is not there, or where no text is left.
    """
    file, seed = run.layout.answers, run.config().run.seed
    if not file.exists():
        raise UserError(f"{run.path} has no evaluation/answers.parquet.", "Do `semtag evaluate` first.")
    if first == second:
        raise UserError(f"'{first}' cannot be judged against itself.", "Give --first or --second another arm.")
    texts = untagged = equal = 0
    fit: list[Item] = []
    for row in read_rows(file, ["text_id", "text", "answers"]):
        tags = {answer["arm"]: answer["tags"] for answer in row["answers"]}
        if missing := {first, second} - tags.keys():
            raise UserError(f"There is no arm '{min(missing)}' in this run.", f"There are: {', '.join(tags)}.")
        texts += 1
        if not (tags[first] and tags[second]):
            untagged += 1
        elif _same(tags[first], tags[second]):
            equal += 1
        else:
            fit.append(Item(_hex("item", seed, first, second, row["text_id"]), row["text"], tags[first], tags[second]))
    if not fit:
        raise UserError(
            f"There is nothing to judge: of {texts} texts, {untagged} have no tags of {first} or {second}, and {equal} "
            "the same tags of both.",
            "Choose other arms with --first and --second.",
        )
    chosen = sorted(fit)[:count]
    left = {item.id for item in sorted(chosen, key=lambda item: _hex("side", seed, item.id))[: len(chosen) // 2]}
    items = [item._replace(first_is_left=item.id in left) for item in chosen]
    return Selection(first, second, items, texts, untagged, equal)


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Check whether nobody would prefer one to the other: the same tags, whatever their case and order."""
    return sorted(map(str.casefold, one)) == sorted(map(str.casefold, other))


def _hex(*parts: object) -> str:
    return f"{hash64('judge', *parts) % 2**64:016x}"
