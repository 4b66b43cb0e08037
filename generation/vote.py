"""One answer out of several samples of a text: the tags that most of them name."""

from collections.abc import Sequence

from semtag.generation.parse import answer_of, same_answer_key
from semtag.generation.reasons import Defect
from semtag.generation.records import Candidate


def elect(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate of the tags that most candidates name.

    As many tags win as candidates have in the median, the lower one of two; candidates without tags do not vote. Equal
    votes go to the tag that stands further in front, then to the one that was sampled first. Case and white space make
    no other tag; a tag is spelt as it was first. Invalid where no candidate has tags.
    """
    voters = [candidate.tags for candidate in sorted(candidates, key=lambda c: c.sample) if candidate.tags]
    places: dict[str, list[int]] = {}
    spelling: dict[str, str] = {}
    for tags in voters:
        for place, (key, tag) in enumerate(zip(same_answer_key(tags), tags, strict=True)):
            places.setdefault(key, []).append(place)
            spelling.setdefault(key, tag)
    order = sorted(places, key=lambda key: (-len(places[key]), sum(places[key]) / len(places[key])))
    lengths = sorted(map(len, voters))
    won = [spelling[key] for key in order[: lengths[(len(lengths) - 1) // 2]]] if voters else []
    if not won:
        return Candidate(0, "", reason=Defect.EMPTY)
    return Candidate(0, answer_of(won), tags=won, format="valid", answer=answer_of(won))
