"""Preference pairs for TRL: memory-mapped, in chat form, with nothing cut off in silence."""

from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset

KEYS = ["text_id", "chosen_sample", "rejected_sample"]
COLUMNS = ["prompt", "chosen", "rejected"]


def load_pairs(pairs: Path, cache: Path) -> Dataset:
    """The pairs as a memory-mapped dataset; they never lie in memory as a whole.

    They come in order of their keys: ranking ends texts in any order, and what a model learns must not depend on it.
    """
    files = sorted(map(str, pairs.glob("*.parquet")))
    rows = Dataset.from_parquet(files, cache_dir=str(cache), columns=[*KEYS, *COLUMNS])
    return rows.sort(KEYS).remove_columns(KEYS)


def fit_length(pairs: Dataset, tokenizer: Any, max_length: int) -> tuple[Dataset, Counter[str]]:
    """The pairs whose longer side fits into `max_length` tokens, and a count of the others.

    TRL would cut a longer one at its right end, end token included, without a word.
    """

    def longest(example: dict[str, Any]) -> bool:
        sides = (example["prompt"] + example[side] for side in ("chosen", "rejected"))
        return max(len(tokenizer.apply_chat_template(side, return_dict=False)) for side in sides) <= max_length

    fitting = pairs.filter(longest)
    return fitting, Counter(too_long=len(pairs) - len(fitting)) + Counter()
