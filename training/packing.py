"""Ranked lists as rows of tokens in which the completions of a list share their prompt.

A list is one sequence. The sequence starts with the prompt without the prompt's last token. For each completion follow
the prompt's last token and the completion without the completion's last token. So each copy of the prompt's last token
predicts the first token of a completion. A position sees its list's prompt and its own completion, and positions count
on from the prompt. So a completion has the same log-probabilities as in a sequence of its own. Several lists share a
row, up to a budget of tokens.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

IGNORED = -100  # label of a position that predicts nothing, as in transformers
MOST_PADDING = 0.05  # share of a batch's positions
MULTIPLE = 8  # of a row's length. GPUs' kernels would pad a mask of another length in each layer.


class Sequences(NamedTuple):
    """A list's sequence as four columns: token ids, position ids, numbers of completions, and labels."""

    ids: list[int]
    positions: list[int]
    completions: list[int]  # 0 the prompt, then 1 to K
    labels: list[int]


def build_sequence(prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> Sequences:
    """Lay out the sequence of one list; the prompt and each completion have at least one token.

    Example: prompt `[1, 2]` and completions `[[3, 4], [5, 6]]` become ids `[1, 2, 3, 2, 5]`, positions
    `[0, 1, 2, 1, 2]`, completions `[0, 1, 1, 2, 2]` and labels `[-100, 3, 4, 5, 6]`.
    """
    *before, last = prompt
    laid = Sequences(list(before), list(range(len(before))), [0] * len(before), [IGNORED] * len(before))
    for number, completion in enumerate(completions, 1):
        laid.ids.extend([last, *completion[:-1]])
        laid.positions.extend(range(len(before), len(before) + len(completion)))
        laid.completions.extend([number] * len(completion))
        laid.labels.extend(completion)
    return laid


def pack_rows(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Assign sequences to rows: as many rows as keep padding under MOST_PADDING, else the rows with least padding.

    Many short rows are best, because attention costs the square of a row's length. A row holds at most `budget` tokens,
    or one longer sequence. Example: lengths [5, 3, 2] and budget 5 give the rows [[0], [1, 2]].
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
    """Spread sequences over `count` rows of about equal length; return the rows and the tokens of each row.

    The longest sequence comes first, and each sequence goes into the row with most room (Graham's rule, 1969).
    """
    rows: list[list[int]] = [[] for _ in range(count)]
    used = [0] * count
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        emptiest = used.index(min(used))
        rows[emptiest].append(index)
        used[emptiest] += lengths[index]
    return rows, used


def sees(lists: Tensor, completions: Tensor) -> Tensor:
    """Mark where position i of a row sees position j, bool [R, L, L]; padding sees nothing.

    `lists` and `completions` are [R, L]. `lists` holds the index in the row of a position's list, or -1 for padding.
    """
    seen = lists.unsqueeze(2) == lists.unsqueeze(1)
    seen &= (lists >= 0).unsqueeze(1)
    seen &= (completions.unsqueeze(2) == completions.unsqueeze(1)) | (completions == 0).unsqueeze(1)
    return seen.tril()


def dense_mask(lists: Tensor, completions: Tensor, dtype: torch.dtype) -> Tensor:
    """Make the mask [R, 1, L, L] to add to attention scores: 0 where `sees` allows attention, and -inf elsewhere.

    A position of padding sees itself, because a softmax over nothing is no number. `dtype` is that of the scores.
    Eager attention would add a bool mask as 0 and 1, and sdpa would make an additive one of it in each layer.
    """
    seen = sees(lists, completions)
    seen.diagonal(dim1=1, dim2=2).fill_(True)
    return _additive(seen, dtype)


def packed_mask(lists: Tensor, completions: Tensor) -> Tensor:
    """Make the mask [R, 1, L, L] for rows joined one after another without padding, as `dense_mask` in float32.

    On the diagonal of padding the mask is -inf, because this marks the end of a row.
    """
    return _additive(sees(lists, completions), torch.float32)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf).unsqueeze(1)


class ListCollator:
    """Collator of B lists into R rows; an example has `row`, `prompt_ids`, `completion_ids` (K lists) and `scores` (K).

    `scores`, `present` and `lengths` are [B, K], with the K of the longest list. `row` is [B]. `input_ids`,
    `position_ids`, `shift_labels`, `lists`, `completions` and `slots` are [R, L]. `slots` is b K + k where a position
    predicts a token of completion k of list b, else -1. The trainer makes the mask from `lists` and `completions`.

    If `shared` is false, each completion is a row with its own copy of the prompt, for models that ignore the mask.
    """

    def __init__(self, pad_token_id: int, budget: int, shared: bool = True) -> None:
        self.pad_token_id, self.budget, self.shared = pad_token_id, budget, shared

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        most = max(len(example["completion_ids"]) for example in examples)
        lengths = [list(map(len, example["completion_ids"])) for example in examples]
        batch = {  # trainers read the batch size from the first tensor
            "scores": _table([example["scores"] for example in examples], most, torch.float32),
            "present": _table([[True] * len(one) for one in lengths], most, torch.bool),
            "lengths": _table(lengths, most, torch.int64),
            "row": torch.tensor([example["row"] for example in examples]),
        }
        # One sequence for each list, or for each completion if prompts are not shared.
        laid, slots = [], []  # sequences, and the slot of each sequence's first completion
        for index, example in enumerate(examples):
            own, size = example["completion_ids"], len(example["completion_ids"]) if self.shared else 1
            for first in range(0, len(own), size):
                laid.append(build_sequence(example["prompt_ids"], own[first : first + size]))
                slots.append(index * most + first)
        sizes = [len(one.ids) for one in laid]
        rows = pack_rows(sizes, self.budget) if self.shared else [[index] for index in range(len(laid))]
        return batch | self._rows(laid, slots, rows)

    def _rows(self, laid: list[Sequences], slots: list[int], rows: list[list[int]]) -> dict[str, Tensor]:
        sizes = [len(one.ids) for one in laid]

        def joined(values: list[list[int]]) -> list[list[int]]:
            """Join the values of the sequences that share a row."""
            return [[*itertools.chain.from_iterable(map(values.__getitem__, row))] for row in rows]

        columns: dict[str, list[list[int]]] = {
            "input_ids": joined([one.ids for one in laid]),
            "position_ids": joined([one.positions for one in laid]),
            "shift_labels": joined([one.labels for one in laid]),
            "lists": [_numbers(map(sizes.__getitem__, row)) for row in rows],
            "completions": joined([one.completions for one in laid]),
            "slots": joined([_slots(one, first) for one, first in zip(laid, slots, strict=True)]),
        }
        filling = {"input_ids": self.pad_token_id, "position_ids": 0, "shift_labels": IGNORED, "completions": 0}
        longest = max(map(len, columns["input_ids"]))
        longest += -longest % MULTIPLE if self.shared else 0
        return {name: _table(values, longest, torch.int64, filling.get(name, -1)) for name, values in columns.items()}


def _numbers(sizes: Iterable[int]) -> list[int]:
    """Number the tokens by their sequence. Example: sizes `[2, 1]` give `[0, 0, 1]`."""
    return list(itertools.chain.from_iterable([number] * size for number, size in enumerate(sizes)))


def _slots(sequence: Sequences, first: int) -> list[int]:
    """Return the slot of each token's completion, where `first` is that of the first completion; -1 for the prompt."""
    return [first + number - 1 if number else -1 for number in sequence.completions]


def sum_by_slot(log_probs: Tensor, slots: Tensor, shape: torch.Size) -> Tensor:
    """Sum the log-probabilities [R, L] of each slot's tokens; `shape` is [B, K], the result's shape."""
    predicting = slots >= 0
    sums = log_probs.new_zeros(shape.numel())
    return sums.index_add(0, slots[predicting], log_probs[predicting]).view(shape)


def _table(rows: list[Any], length: int, dtype: torch.dtype, filling: int = 0) -> Tensor:
    return torch.tensor([[*row, *[filling] * (length - len(row))] for row in rows], dtype=dtype)
