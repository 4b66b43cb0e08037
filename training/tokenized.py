"""Ranked lists for training: memory-mapped, in one order, as token ids, with nothing cut off in silence."""

import glob
import math
from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value

from semtag.generation.prompts import PROBE
from semtag.store.hashing import hash64

PAIR_KEYS = ["text_id", "chosen_sample", "rejected_sample"]
LIST_KEYS = ["text_id"]
REFERENCES = ["ref_chosen_logprob", "ref_rejected_logprob", "chosen_ids", "rejected_ids"]
COLUMNS = {
    "pairs": {*PAIR_KEYS, "prompt", "prompt_ids", "chosen", "rejected", "margin", *REFERENCES},
    "lists": {*LIST_KEYS, "prompt", "prompt_ids", "completions", "scores", "ref_logprobs", "sampled_ids"},
}
TOKENIZED = Features(
    {
        "row": Value("int64"),
        "text_id": Value("int64"),
        "prompt_ids": List(Value("int32")),
        "completion_ids": List(List(Value("int32"))),
        "scores": List(Value("float64")),
        "gap": Value("float64"),
        "sampled": List(Value("bool")),
        "reference": List(Value("float64")),
    }
)


def load_rows(folder: Path, kind: Literal["pairs", "lists"], cache: Path) -> Dataset:
    """The rows of pairs/ or lists/, memory-mapped; they never lie in memory as a whole.

    They come in order of their keys: ranking ends texts in any order, and what a model learns must not depend on it.
    """
    files = sorted(map(str, folder.glob("*.parquet")))
    columns = [name for name in pq.read_schema(files[0]).names if name in COLUMNS[kind]]
    rows = Dataset.from_parquet([*map(glob.escape, files)], cache_dir=str(cache), columns=columns)
    return rows.sort(PAIR_KEYS if kind == "pairs" else LIST_KEYS)


def tokenized(rows: Dataset, tokenizer: Any, kept: int | None = None, processes: int = 1) -> Dataset:
    """Turn pairs or lists in chat form into rows of TOKENIZED, with K completions, scores and references each.

    `row` numbers them from 0, and stays theirs when some are dropped and the order changes.
    A pair is a list of two with the scores 1 and 0. Its `gap` is its margin, infinite for a format pair; that of a list
    is the gap between its best and its worst score. Of a list only the `kept` best completions stay; None keeps all.
    A completion is the tokens that were `sampled`, so that the model learns from what it does, not from another
    spelling of it. Its reference is the log-probability that they were sampled with, summed; NaN where that is null.
    Where the tokens are not known, the chat template renders the completion, which ends with its end token. Its
    reference is NaN. A prompt is its `prompt_ids` where the row has some, and a rendered completion begins with what
    was said. Else the template renders the prompt as well, and a completion starts where both together part from it.
    """
    return rows.map(
        _tokenized,
        batched=True,
        with_indices=True,
        fn_kwargs={"tokenizer": tokenizer, "kept": kept},
        num_proc=processes if processes > 1 else None,  # 1 would start one
        remove_columns=rows.column_names,
        features=TOKENIZED,
        desc="Tokenizing",
    )


def _tokenized(batch: dict[str, list[Any]], numbers: list[int], tokenizer: Any, kept: int | None) -> dict[str, Any]:
    completions, scores, gaps, logprobs, sampled = _sides(batch, kept)
    whole = [prompt + one for prompt, own in zip(batch["prompt"], completions, strict=True) for one in own]
    prompts = _ids(tokenizer, _rendered(tokenizer, batch["prompt"], add_generation_prompt=True))
    openings = _ids(tokenizer, _openings(tokenizer, batch["prompt"]))
    rendered = iter(_ids(tokenizer, _rendered(tokenizer, whole)))
    given = batch.get("prompt_ids") or [None] * len(prompts)
    made = []
    for place, drawn in enumerate(sampled):
        own = [(next(rendered), ids or None) for ids in drawn]
        if prompt := given[place]:
            completion_ids, right = _behind(tokenizer, openings[place], own)
        else:
            prompt, completion_ids, right = _parted(tokenizer, prompts[place], own)
        known = [logprob if ok else None for ok, logprob in zip(right, logprobs[place], strict=True)]
        made.append(
            {
                "row": numbers[place],
                "text_id": batch["text_id"][place],
                "prompt_ids": prompt,
                "completion_ids": completion_ids,
                "scores": scores[place],
                "gap": gaps[place],
                "sampled": right,
                "reference": [math.nan if logprob is None else logprob for logprob in known],
            }
        )
    return {name: list(map(itemgetter(name), made)) for name in TOKENIZED}


# Completions as the rendered ids of prompt and completion together, and as the sampled ids, None where not known.
Completions = list[tuple[list[int], list[int] | None]]


def _behind(tokenizer: Any, opening: list[int], completions: Completions) -> tuple[list[list[int]], list[bool]]:
    """Token ids of completions behind the prompt that they were drawn under, and which of them are as sampled.

    What was drawn is trusted, however the template would write it. What was not begins with what was said, behind the
    `opening` of an answer, because the template may open an answer in another way than it asks for one.
    """
    spelled = [
        drawn or _up_to_end(tokenizer, together[_common(opening, together) :]) for together, drawn in completions
    ]
    return spelled, [drawn is not None for _, drawn in completions]


def _parted(
    tokenizer: Any, prompt: list[int], completions: Completions
) -> tuple[list[int], list[list[int]], list[bool]]:
    """Token ids of a rendered prompt and of its completions, and which of these are as sampled."""
    start = min(_common(prompt, together) for together, _ in completions)
    if start < len(prompt):
        # A prompt that is read otherwise before its completions is not the one that they were drawn under.
        completions = [(together, None) for together, _ in completions]
    spelled = [drawn or _up_to_end(tokenizer, together[start:]) for together, drawn in completions]
    return prompt[:start], spelled, [drawn is not None for _, drawn in completions]


def fit_length(lists: Dataset, max_length: int) -> tuple[Dataset, Counter[str]]:
    """The tokenised lists whose prompt and longest completion fit into `max_length` tokens, and a count of the others.

    TRL would cut a longer one at its right end, end token included, without a word.
    """
    fitting = lists.filter(
        lambda prompt, completions: len(prompt) + max(map(len, completions)) <= max_length,
        input_columns=["prompt_ids", "completion_ids"],
    )
    return fitting, Counter(too_long=len(lists) - len(fitting)) + Counter()


def split(lists: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """The lists to train on, and those of about a `share` of the texts, by hash, to measure the loss on."""
    if not share:
        return lists, lists.select([])
    ids = lists.with_format("numpy")["text_id"][:]
    limit = share * 2**64 - 2**63  # hashes are signed
    held_out = np.fromiter((hash64("training.held_out", seed, id_) < limit for id_ in ids.tolist()), bool, len(ids))
    return lists.select(np.flatnonzero(~held_out)), lists.select(np.flatnonzero(held_out))


def _sides(batch: dict[str, list[Any]], kept: int | None) -> tuple[list[Any], ...]:
    """Completions, scores, gap, and log-probabilities and tokens when sampled, of each row."""
    if "completions" in batch:
        gaps = [max(scores) - min(scores) for scores in batch["scores"]]
        columns = (batch[name] for name in ("completions", "scores", "ref_logprobs", "sampled_ids"))
        best = [_best(scores, kept) for scores in batch["scores"]]
        completions, scores, logprobs, sampled = (list(map(_taken, column, best)) for column in columns)
        return completions, scores, gaps, logprobs, sampled
    completions, logprobs, sampled = (
        [list(both) for both in zip(batch[chosen], batch[rejected], strict=True)]
        for chosen, rejected in (("chosen", "rejected"), REFERENCES[:2], REFERENCES[2:])
    )
    gaps = [math.inf if margin is None else margin for margin in batch["margin"]]
    return completions, [[1.0, 0.0]] * len(completions), gaps, logprobs, sampled


def _best(scores: list[float], kept: int | None) -> list[int]:
    """The places of the `kept` best scores in their order in the list; of equal ones the first. All for None."""
    return sorted(sorted(range(len(scores)), key=lambda place: -scores[place])[:kept])


def _taken(values: list[Any], places: list[int]) -> list[Any]:
    return [values[place] for place in places]


def in_order(lists: Dataset, order: Literal["shuffled", "easy_first"]) -> Dataset:
    """The lists as they are, for the trainer to shuffle, or from the largest gap to the smallest (arXiv 2403.07230)."""
    return lists if order == "shuffled" else lists.sort(["gap", "text_id"], reverse=[True, False])


def _rendered(tokenizer: Any, conversations: list[Any], **how: Any) -> list[str]:
    texts: list[str] = tokenizer.apply_chat_template(conversations, tokenize=False, **how)
    return texts


def _openings(tokenizer: Any, prompts: list[Any]) -> list[str]:
    """Each prompt as it is rendered before an answer, up to that answer's first word."""
    answered = [[*prompt, {"role": "assistant", "content": PROBE}] for prompt in prompts]
    return [text.rpartition(PROBE)[0] for text in _rendered(tokenizer, answered)]


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of each text; equal ones, such as the prompt of all pairs of a text, are tokenised once."""
    distinct = list(dict.fromkeys(texts))
    found = tokenizer(distinct, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    ids = dict(zip(distinct, found, strict=True))
    return [ids[text] for text in texts]


def _up_to_end(tokenizer: Any, ids: list[int]) -> list[int]:
    """The ids without what a template puts behind the end token: many end a turn by a newline, which no model says."""
    if tokenizer.eos_token_id not in ids:
        return ids
    return ids[: len(ids) - ids[::-1].index(tokenizer.eos_token_id)]


def _common(left: list[int], right: list[int]) -> int:
    """Length of the longest common prefix."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
