"""Schemas of what this folder writes. Every Parquet file of a run has one of the schemas named here or in scoring."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from semtag.cluster.progress import Counts
from semtag.configs.schema import Prompt
from semtag.generation.parse import parse

TEXT = pa.schema(
    [
        ("text_id", pa.int64()),  # content hash of the normalised text
        ("text", pa.string()),
        ("article", pa.string()),
        ("meta", pa.string()),  # the row's other columns, as JSON
    ]
)

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

PROMPT = (
    pa.field("prompt", MESSAGES),  # the plain prompt: what the tagger is asked and trained by
    pa.field("prompt_ids", pa.list_(pa.int32())),  # its tokens
    pa.field("sampled_prompt_ids", pa.list_(pa.int32())),  # those of the prompt that the candidates were drawn after
)

CANDIDATE = pa.struct(
    [
        ("sample", pa.int32()),
        ("completion", pa.string()),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int32()),  # with the end token
        ("token_ids", pa.list_(pa.int32())),  # as sampled, the end token included; null where they are not known
        ("logprob", pa.float64()),  # summed over the tokens, at temperature 1
        ("tags", pa.list_(pa.string())),
        ("format", pa.string()),
        ("reason", pa.string()),
        ("answer", pa.string()),
        ("score", pa.float64()),  # null until scored, and for invalid candidates
        ("rank", pa.int32()),  # 0 is best; null for invalid candidates
    ]
)

# A text on its way through the pipeline. `reason` is set when it cannot be used; it goes on to the end all the
# same, so that every text that came in comes out as exactly one row.
SAMPLED = pa.schema(
    [
        *TEXT,
        ("decoding", pa.string()),
        *PROMPT,
        ("candidates", pa.list_(CANDIDATE)),
        ("cut", pa.bool_()),  # whether the scoring model reads only the text's beginning; null until scored
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

REJECT = pa.schema([("stage", pa.string()), ("reason", pa.string()), ("detail", pa.string()), ("row", pa.string())])


def candidate_row(
    prompt: Prompt,
    sample: int,
    completion: str,
    finish_reason: str | None,
    num_tokens: int | None,
    token_ids: Sequence[int] | None,
    logprob: float | None,
) -> dict[str, Any]:
    """A parsed row of schema CANDIDATE, not scored yet."""
    parsed = parse(completion, prompt.max_tags, prompt.max_tag_words, finish_reason == "length")
    return {
        "sample": sample,
        "completion": completion,
        "finish_reason": finish_reason,
        "num_tokens": num_tokens,
        "token_ids": token_ids,
        "logprob": logprob,
        "tags": list(parsed.tags),
        "format": parsed.format,
        "reason": parsed.reason,
        "answer": parsed.answer,
    }


def sampled_counts(rows: Sequence[dict[str, Any]]) -> Counts:
    """What rows of schema SAMPLED add to the progress, apart from their scores."""
    candidates = [candidate for row in rows for candidate in row["candidates"]]
    return Counts(
        texts=len(rows),
        candidates=len(candidates),
        valid=sum(candidate["format"] == "valid" for candidate in candidates),
        tokens=sum(candidate.get("num_tokens") or 0 for candidate in candidates),
    )
