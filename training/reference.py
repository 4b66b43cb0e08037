"""Reference log-probabilities: those the candidates were sampled with where they hold, recomputed where they do not.

The model that is trained is the model that was sampled from, so its log-probabilities before the first update are
known already. An audit recomputes a sample of them before any is believed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset

if TYPE_CHECKING:
    from training.trainer import PreferenceTrainer

AUDITED = 64  # lists

Say = Callable[[str], None]


class Audit(NamedTuple):
    """How far log-probabilities from sampling are from recomputed ones, in nats a token, absolute."""

    completions: int
    mean: float
    largest: float


def settle(
    trainer: "PreferenceTrainer", lists: Dataset, tolerance: float, kept: Path, say: Say
) -> tuple[Dataset, dict[str, int]]:
    """Give each completion its reference log-probability; returns the lists and, as it says, how many from where.

    Those from sampling serve if they differ from recomputed ones by `tolerance` nats a token at most, in the mean over
    a sample. The others are computed in a pass whose results so far lie in `kept`, so that neither a resumed training
    nor a second epoch pays for them again.
    """
    known, present = _table(lists)
    sampled = int((~np.isnan(known)).sum())
    if sampled:
        audit = audited(trainer, lists, known)
        agree = audit.mean <= tolerance
        say(
            f"audit of {audit.completions} log-probabilities from sampling: {audit.mean:.2g} nats a token from the "
            f"training model's in the mean, {audit.largest:.2g} at most; they {'' if agree else 'do not '}serve"
        )
        if not agree:
            known[:], sampled = np.nan, 0
    missing = np.flatnonzero((np.isnan(known) & present).any(axis=1))
    if len(missing):
        say(f"recomputing reference log-probabilities of {len(missing):,} of {len(lists):,} lists")
        recomputed = _recomputed(trainer, lists, missing, known.shape[1], kept)
        known[missing] = np.where(np.isnan(known[missing]), recomputed, known[missing])
    counts = {"from_sampling": sampled, "recomputed": int(present.sum()) - sampled}
    say("reference log-probabilities: " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items()))
    return _with_references(lists, known, present), counts


def audited(trainer: "PreferenceTrainer", lists: Dataset, known: np.ndarray) -> Audit:
    """Recompute up to `AUDITED` lists, spread evenly over those with a known log-probability."""
    candidates = np.flatnonzero((~np.isnan(known)).any(axis=1))
    chosen = candidates[np.linspace(0, len(candidates) - 1, min(AUDITED, len(candidates))).astype(int)]
    differences = []
    for batch in _batches(chosen, trainer.args.train_batch_size):
        examples = [lists[int(index)] for index in batch]
        fresh = trainer.reference(examples)
        for row, example, values in zip(known[batch], examples, fresh, strict=True):
            lengths = np.array(list(map(len, example["completion_ids"])))
            gaps = np.abs(row[: len(lengths)] - values[: len(lengths)]) / lengths
            differences.extend(gaps[~np.isnan(gaps)])
    return Audit(len(differences), float(np.mean(differences)), float(np.max(differences)))


def _recomputed(trainer: "PreferenceTrainer", lists: Dataset, missing: np.ndarray, most: int, kept: Path) -> np.ndarray:
    """[missing, most] log-probabilities, NaN where a list has no such completion."""
    table = _open(kept, (len(lists), most))
    todo = missing[np.isnan(table[missing, 0])]
    for batch in _batches(todo, trainer.args.train_batch_size):
        values = trainer.reference([lists[int(index)] for index in batch])
        # The first column comes last: it says that the row is whole.
        table[batch, 1 : values.shape[1]] = values[:, 1:]
        table[batch, 0] = values[:, 0]
    return np.asarray(table[missing])


def _open(kept: Path, shape: tuple[int, int]) -> np.memmap:
    if not kept.exists():
        partial = kept.with_suffix(".partial")
        np.lib.format.open_memmap(partial, "w+", np.float64, shape)[:] = np.nan
        partial.rename(kept)
    return np.lib.format.open_memmap(kept, "r+")


def _table(lists: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """[N, K] log-probabilities, NaN where unknown, and which of the places a list has, for the longest list's K."""
    column = lists.select_columns("reference").with_format("arrow")[:]["reference"].combine_chunks()
    lengths = column.value_lengths().to_numpy()
    present = np.arange(lengths.max()) < lengths[:, None]
    known = np.full(present.shape, np.nan)
    known[present] = column.flatten().to_numpy()
    return known, present


def _with_references(lists: Dataset, known: np.ndarray, present: np.ndarray) -> Dataset:
    offsets = np.concatenate([[0], present.sum(axis=1).cumsum()]).astype(np.int32)
    column = pa.ListArray.from_arrays(offsets, known[present])
    return lists.remove_columns("reference").add_column("reference", column)


def _batches(indices: np.ndarray, size: int) -> list[np.ndarray]:
    return np.split(indices, range(size, len(indices), size)) if len(indices) else []
