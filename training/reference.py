"""Reference log-probabilities: taken from sampling where an audit confirms them, recomputed elsewhere.

Training starts from the model that sampled, so sampling has already computed the model's log-probabilities before the
first update. An audit recomputes those of some lists before Semtag uses any of them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from accelerate.utils import broadcast
from datasets import Dataset
from torch import Tensor

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError

if TYPE_CHECKING:
    from semtag.training.trainer import PreferenceTrainer

AUDITED = 64  # lists that the audit recomputes, at most
# The highest gap but for 1 % of the completions may be this many times the tolerance of the mean. The demo in bfloat16
# had a mean of 0.014 at most, and 0.053 as its largest gap. A wrong template costs some completions far more.
HIGH = 3.0


class Audit(NamedTuple):
    """Absolute gap between log-probabilities from sampling and recomputed ones, in nats per token."""

    completions: int
    mean: float
    high: float  # the 99 % quantile
    largest: float

    def __str__(self) -> str:
        return (
            f"audit of {self.completions} log-probabilities from sampling: the mean gap to recomputed ones is "
            f"{self.mean:.2g} nats per token, the 99 % quantile {self.high:.2g}, the largest {self.largest:.2g}"
        )

    def agrees(self, tolerance: float) -> bool:
        """Return whether the mean is at most `tolerance`, and the 99 % quantile at most `HIGH` times that."""
        return self.mean <= tolerance and self.high <= HIGH * tolerance


def reference_logprobs(
    trainer: "PreferenceTrainer",
    lists: Dataset,
    tolerance: float,
    kept: Path,
    progress: Progress,
    check: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Set the trainer's reference log-probabilities; return and print their number by source. Raises UserError.

    Log-probabilities from sampling are used if the audit's mean gap is at most `tolerance` nats per token. The 99 %
    quantile must be at most `HIGH` times `tolerance`, so that a few wrong completions do not pass. None exists for a
    completion that was sampled under another prompt or within a grammar. None exists either for a completion that the
    model did not sample: a repaired answer, or a replayed one without this tokenizer's tokens. Missing ones are
    computed and stored in `kept` for a resumed training. All processes share this work, and call `check` after each
    batch, which raises an error to end the work.
    """
    known, sampled, present = _tables(lists)
    counts = _sources(known, sampled, present)
    if counts["from_sampling"]:
        audit = audited(trainer, lists, known)
        agree = audit.agrees(tolerance)
        trainer.reference_gap = audit.mean if agree else 0.0
        progress.say(f"{audit}; log-probabilities from sampling are {'' if agree else 'not '}used")
        if not agree:
            known[:] = np.nan
            counts |= {"from_sampling": 0, "recomputed_after_the_audit": counts["from_sampling"]}
    missing = np.flatnonzero((np.isnan(known) & present).any(axis=1))
    if len(missing):
        recomputed = _recomputed(trainer, lists, missing, known.shape, kept, progress, check)
        known[missing] = np.where(np.isnan(known[missing]), recomputed, known[missing])
    _check_finite(known[present])
    counts = {name: count for name, count in counts.items() if count or name == "from_sampling"}
    progress.say(
        "reference log-probabilities: " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items())
    )
    trainer.references = _by_row(lists, known)
    return counts


def _sources(known: np.ndarray, sampled: np.ndarray, present: np.ndarray) -> dict[str, int]:
    """Return the number of log-probabilities by source, before the audit; the arrays are those of `_tables`."""
    return {
        "from_sampling": int((~np.isnan(known)).sum()),
        "recomputed_after_the_audit": 0,
        "recomputed_for_another_prompt_or_grammar": int((np.isnan(known) & sampled).sum()),
        "recomputed_as_not_sampled_by_this_model": int((present & ~sampled).sum()),
    }


def _check_finite(references: np.ndarray) -> None:
    if lacking := int((~np.isfinite(references)).sum()):
        raise UserError(
            f"The model gives {lacking:,} completions log-probabilities that are no finite numbers.",
            "Set training.dtype=bfloat16 or float32. If that does not help, the model's weights are damaged.",
        )


def audited(trainer: "PreferenceTrainer", lists: Dataset, known: np.ndarray) -> Audit:
    """Recompute up to `AUDITED` lists, spread evenly over the lists with a known log-probability; return the gaps."""
    candidates = np.flatnonzero((~np.isnan(known)).any(axis=1))
    chosen = candidates[np.linspace(0, len(candidates) - 1, min(AUDITED, len(candidates))).astype(int)]
    differences: list[float] = []
    for batch, fresh in _computed(trainer, lists, chosen, known.shape[1]):
        for row, values, ids in zip(known[batch], fresh, lists[batch]["completion_ids"], strict=True):
            lengths = np.array(list(map(len, ids)))
            sampled = row[: len(lengths)]
            gaps = np.abs(sampled - values[: len(lengths)]) / lengths
            differences.extend(gaps[~np.isnan(sampled)])
    mean, high, largest = np.mean(differences), np.quantile(differences, 0.99), np.max(differences)
    return Audit(len(differences), float(mean), float(high), float(largest))


def _recomputed(
    trainer: "PreferenceTrainer",
    lists: Dataset,
    missing: np.ndarray,
    shape: tuple[int, ...],
    kept: Path,
    progress: Progress,
    check: Callable[[], None],
) -> np.ndarray:
    """Compute log-probabilities [missing, K], NaN where a list has no such completion.

    Only the main process reads and writes `kept`. Lists that are in `kept` are not computed again.
    """
    # Load the log-probabilities that an earlier attempt computed.
    accelerator = trainer.accelerator
    table = np.full(shape, np.nan)
    on_disk = _open(kept, shape) if accelerator.is_main_process else table
    table = broadcast(torch.from_numpy(np.array(on_disk)).to(accelerator.device)).cpu().numpy()
    # Compute the other lists.
    todo = missing[np.isnan(table[missing, 0])]
    before = f"; {len(missing) - len(todo):,} were computed before" if len(todo) < len(missing) else ""
    progress.say(f"computing reference log-probabilities of {len(todo):,} of {len(lists):,} lists{before}")
    progress.begin(len(missing), len(missing) - len(todo), "lists")
    for batch, values in _computed(trainer, lists, todo, shape[1]):
        for one in (table, on_disk):
            # Write the first column last, because its value marks the row as complete.
            one[batch, 1:] = values[:, 1:]
            one[batch, 0] = values[:, 0]
        progress.advance(len(batch))
        check()
    return np.asarray(table[missing])


def _computed(
    trainer: "PreferenceTrainer", lists: Dataset, wanted: np.ndarray, most: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of `wanted` with their log-probabilities [batch, most]. One process computes a batch for all.

    Each process computes the same number of batches, because processes that share the model must run it together. At
    the end a process without a batch computes another process's batch again.
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
    """Return [N, K] log-probabilities, NaN where unknown, and bools: sampled by this model, and present in the list."""
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
