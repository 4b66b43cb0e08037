"""Schemas of ranked lists, pairs and lists for training."""

import pyarrow as pa

from semtag.generation.records import CANDIDATE, MESSAGES, PROMPT

RANKED = pa.schema(
    [
        ("text_id", pa.int64()),
        ("text", pa.string()),
        ("meta", pa.string()),
        *PROMPT,
        ("candidates", pa.list_(CANDIDATE)),  # in order of rank, the invalid ones last
    ]
)

PAIR = pa.schema(
    [
        ("text_id", pa.int64()),
        ("kind", pa.string()),  # similarity | format
        ("prompt", MESSAGES),
        ("prompt_ids", pa.list_(pa.int32())),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("margin", pa.float64()),  # score gap; null for format pairs
        ("chosen_sample", pa.int32()),
        ("rejected_sample", pa.int32()),
        # Summed, at temperature 1, by the model that sampled; null where it sampled otherwise than by this prompt.
        ("ref_chosen_logprob", pa.float64()),
        ("ref_rejected_logprob", pa.float64()),
        ("chosen_ids", pa.list_(pa.int32())),  # as sampled
        ("rejected_ids", pa.list_(pa.int32())),
    ]
)

LIST = pa.schema(
    [
        ("text_id", pa.int64()),
        ("prompt", MESSAGES),
        ("prompt_ids", pa.list_(pa.int32())),
        ("completions", pa.list_(MESSAGES)),
        ("scores", pa.list_(pa.float64())),
        ("samples", pa.list_(pa.int32())),
        ("ref_logprobs", pa.list_(pa.float64())),  # as those of a pair
        ("sampled_ids", pa.list_(pa.list_(pa.int32()))),  # null for a repaired answer, which nobody sampled
    ]
)

# What one ranked list yields, before it is known how many pairs of each group may stay.
MATCHED = pa.schema(
    [
        ("pairs", pa.list_(pa.struct(PAIR))),
        ("groups", pa.list_(pa.int32())),  # of the pairs, in their order
        ("hashes", pa.list_(pa.int64())),
        ("dropped", pa.list_(pa.string())),  # reasons
        ("list", pa.struct(LIST)),  # null where there is none, then `list_dropped` says why
        ("list_dropped", pa.string()),
    ]
)
