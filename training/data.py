"""Ranked lists for training: memory-mapped, in one order, as token ids, with nothing cut off in silence."""

import math
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, Features, List, Value

from generation.texts import hash64

PAIR_KEYS = ["text_id", "chosen_sample", "rejected_sample"]
LIST_KEYS = ["text_id"]
REFERENCES = ["ref_chosen_logprob", "ref_rejected_logprob", "chosen_ids", "rejected_ids"]
COLUMNS = {
    "pairs": [*PAIR_KEYS, "prompt", "chosen", "rejected", "margin", *REFERENCES],
    "lists": [*LIST_KEYS, "prompt", "completions", "scores", "ref_logprobs", "sampled_ids"],
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
    is the gap between its best and its worst score. A completion is the tokens that were sampled, so that the model
    learns from what it does, not from another spelling of it; its reference is the log-probability that they were
    sampled with, summed. Where they are not known, or say something else, the completion is rendered by the chat
    template: it starts where prompt and completion together part from the prompt alone, and ends with its end token.
    Its reference is then NaN.
    """

    def lists(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        completions, scores, gaps, logprobs, sampled = _sides(batch)
        whole = [prompt + one for prompt, own in zip(batch["prompt"], completions, strict=True) for one in own]
        prompts = _ids(tokenizer, batch["prompt"], add_generation_prompt=True)
        ids = iter(_ids(tokenizer, whole))
        trusted = iter(_trusted(tokenizer, [one for own in sampled for one in own], whole))
        made: dict[str, list[Any]] = {name: [] for name in TOKENIZED}
        for number, prompt in enumerate(prompts):
            together = [next(ids) for _ in completions[number]]
            start = min(_common(prompt, one) for one in together)
            own, references = [_up_to_end(tokenizer, one[start:]) for one in together], [math.nan] * len(together)
            for place, (drawn, logprob) in enumerate(zip(sampled[number], logprobs[number], strict=True)):
                # A prompt that is read otherwise before its completions is not the one that they were drawn under.
                if next(trusted) and start == len(prompt):
                    own[place], references[place] = drawn, math.nan if logprob is None else logprob
            made["row"].append(numbers[number])
            made["text_id"].append(batch["text_id"][number])
            made["prompt_ids"].append(prompt[:start])
            made["completion_ids"].append(own)
            made["scores"].append(scores[number])
            made["gap"].append(gaps[number])
            made["reference"].append(references)
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
    """Completions, scores, gap, and log-probabilities and tokens when sampled, of each row."""
    if "completions" in batch:
        gaps = [max(scores) - min(scores) for scores in batch["scores"]]
        return batch["completions"], batch["scores"], gaps, batch["ref_logprobs"], batch["sampled_ids"]
    completions, logprobs, sampled = (
        [list(both) for both in zip(batch[chosen], batch[rejected], strict=True)]
        for chosen, rejected in (("chosen", "rejected"), REFERENCES[:2], REFERENCES[2:])
    )
    gaps = [math.inf if margin is None else margin for margin in batch["margin"]]
    return completions, [[1.0, 0.0]] * len(completions), gaps, logprobs, sampled


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


def _trusted(tokenizer: Any, sampled: list[list[int] | None], conversations: list[Any]) -> list[bool]:
    """Whether sampled tokens are known and say what stands last in the conversation: another tokenizer's do not."""
    said = tokenizer.batch_decode([ids or [] for ids in sampled], skip_special_tokens=True)
    return [
        bool(ids) and own.strip() == conversation[-1]["content"].strip()
        for ids, own, conversation in zip(sampled, said, conversations, strict=True)
    ]


def _up_to_end(tokenizer: Any, ids: list[int]) -> list[int]:
    """The ids without what a template puts behind the end token: many end a turn by a newline, which no model says."""
    if tokenizer.eos_token_id not in ids:
        return ids
    return ids[: len(ids) - ids[::-1].index(tokenizer.eos_token_id)]


def _common(left: list[int], right: list[int]) -> int:
    """Length of the longest common prefix."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
