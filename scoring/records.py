"""Records that scoring writes: ranked texts, pairs and lists, each with the Arrow schema of its columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from semtag.generation.records import CANDIDATE, MESSAGES, PROMPT, Candidate, Message, candidates_of


@dataclass(frozen=True)
class RankedText:
    """A text with its candidates in order of rank, candidates without a score last."""

    text_id: int
    text: str
    meta: str
    prompt: Sequence[Message]
    prompt_ids: Sequence[int] | None
    sampled_prompt_ids: Sequence[int] | None
    candidates: Sequence[Candidate]


def ranked_text(row: dict[str, Any]) -> RankedText:
    """Make a record of a row of schema RANKED."""
    return RankedText(**row | {"candidates": candidates_of(row)})


RANKED = pa.schema(
    [
        ("text_id", pa.int64()),
        ("text", pa.string()),
        ("meta", pa.string()),
        *PROMPT,
        ("candidates", pa.list_(CANDIDATE)),
    ]
)


@dataclass(frozen=True)
class Pair:
    """A preference between two completions of one prompt.

    A reference log-probability is summed over the completion's tokens, at temperature 1, by the model that sampled. The
    value is null if sampling used another prompt or a grammar, or recorded none.
    """

    text_id: int
    kind: Literal["similarity", "format"]
    prompt: Sequence[Message]
    prompt_ids: Sequence[int] | None
    chosen: Sequence[Message]
    rejected: Sequence[Message]
    margin: float | None  # score gap; null for format pairs
    chosen_sample: int
    rejected_sample: int
    ref_chosen_logprob: float | None
    ref_rejected_logprob: float | None
    chosen_ids: Sequence[int] | None  # as sampled; null if unknown
    rejected_ids: Sequence[int] | None


PAIR = pa.schema(
    [
        ("text_id", pa.int64()),
        ("kind", pa.string()),
        ("prompt", MESSAGES),
        ("prompt_ids", pa.list_(pa.int32())),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("margin", pa.float64()),
        ("chosen_sample", pa.int32()),
        ("rejected_sample", pa.int32()),
        ("ref_chosen_logprob", pa.float64()),
        ("ref_rejected_logprob", pa.float64()),
        ("chosen_ids", pa.list_(pa.int32())),
        ("rejected_ids", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class RankedList:
    """A prompt with K distinct answers in order of falling score."""

    text_id: int
    prompt: Sequence[Message]
    prompt_ids: Sequence[int] | None
    completions: Sequence[Sequence[Message]]
    scores: Sequence[float]
    samples: Sequence[int]
    ref_logprobs: Sequence[float | None]  # as in a pair
    sampled_ids: Sequence[Sequence[int] | None]  # null for a repaired answer, because no model sampled it


LIST = pa.schema(
    [
        ("text_id", pa.int64()),
        ("prompt", MESSAGES),
        ("prompt_ids", pa.list_(pa.int32())),
        ("completions", pa.list_(MESSAGES)),
        ("scores", pa.list_(pa.float64())),
        ("samples", pa.list_(pa.int32())),
        ("ref_logprobs", pa.list_(pa.float64())),
        ("sampled_ids", pa.list_(pa.list_(pa.int32()))),
    ]
)


@dataclass(frozen=True)
class TextPairs:
    """Pairs and list of one ranked text, before the caps over all texts."""

    pairs: Sequence[Pair]
    groups: Sequence[int]  # one per pair, see pairs.group_of
    hashes: Sequence[int]  # one per pair, see pairs.pair_hash
    dropped: Sequence[str]  # a reason for each match that made no pair
    list: RankedList | None
    list_dropped: str | None  # why there is no list

    def as_row(self) -> dict[str, Any]:
        """Return a row of schema TEXT_PAIRS."""
        pairs = [*map(vars, self.pairs)]
        return vars(self) | {"pairs": pairs, "list": self.list and vars(self.list)}


TEXT_PAIRS = pa.schema(
    [
        ("pairs", pa.list_(pa.struct(PAIR))),
        ("groups", pa.list_(pa.int32())),
        ("hashes", pa.list_(pa.int64())),
        ("dropped", pa.list_(pa.string())),
        ("list", pa.struct(LIST)),
        ("list_dropped", pa.string()),
    ]
)
