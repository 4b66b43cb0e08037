"""Ranked lists for training: memory-mapped, in one order, as token ids, with nothing cut off in silence."""

from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset

PAIR_KEYS = ["text_id", "chosen_sample", "rejected_sample"]


def load_pairs(pairs: Path, cache: Path) -> Dataset:
    """The pairs as lists of two with scores 1 and 0, memory-mapped; they never lie in memory as a whole.

    They come in order of their keys: ranking ends texts in any order, and what a model learns must not depend on it.
    """
    rows = _read(pairs, cache, [*PAIR_KEYS, "prompt", "chosen", "rejected"]).sort(PAIR_KEYS)
    return rows.map(_as_list, remove_columns=[*PAIR_KEYS, "chosen", "rejected"], desc="Pairs as lists")


def load_lists(lists: Path, cache: Path) -> Dataset:
    """The ranked lists, in order of their texts, the same way."""
    return _read(lists, cache, ["text_id", "prompt", "completions", "scores"]).sort("text_id").remove_columns("text_id")


def _read(folder: Path, cache: Path, columns: list[str]) -> Dataset:
    return Dataset.from_parquet(sorted(map(str, folder.glob("*.parquet"))), cache_dir=str(cache), columns=columns)


def _as_list(pair: dict[str, Any]) -> dict[str, Any]:
    return {"completions": [pair["chosen"], pair["rejected"]], "scores": [1.0, 0.0]}


def tokenized(lists: Dataset, tokenizer: Any) -> Dataset:
    """Rows with `prompt` and `completions` in chat form -> `prompt_ids`, `completion_ids` [K][...] and `scores`.

    A completion starts where prompt and completion together part from the prompt alone, and has its end token.
    """

    def ids(messages: list[dict[str, str]], **how: Any) -> list[int]:
        found: list[int] = tokenizer.apply_chat_template(messages, return_dict=False, **how)
        return found

    def row(example: dict[str, Any]) -> dict[str, Any]:
        prompt = ids(example["prompt"], add_generation_prompt=True)
        whole = [ids(example["prompt"] + completion) for completion in example["completions"]]
        start = min(_common(prompt, one) for one in whole)
        return {"prompt_ids": prompt[:start], "completion_ids": [one[start:] for one in whole]}

    return lists.map(row, remove_columns=["prompt", "completions"], desc="Tokenizing")


def fit_length(lists: Dataset, max_length: int) -> tuple[Dataset, Counter[str]]:
    """The tokenised lists whose prompt and longest completion fit into `max_length` tokens, and a count of the others.

    TRL would cut a longer one at its right end, end token included, without a word.
    """
    fitting = lists.filter(
        lambda prompt, completions: len(prompt) + max(map(len, completions)) <= max_length,
        input_columns=["prompt_ids", "completion_ids"],
    )
    return fitting, Counter(too_long=len(lists) - len(fitting)) + Counter()


def _common(left: list[int], right: list[int]) -> int:
    """Length of the longest common prefix."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
