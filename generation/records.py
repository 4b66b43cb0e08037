"""Records that this room writes, each with the Arrow schema of its columns. Scoring has records of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from semtag.cluster.progress import Counts
from semtag.configs.schema import Prompt
from semtag.generation.parse import Format, parse
from semtag.generation.reasons import Defect, RejectReason

Message = dict[str, str]  # `role` and `content`, as chat templates take them


@dataclass(frozen=True)
class Text:
    """A distinct text of the data. `meta` holds the row's other columns, as JSON."""

    text_id: int  # hash of the text's visible characters
    text: str
    article: str | None
    meta: str


TEXT = pa.schema([("text_id", pa.int64()), ("text", pa.string()), ("article", pa.string()), ("meta", pa.string())])


@dataclass(frozen=True)
class Reject:
    """A rejected row. `row` is the row as JSON. `repeats` is the text_id of an earlier row, if both have one text."""

    stage: str
    reason: RejectReason
    detail: str | None
    row: str
    repeats: int | None = None  # no column of REJECT


REJECT = pa.schema([("stage", pa.string()), ("reason", pa.string()), ("detail", pa.string()), ("row", pa.string())])


@dataclass(frozen=True)
class Candidate:
    """A completion sampled for a text, parsed, and scored where `score` is set."""

    sample: int
    completion: str
    finish_reason: str | None = None
    num_tokens: int | None = None  # the end token included
    token_ids: Sequence[int] | None = None  # as sampled, the end token included; null if unknown
    logprob: float | None = None  # summed over the tokens, at temperature 1
    tags: Sequence[str] = ()
    format: Format = "invalid"
    reason: Defect | str | None = None
    answer: str | None = None
    score: float | None = None  # null until scored, and for candidates without tags
    scores: Sequence[float] | None = None  # by each of scoring.scorers, where there are several
    rank: int | None = None  # 0 is best; null for invalid candidates


CANDIDATE = pa.struct(
    [
        ("sample", pa.int32()),
        ("completion", pa.string()),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("logprob", pa.float64()),
        ("tags", pa.list_(pa.string())),
        ("format", pa.string()),
        ("reason", pa.string()),
        ("answer", pa.string()),
        ("score", pa.float64()),
        ("scores", pa.list_(pa.float64())),
        ("rank", pa.int32()),
    ]
)

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

PROMPT = (
    pa.field("prompt", MESSAGES),  # the plain prompt, without examples, for tagging and training
    pa.field("prompt_ids", pa.list_(pa.int32())),  # tokens of the plain prompt
    pa.field("sampled_prompt_ids", pa.list_(pa.int32())),  # tokens of the prompt for sampling, which may have examples
)


@dataclass(frozen=True)
class SampledText:
    """A text on its way through the pipeline.

    `reason` is set when the text is rejected. A rejected text stays in the pipeline, so that each text that enters
    leaves as one row. `in_parts` says whether the text is longer than the embedding model reads. It is null until
    scored.
    """

    text_id: int
    text: str
    article: str | None
    meta: str
    decoding: str
    prompt: Sequence[Message] = ()
    prompt_ids: Sequence[int] | None = None
    sampled_prompt_ids: Sequence[int] | None = None
    candidates: Sequence[Candidate] = ()
    in_parts: bool | None = None
    reason: RejectReason | str | None = None
    detail: str | None = None

    def rejected(self, reason: RejectReason, detail: str) -> "SampledText":
        """Return the same text as rejected, without candidates."""
        return replace(self, candidates=(), reason=reason, detail=detail)

    def unanswered(self) -> "SampledText":
        """Return the same text as before sampling."""
        return SampledText(self.text_id, self.text, self.article, self.meta, self.decoding)


SAMPLED = pa.schema(
    [
        *TEXT,
        ("decoding", pa.string()),
        *PROMPT,
        ("candidates", pa.list_(CANDIDATE)),
        ("in_parts", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


def read_candidate(prompt: Prompt, sample: int, completion: str, finish_reason: str | None, **known: Any) -> Candidate:
    """Parse a completion into a candidate that is not scored yet; `known` are the candidate's other fields."""
    parsed = parse(completion, prompt.max_tags, prompt.max_tag_words, finish_reason == "length")
    return Candidate(
        sample,
        completion,
        finish_reason,
        tags=parsed.tags,
        format=parsed.format,
        reason=parsed.reason,
        answer=parsed.answer,
        **known,
    )


def candidates_of(row: dict[str, Any]) -> list[Candidate]:
    """Return the candidates of a row that Arrow gives as a dict."""
    return [Candidate(**candidate) for candidate in row.get("candidates") or ()]


def to_table(texts: Iterable[SampledText]) -> pa.Table:
    """Convert records into a table of schema SAMPLED."""
    rows = [vars(text) | {"candidates": [*map(vars, text.candidates)]} for text in texts]
    return pa.Table.from_pylist(rows, SAMPLED)


def from_table(table: pa.Table) -> list[SampledText]:
    """Convert a table of schema SAMPLED, or of its columns before sampling, into records."""
    return [sampled_text(row) for row in table.to_pylist()]


def sampled_text(row: dict[str, Any]) -> SampledText:
    """Convert a row of a table of schema SAMPLED into a record."""
    return SampledText(**row | {"candidates": candidates_of(row)})


def sampled_counts(texts: Sequence[SampledText]) -> Counts:
    """Count what sampled texts add to the progress, without their scores."""
    candidates = [candidate for text in texts for candidate in text.candidates]
    return Counts(
        texts=len(texts),
        candidates=len(candidates),
        valid=sum(candidate.format == "valid" for candidate in candidates),
        tokens=sum(candidate.num_tokens or 0 for candidate in candidates),
    )
