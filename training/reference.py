"""Reference log-probabilities: those the candidates were sampled with where they hold, recomputed where they do not.

The model that is trained is the model that was sampled from, so its log-probabilities before the first update are
known already. An audit recomputes a sample of them before any is believed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from accelerate.utils import broadcast
from datasets import Dataset
from torch import Tensor

from semtag.cluster.progress import Progress

if TYPE_CHECKING:
    from semtag.training.trainer import PreferenceTrainer

AUDITED = 64  # lists


class Audit(NamedTuple):
    """How far log-probabilities from sampling are from recomputed ones, in nats a token, absolute."""

    completions: int
    mean: float
    largest: float


def settle(
    trainer: "PreferenceTrainer", lists: Dataset, tolerance: float, kept: Path, progress: Progress
) -> dict[str, int]:
    """Give the trainer its reference log-probabilities; returns and says how many are from where.

    Those from sampling serve if they differ from recomputed ones by `tolerance` nats a token at most, in the mean over
    a sample. A completion has none if it was drawn under another prompt or within a grammar, or if nobody sampled it: a
    repaired answer, a replayed one without its tokens, one that another tokenizer wrote. Missing ones are computed in a
    pass whose results so far lie in `kept`, so that neither a resumed training nor a second epoch pays for them again.
    The processes of a training share the pass, and all get all results.
    """
    known, sampled, present = _tables(lists)
    counts = {
        "from_sampling": int((~np.isnan(known)).sum()),
        "recomputed_after_the_audit": 0,
        "recomputed_for_another_prompt_or_grammar": int((np.isnan(known) & sampled).sum()),
        "recomputed_as_not_sampled_by_this_model": int((present & ~sampled).sum()),
    }
    if counts["from_sampling"]:
        audit = audited(trainer, lists, known)
        agree = audit.mean <= tolerance
        trainer.reference_gap = audit.mean if agree else 0.0
        progress.say(
            f"audit of {audit.completions} log-probabilities from sampling: {audit.mean:.2g} nats a token from the "
            f"training model's in the mean, {audit.largest:.2g} at most; they {'' if agree else 'do not '}serve"
        )
        if not agree:
            known[:] = np.nan
            counts |= {"from_sampling": 0, "recomputed_after_the_audit": counts["from_sampling"]}
    missing = np.flatnonzero((np.isnan(known) & present).any(axis=1))
    if len(missing):
        recomputed = _recomputed(trainer, lists, missing, known.shape, kept, progress)
        known[missing] = np.where(np.isnan(known[missing]), recomputed, known[missing])
    counts = {name: count for name, count in counts.items() if count or name == "from_sampling"}
    progress.say(
        "reference log-probabilities: " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items())
    )
    trainer.references = _by_row(lists, known)
    return counts


def audited(trainer: "PreferenceTrainer", lists: Dataset, known: np.ndarray) -> Audit:
    """Recompute up to `AUDITED` lists, spread evenly over those with a known log-probability."""
    candidates = np.flatnonzero((~np.isnan(known)).any(axis=1))
    chosen = candidates[np.linspace(0, len(candidates) - 1, min(AUDITED, len(candidates))).astype(int)]
    differences: list[float] = []
    for batch, fresh in _computed(trainer, lists, chosen, known.shape[1]):
        for row, values, ids in zip(known[batch], fresh, lists[batch]["completion_ids"], strict=True):
            lengths = np.array(list(map(len, ids)))
            gaps = np.abs(row[: len(lengths)] - values[: len(lengths)]) / lengths
            differences.extend(gaps[~np.isnan(gaps)])
    return Audit(len(differences), float(np.mean(differences)), float(np.max(differences)))


def _recomputed(
    trainer: "PreferenceTrainer",
    lists: Dataset,
    missing: np.ndarray,
    shape: tuple[int, ...],
    kept: Path,
    progress: Progress,
) -> np.ndarray:
    """[missing, K] log-probabilities, NaN where a list has no such completion. The main process alone keeps them."""
    accelerator = trainer.accelerator
    table = np.full(shape, np.nan)
    on_disk = _open(kept, shape) if accelerator.is_main_process else table
    table = broadcast(torch.from_numpy(np.array(on_disk)).to(accelerator.device)).cpu().numpy()
    todo = missing[np.isnan(table[missing, 0])]
    before = f"; {len(missing) - len(todo):,} were computed before" if len(todo) < len(missing) else ""
    progress.say(f"computing reference log-probabilities of {len(todo):,} of {len(lists):,} lists{before}")
    progress.begin(len(missing), len(missing) - len(todo), "lists")
    for batch, values in _computed(trainer, lists, todo, shape[1]):
        for one in (table, on_disk):
            # The first column comes last: it says that the row is whole.
            one[batch, 1:] = values[:, 1:]
            one[batch, 0] = values[:, 0]
        progress.advance(len(batch))
    return np.asarray(table[missing])


def _computed(
    trainer: "PreferenceTrainer", lists: Dataset, wanted: np.ndarray, most: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of `wanted` with their log-probabilities [batch, most], each computed by one process and known to all.

    Each process computes as many batches as the others, the last one again if need be: processes that hold the model
    together read it together.
    """
    accelerator, size = trainer.accelerator, trainer.args.train_batch_size
    batches = np.split(wanted, range(size, len(wanted), size)) if len(wanted) else []
    for first in range(0, len(batches), accelerator.num_processes):
        shares = batches[first : first + accelerator.num_processes]
        own = shares[min(accelerator.process_index, len(shares) - 1)]
        found = trainer.reference([lists[int(index)] for index in own])
        values = np.full((size, most), np.nan)
        values[: found.shape[0], : found.shape[1]] = found
        of_all = accelerator.gather(torch.from_numpy(values).to(accelerator.device)).cpu().numpy()
        for place, share in enumerate(shares):
            yield share, of_all[place * size : place * size + len(share)]


def _open(kept: Path, shape: tuple[int, ...]) -> np.memmap:
    if not kept.exists():
        partial = kept.with_suffix(".partial")
        np.lib.format.open_memmap(partial, "w+", np.float64, shape)[:] = np.nan
        partial.rename(kept)
    return np.lib.format.open_memmap(kept, "r+")


def _tables(lists: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[N, K] log-probabilities, NaN where unknown, and whether a place was sampled and is there at all."""
    columns = lists.select_columns(["reference", "sampled"]).with_format("arrow")[:]
    references, flags = (columns[name].combine_chunks() for name in ("reference", "sampled"))
    lengths = references.value_lengths().to_numpy()
    present = np.arange(lengths.max()) < lengths[:, None]
    known, sampled = np.full(present.shape, np.nan), np.zeros(present.shape, bool)
    known[present] = references.flatten().to_numpy()
    sampled[present] = flags.flatten().to_numpy(zero_copy_only=False)
    return known, sampled, present


def _by_row(lists: Dataset, known: np.ndarray) -> Tensor:
    rows = lists.with_format("numpy")["row"][:]
    table = np.full((rows.max() + 1, known.shape[1]), np.nan, np.float32)
    table[rows] = known
    return torch.from_numpy(table)
