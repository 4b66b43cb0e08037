"""The vote: one answer from several samples of a text, with the tags that most samples name."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from semtag.generation.parse import answer_of, same_answer_key
from semtag.generation.reasons import Defect
from semtag.generation.records import Candidate


def majority_vote(candidates: Sequence[Candidate]) -> Candidate:
    """Return a candidate with the tags that most candidates name.

    The number of tags is the lower median over the candidates. Candidates without tags do not vote. A tie goes
    to the tag with the lower mean place, then to the tag that was sampled first. Tags that differ only in case or white
    space are one tag, in its first spelling. The result is invalid where no candidate has tags.
    Example: `[a][b]`, `[a][c]` and `[b]` become `[a][b]`.
    """
    voters = [candidate.tags for candidate in sorted(candidates, key=lambda c: c.sample) if candidate.tags]
    places: dict[str, list[int]] = {}
    spelling: dict[str, str] = {}
    for tags in voters:
        for place, (key, tag) in enumerate(zip(same_answer_key(tags), tags, strict=True)):
            places.setdefault(key, []).append(place)
            spelling.setdefault(key, tag)
    # Order the tags by votes, then by mean place.
    order = sorted(places, key=lambda key: (-len(places[key]), sum(places[key]) / len(places[key])))
    lengths = sorted(map(len, voters))
    won = [spelling[key] for key in order[: lengths[(len(lengths) - 1) // 2]]] if voters else []
    if not won:
        return Candidate(0, "", reason=Defect.EMPTY)
    return Candidate(0, answer_of(won), tags=won, format="valid", answer=answer_of(won))


def answer_of_parts(answers: Sequence[Candidate], parts: int) -> Candidate:
    """Return the answer to a text of `parts` parts from the answers to those that have one; at least one has.

    That is the answer of a single part, or else the tags that most of the answers name, with the mean of their scores.
    """
    if parts == 1:
        return answers[0]
    scores = [answer.score for answer in answers if answer.score is not None]
    numbered = [replace(answer, sample=place) for place, answer in enumerate(answers)]
    return replace(majority_vote(numbered), score=statistics.fmean(scores) if scores else None)
