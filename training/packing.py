"""Ranked lists as rows of tokens in which the completions of a list share their prompt.

A list is one sequence: the prompt less its last token, then for each completion that last token and the completion less
its own last token. A position sees its list's prompt and its own completion, and positions count on from the prompt, so
each completion's log-probabilities are those that it has by itself; the copies of the prompt's last token each predict
the first token of a completion. Several lists share a row up to a budget of tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

IGNORED = -100  # label of a position that predicts nothing, as everywhere in transformers
MOST_PADDING = 0.05  # of a batch's positions


class Sequences(NamedTuple):
    """A list's tokens in their places: what stands there, where it counts from, what it belongs to and predicts."""

    ids: list[int]
    positions: list[int]
    completions: list[int]  # 0 the prompt, then 1 to K
    labels: list[int]


def lay_out(prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> Sequences:
    """The sequence of one list. The prompt has one token at least, and so has each completion."""
    *before, last = prompt
    laid = Sequences(list(before), list(range(len(before))), [0] * len(before), [IGNORED] * len(before))
    for number, completion in enumerate(completions, 1):
        laid.ids.extend([last, *completion[:-1]])
        laid.positions.extend(range(len(before), len(before) + len(completion)))
        laid.completions.extend([number] * len(completion))
        laid.labels.extend(completion)
    return laid


def into_rows(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Which sequences share a row: as many rows as keep padding under MOST_PADDING, or else those with least padding.

    Many short rows, because attention costs the square of a row's length. A row holds `budget` tokens at most, or one
    sequence that is longer. Rows are about equally long: the longest sequence first, each into the row with most room
    (Graham's rule, 1969).
    """
    total, best, least = sum(lengths), [], 1.0
    fewest = max(1, min(-(-total // budget), len(lengths)))
    for count in range(len(lengths), fewest - 1, -1):
        rows, used = _spread(lengths, count)
        padding = 1 - total / (count * max(used))
        if padding < least and all(len(row) == 1 or tokens <= budget for row, tokens in zip(rows, used, strict=True)):
            best, least = rows, padding
        if least < MOST_PADDING:
            break
    return best


def _spread(lengths: Sequence[int], count: int) -> tuple[list[list[int]], list[int]]:
    """Rows of about as many tokens, and how many each has."""
    rows: list[list[int]] = [[] for _ in range(count)]
    used = [0] * count
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        emptiest = used.index(min(used))
        rows[emptiest].append(index)
        used[emptiest] += lengths[index]
    return rows, used


def may_see(lists: Tensor, completions: Tensor) -> Callable[..., Tensor]:
    """Which position j a position i of row r of [R, L] may see: a function of index tensors (r, head, i, j) to bool.

    `lists` says which list of its row a position belongs to, -1 for padding, which sees itself alone.
    """

    def sees(row: Tensor, _head: Any, i: Tensor, j: Tensor) -> Tensor:
        same_list = (lists[row, i] == lists[row, j]) & (lists[row, j] >= 0)
        own = (completions[row, i] == completions[row, j]) | (completions[row, j] == 0)
        return (i == j) | ((i >= j) & same_list & own)

    return sees


def dense_mask(lists: Tensor, completions: Tensor) -> Tensor:
    """Attention mask [R, 1, L, L] of what `may_see` says, for sdpa."""
    rows, places = (torch.arange(size, device=lists.device) for size in lists.shape)
    return may_see(lists, completions)(rows[:, None, None], 0, places[:, None], places).unsqueeze(1)


def packed_mask(lists: Tensor, completions: Tensor) -> Tensor:
    """Mask to add to scores, [R, 1, L, L], of rows that stand one behind another without their padding.

    It is 0 where `may_see` allows it and -inf elsewhere, on the diagonal of padding too: there it ends a row.
    """
    seen = dense_mask(lists, completions) & (lists >= 0)[:, None, :, None]
    return torch.zeros(seen.shape, device=lists.device).masked_fill_(~seen, -torch.inf)


def block_mask(lists: Tensor, completions: Tensor) -> BlockMask:
    """The same for flex attention, which leaves out the blocks that nobody sees."""
    rows, length = lists.shape
    return create_block_mask(may_see(lists, completions), rows, None, length, length, device=lists.device)


class ListCollator:
    """Examples with `row`, `prompt_ids`, `completion_ids` (K lists) and `scores` (K) -> B lists in R rows.

    `scores`, `present` and `lengths` are [B, K] with K the longest list's, `row` is [B]; `input_ids`, `position_ids`,
    `shift_labels` and `slots` are [R, L]. A slot is b K + k of the completion that a position predicts, or -1. The mask
    is made from `lists` and `completions` on the device that trains.

    With `shared` false each completion is a row of its own behind its own copy of the prompt, for models that heed no
    such mask.
    """

    def __init__(self, pad_token_id: int, budget: int, shared: bool = True) -> None:
        self.pad_token_id, self.budget, self.shared = pad_token_id, budget, shared

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        most = max(len(example["completion_ids"]) for example in examples)
        lengths = [list(map(len, example["completion_ids"])) for example in examples]
        batch = {  # trainers read the batch size off the first tensor
            "scores": _table([example["scores"] for example in examples], most, torch.float32),
            "present": _table([[True] * len(one) for one in lengths], most, torch.bool),
            "lengths": _table(lengths, most, torch.int64),
            "row": torch.tensor([example["row"] for example in examples]),
        }
        laid, slots = [], []  # sequences, and the slot of the first completion of each
        for index, example in enumerate(examples):
            own, size = example["completion_ids"], len(example["completion_ids"]) if self.shared else 1
            for first in range(0, len(own), size):
                laid.append(lay_out(example["prompt_ids"], own[first : first + size]))
                slots.append(index * most + first)
        sizes = [len(one.ids) for one in laid]
        rows = into_rows(sizes, self.budget) if self.shared else [[index] for index in range(len(laid))]
        return batch | self._rows(laid, slots, rows)

    def _rows(self, laid: list[Sequences], slots: list[int], rows: list[list[int]]) -> dict[str, Tensor]:
        columns: dict[str, list[list[int]]] = {
            "input_ids": [[token for index in row for token in laid[index].ids] for row in rows],
            "position_ids": [[place for index in row for place in laid[index].positions] for row in rows],
            "shift_labels": [[label for index in row for label in laid[index].labels] for row in rows],
            "lists": [[place for place, index in enumerate(row) for _ in laid[index].ids] for row in rows],
            "completions": [[number for index in row for number in laid[index].completions] for row in rows],
            "slots": [
                [slots[index] + number - 1 if number else -1 for index in row for number in laid[index].completions]
                for row in rows
            ],
        }
        filling = {"input_ids": self.pad_token_id, "position_ids": 0, "shift_labels": IGNORED, "completions": 0}
        longest = max(map(len, columns["input_ids"]))
        return {name: _table(values, longest, torch.int64, filling.get(name, -1)) for name, values in columns.items()}


def sum_by_slot(log_probs: Tensor, slots: Tensor, shape: torch.Size) -> Tensor:
    """Sums [B, K] of the log-probabilities [R, L] of each slot's tokens."""
    predicting = slots >= 0
    sums = log_probs.new_zeros(shape.numel())
    return sums.index_add(0, slots[predicting], log_probs[predicting]).view(shape)


def _table(rows: list[Any], length: int, dtype: torch.dtype, filling: int = 0) -> Tensor:
    return torch.tensor([[*row, *[filling] * (length - len(row))] for row in rows], dtype=dtype)
