"""Ranked lists for training as token ids: memory-mapped, in a fixed order, never cut silently."""

import glob
import math
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value

from semtag.generation.prompts import around_answer, prompt_ids
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
    """Load the rows of pairs/ or lists/, memory-mapped, so that memory never holds all rows.

    Rows are sorted by their keys, because ranking finishes texts in any order and training must not depend on it.
    """
    files = sorted(map(str, folder.glob("*.parquet")))
    columns = [name for name in pq.read_schema(files[0]).names if name in COLUMNS[kind]]
    rows = Dataset.from_parquet([*map(glob.escape, files)], cache_dir=str(cache), columns=columns)
    return rows.sort(PAIR_KEYS if kind == "pairs" else LIST_KEYS)


def tokenized(
    rows: Dataset, tokenizer: Any, kept: int | None = None, processes: int = 1, ends: Sequence[str] = ()
) -> Dataset:
    """Turn pairs or lists in chat form into rows of TOKENIZED, with K completions, scores and references each.

    `row` numbers the rows from 0, and stays the same when rows are dropped or reordered. `gap` is a pair's margin,
    infinite for a format pair, or a list's best score less the worst. Of a list only the `kept` best completions stay;
    None keeps all. Sampled token ids are used where they are known, because the model must learn its own spelling.
    `reference` is then the summed log-probability of sampling, or NaN if null. Elsewhere the chat template renders the
    completion from the answer's first word to the first of the end tokens `ends`, and `reference` is NaN. By default
    the tokenizer's end token ends it. Without `prompt_ids` the template renders the prompt, as for sampling.
    Example: a pair with margin 0.2 becomes a list of two with `scores` [1.0, 0.0] and `gap` 0.2.
    """
    return rows.map(
        _tokenized,
        batched=True,
        with_indices=True,
        fn_kwargs={"tokenizer": tokenizer, "kept": kept, "ends": ends or [tokenizer.eos_token]},
        num_proc=processes if processes > 1 else None,  # 1 would start a process
        remove_columns=rows.column_names,
        features=TOKENIZED,
        desc="Tokenizing",
    )


def _tokenized(
    batch: dict[str, list[Any]], numbers: list[int], tokenizer: Any, kept: int | None, ends: Sequence[str]
) -> dict[str, Any]:
    completions, scores, gaps, logprobs, sampled = _sides(batch, kept)
    prompts = batch["prompt"]
    given = batch.get("prompt_ids") or [None] * len(prompts)
    made = []
    for place, drawn in enumerate(sampled):
        known = [logprob if ids else None for ids, logprob in zip(drawn, logprobs[place], strict=True)]
        made.append(
            {
                "row": numbers[place],
                "text_id": batch["text_id"][place],
                "prompt_ids": given[place] or prompt_ids(tokenizer, prompts[place]),
                "completion_ids": _spelled(tokenizer, prompts[place], completions[place], drawn, ends),
                "scores": scores[place],
                "gap": gaps[place],
                "sampled": list(map(bool, drawn)),
                "reference": [math.nan if logprob is None else logprob for logprob in known],
            }
        )
    return {name: list(map(itemgetter(name), made)) for name in TOKENIZED}


def _spelled(
    tokenizer: Any, prompt: list[Any], completions: list[Any], drawn: list[Any], ends: Sequence[str]
) -> list[list[int]]:
    """Return the token ids of a list's completions: the sampled ids, and rendered ones where none are known.

    A rendered completion starts behind the opening of an answer, because templates may open answers differently from
    their generation prompt. It stops at the first end token, because many templates write more than a model samples.
    """
    if all(drawn):
        return drawn
    # Render the text around an answer, and each unknown answer within it.
    opening, _, behind = around_answer(tokenizer, prompt)
    unknown = [prompt + one for one, ids in zip(completions, drawn, strict=True) if not ids]
    shown = tokenizer.apply_chat_template(unknown, tokenize=False)
    whole = [text.removesuffix(behind) + _up_to_end(behind, ends) for text in shown]
    # Tokenise prompt and answer together, as some tokenizers spell a text's first word differently.
    begun, *together = tokenizer([opening, *whole], add_special_tokens=False, return_attention_mask=False)["input_ids"]
    rendered = (ids[_common(begun, ids) :] for ids in together)
    return [ids or next(rendered) for ids in drawn]


def fit_length(lists: Dataset, max_length: int) -> tuple[Dataset, Counter[str]]:
    """Select the lists whose prompt and longest completion fit into `max_length` tokens, and count the others.

    TRL would silently cut a longer list at the right end, end token included. A list with a completion of no tokens
    cannot be trained on either: a template can render an empty answer without an end token.
    """
    fitting = lists.filter(
        lambda prompt, completions: all(completions) and len(prompt) + max(map(len, completions)) <= max_length,
        input_columns=["prompt_ids", "completion_ids"],
    )
    dropped = len(lists) - len(fitting)
    # Read all rows once more only to tell the reasons apart.
    empty = len(lists.filter(lambda ids: not all(ids), input_columns=["completion_ids"])) if dropped else 0
    return fitting, Counter(no_tokens=empty, too_long=dropped - empty) + Counter()


def split(lists: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split lists by hash of the text: lists to train on, and about a `share` of them to measure the loss on."""
    if not share:
        return lists, lists.select([])
    ids = lists.with_format("numpy")["text_id"][:]
    limit = share * 2**64 - 2**63  # hashes are signed
    held_out = np.fromiter((hash64("training.held_out", seed, id_) < limit for id_ in ids.tolist()), bool, len(ids))
    return lists.select(np.flatnonzero(~held_out)), lists.select(np.flatnonzero(held_out))


def _sides(batch: dict[str, list[Any]], kept: int | None) -> tuple[list[Any], ...]:
    """Return completions, scores, gap, and log-probabilities and tokens of sampling, for each row."""
    if "completions" in batch:
        gaps = [max(scores) - min(scores) for scores in batch["scores"]]
        columns = (batch[name] for name in ("completions", "scores", "ref_logprobs", "sampled_ids"))
        best = [_best(scores, kept) for scores in batch["scores"]]
        completions, scores, logprobs, sampled = (list(map(_taken, column, best)) for column in columns)
        return completions, scores, gaps, logprobs, sampled
    names = (("chosen", "rejected"), REFERENCES[:2], REFERENCES[2:])
    completions, logprobs, sampled = (
        list(map(list, zip(batch[chosen], batch[rejected], strict=True))) for chosen, rejected in names
    )
    gaps = [math.inf if margin is None else margin for margin in batch["margin"]]
    return completions, [[1.0, 0.0]] * len(completions), gaps, logprobs, sampled


def _best(scores: list[float], kept: int | None) -> list[int]:
    """Return the indices of the `kept` best scores in rising order; of equal scores the first. None keeps all.

    Example: scores [0.3, 0.9, 0.5] and `kept` 2 give [1, 2].
    """
    return sorted(sorted(range(len(scores)), key=lambda place: -scores[place])[:kept])


def _taken(values: list[Any], places: list[int]) -> list[Any]:
    return [values[place] for place in places]


def in_order(lists: Dataset, order: Literal["shuffled", "easy_first"]) -> Dataset:
    """Return the lists unchanged for the trainer to shuffle, or sorted by falling gap (arXiv 2403.07230)."""
    return lists if order == "shuffled" else lists.sort(["gap", "text_id"], reverse=[True, False])


def _up_to_end(behind: str, ends: Sequence[str]) -> str:
    """Drop the text after the first end token.

    Example: `<|end|>\\n<|endoftext|>` with both as end tokens becomes `<|end|>`.
    """
    found = [behind.index(end) + len(end) for end in ends if end in behind]
    return behind[: min(found)] if found else behind


def _common(left: list[int], right: list[int]) -> int:
    """Return the length of the longest common prefix. Example: [1, 2, 3] and [1, 2, 4] have 2."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
