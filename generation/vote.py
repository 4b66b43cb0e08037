"""One answer out of several samples of a text: the tags that most of them name."""

from collections.abc import Sequence
from typing import Any

from semtag.generation.parse import answer_of, same_answer_key


def elect(candidates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The candidate of the tags that most candidates name; candidates are of schema CANDIDATE.

    As many tags win as candidates have in the median, the lower one of two; candidates without tags do not vote. Equal
    votes go to the tag that stands further in front, then to the one that was sampled first. Case and white space make
    no other tag; a tag is spelt as it was first. Invalid where no candidate has tags.
    """
    voters = [candidate["tags"] for candidate in sorted(candidates, key=lambda c: c["sample"]) if candidate["tags"]]
    places: dict[str, list[int]] = {}
    spelling: dict[str, str] = {}
    for tags in voters:
        for place, (key, tag) in enumerate(zip(same_answer_key(tags), tags, strict=True)):
            places.setdefault(key, []).append(place)
            spelling.setdefault(key, tag)
    order = sorted(places, key=lambda key: (-len(places[key]), sum(places[key]) / len(places[key])))
    lengths = sorted(map(len, voters))
    won = [spelling[key] for key in order[: lengths[(len(lengths) - 1) // 2]]] if voters else []
    said = {"completion": answer_of(won), "answer": answer_of(won) or None, "tags": won}
    return {"sample": 0, "format": "valid" if won else "invalid", "reason": None if won else "empty", **said}
