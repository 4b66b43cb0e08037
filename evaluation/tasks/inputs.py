"""What a task reads of each text: the text, its tags, or both."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from semtag.evaluation.answers import Corpus
from semtag.evaluation.measures import Lists
from semtag.evaluation.rows import Input
from semtag.scoring.similarity import tag_string


class Documents(NamedTuple):
    """The N documents of one way to read the texts; empty where only tags are read and a text has none."""

    arm: str  # whose tags; `text` for none
    input: Input
    strings: list[str]


def ways_to_read(texts: Sequence[str], tags: Mapping[str, Lists]) -> list[Documents]:
    """Return the texts alone, then for each arm its tags alone, and tags and texts together.

    Example: the text `A mill.` with the tags `corn` and `water` becomes `corn, water` and `corn, water. A mill.`. Tags
    come first, because embedding models cut long strings off at the end.
    """
    ways = [Documents("text", "text", list(texts))]
    for arm, tags_N in tags.items():
        joined = [tag_string(own) for own in tags_N]
        both = [f"{own}. {text}" if own else text for own, text in zip(joined, texts, strict=True)]
        ways += [Documents(arm, "tags", joined), Documents(arm, "both", both)]
    return ways


def strings_of(corpus: Corpus, column: str) -> list[str | None]:
    """Return a column of N texts as strings; None where a text has no value or a blank one."""
    values = [None if value is None else str(value) for value in corpus.column(column)]
    return [value if value and value.strip() else None for value in values]
