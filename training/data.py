"""Ranked lists for training: memory-mapped, in one order, as token ids, with nothing cut off in silence."""

import math
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, Features, List, Value

from generation.texts import hash64, token_hash

PAIR_KEYS = ["text_id", "chosen_sample", "rejected_sample"]
LIST_KEYS = ["text_id"]
REFERENCES = ["ref_chosen_logprob", "ref_rejected_logprob", "ref_chosen_tokens", "ref_rejected_tokens"]
COLUMNS = {
    "pairs": [*PAIR_KEYS, "prompt", "chosen", "rejected", "margin", *REFERENCES],
    "lists": [*LIST_KEYS, "prompt", "completions", "scores", "ref_logprobs", "ref_tokens"],
}
TOKENIZED = Features(
    {
        "row": Value("int64"),
        "text_id": Value("int64"),
        "prompt_ids": List(Value("int32")),
        "completion_ids": List(List(Value("int32"))),
        "scores": List(Value("float64")),
        "gap": Value("float64"),
        "reference": List(Value("float64")),
    }
)


def load_rows(folder: Path, kind: Literal["pairs", "lists"], cache: Path) -> Dataset:
    """The rows of pairs/ or lists/, memory-mapped; they never lie in memory as a whole.

    They come in order of their keys: ranking ends texts in any order, and what a model learns must not depend on it.
    """
    files = sorted(map(str, folder.glob("*.parquet")))
    rows = Dataset.from_parquet(files, cache_dir=str(cache), columns=COLUMNS[kind])
    return rows.sort(PAIR_KEYS if kind == "pairs" else LIST_KEYS)


def tokenized(rows: Dataset, tokenizer: Any, processes: int = 1) -> Dataset:
    """Pairs or lists in chat form -> rows of TOKENIZED, with K completions, scores and references each.

    `row` numbers them from 0, and stays theirs when some are dropped and the order changes.
    A pair is a list of two with the scores 1 and 0. Its `gap` is its margin, infinite for a format pair; that of a list
    is the gap between its best and its worst score. A completion starts where prompt and completion together part from
    the prompt alone, and has its end token. Its reference is the log-probability that it was sampled with, summed over
    its tokens, or NaN where that is not known for these very tokens.
    """

    def lists(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        completions, scores, gaps, logprobs, hashes = _sides(batch)
        whole = [prompt + one for prompt, own in zip(batch["prompt"], completions, strict=True) for one in own]
        prompts = _ids(tokenizer, batch["prompt"], add_generation_prompt=True)
        ids = iter(_ids(tokenizer, whole))
        made: dict[str, list[Any]] = {name: [] for name in TOKENIZED}
        for number, prompt in enumerate(prompts):
            together = [next(ids) for _ in completions[number]]
            start = min(_common(prompt, one) for one in together)
            own = [one[start:] for one in together]
            made["row"].append(numbers[number])
            made["text_id"].append(batch["text_id"][number])
            made["prompt_ids"].append(prompt[:start])
            made["completion_ids"].append(own)
            made["scores"].append(scores[number])
            made["gap"].append(gaps[number])
            sampled = zip(own, logprobs[number], hashes[number], strict=True)
            # A prompt that is read otherwise before its completions is another condition than it was sampled under.
            made["reference"].append([_known(*one) if start == len(prompt) else math.nan for one in sampled])
        return made

    return rows.map(
        lists,
        batched=True,
        with_indices=True,
        num_proc=processes if processes > 1 else None,  # 1 would start one
        remove_columns=rows.column_names,
        features=TOKENIZED,
        desc="Tokenizing",
    )


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


def _sides(batch: dict[str, list[Any]]) -> tuple[list[Any], ...]:
    """Completions, scores, gap, log-probabilities and hashes of tokens when sampled, of each row."""
    if "completions" in batch:
        gaps = [max(scores) - min(scores) for scores in batch["scores"]]
        return batch["completions"], batch["scores"], gaps, batch["ref_logprobs"], batch["ref_tokens"]
    completions, logprobs, hashes = (
        [list(both) for both in zip(batch[chosen], batch[rejected], strict=True)]
        for chosen, rejected in (("chosen", "rejected"), REFERENCES[:2], REFERENCES[2:])
    )
    gaps = [math.inf if margin is None else margin for margin in batch["margin"]]
    return completions, [[1.0, 0.0]] * len(completions), gaps, logprobs, hashes


def in_order(lists: Dataset, order: Literal["shuffled", "easy_first"]) -> Dataset:
    """The lists as they are, for the trainer to shuffle, or from the largest gap to the smallest (arXiv 2403.07230)."""
    return lists if order == "shuffled" else lists.sort(["gap", "text_id"], reverse=[True, False])


def _ids(tokenizer: Any, conversations: list[Any], **how: Any) -> list[list[int]]:
    """Token ids of each conversation; equal ones, such as the prompt of all pairs of a text, are tokenised once."""
    texts = tokenizer.apply_chat_template(conversations, tokenize=False, **how)
    distinct = list(dict.fromkeys(texts))
    found = tokenizer(distinct, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    ids = dict(zip(distinct, found, strict=True))
    return [ids[text] for text in texts]


def _known(ids: list[int], logprob: float | None, hash_: int | None) -> float:
    return logprob if logprob is not None and hash_ == token_hash(ids) else math.nan


def _common(left: list[int], right: list[int]) -> int:
    """Length of the longest common prefix."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
