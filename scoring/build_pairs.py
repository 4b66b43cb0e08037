"""The pairs stage: Ray Data maps ranked/ to pairs/ and lists/; caps over all texts need only counts and hashes."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semtag.cluster.progress import Counts, Progress
from semtag.cluster.ray_session import Tally, ray_session
from semtag.cluster.stage_process import stage_main
from semtag.configs.errors import UserError
from semtag.configs.schema import Config, Pairs
from semtag.scoring.pairs import (
    FORMAT,
    find_preferences,
    group_count,
    group_of,
    hash_thresholds,
    judged,
    list_of,
    pair_hash,
    pair_of,
    pairs_to_keep,
)
from semtag.scoring.records import LIST, PAIR, TEXT_PAIRS, RankedText, TextPairs, ranked_text
from semtag.store.layout import Step
from semtag.store.locations import Place, uri
from semtag.store.manifest import StepCounts
from semtag.store.parquet import count_rows, count_values, read_tables
from semtag.store.run_dir import RunDir

BATCH = 1024  # rows per call of a mapped function
# Large, because a file's metadata grows with its row groups and the driver reads the metadata of all files.
ROWS_PER_GROUP = 16384


def build(run: RunDir, config: Config, progress: Progress, number: int) -> StepCounts:
    """Build pairs/ and lists/ of a round from its ranked lists; return the counts.

    Raises UserError if there is none of the `training.rows`.
    """
    layout, step = run.layout.round(number), Step("pairs", number)
    texts = count_rows(layout.ranked)
    progress.begin(texts)
    with (
        run.shared_temporary_folder("matched") as matched,
        run.replace_shared_folder(layout.pairs) as pairs,
        run.replace_shared_folder(layout.lists) as lists,
        ray_session(config, actors=False),
    ):
        # Preference the candidates within each text.
        tally = Tally()
        with tally.shown(progress):
            _map(layout.ranked, None, lambda batch: pair_batch(batch, config, tally), matched)
        # Apply the caps over all texts.
        counts, dropped, unlisted = _count(matched, config.pairs)
        kept = pairs_to_keep(counts, texts, config.pairs)
        thresholds = hash_thresholds(lambda: _groups_and_hashes(matched), kept)
        _map(matched, ["pairs", "groups", "hashes"], lambda batch: kept_pairs(batch, thresholds), pairs)
        _map(matched, ["list"], kept_lists, lists)
    # Record pairs and lists in the ledger.
    made, listed, similarity = count_rows(layout.pairs), count_rows(layout.lists), int(kept[1:].sum())
    over = Counter(over_margin_bin=int(counts[1:].sum()) - similarity, over_format_share=int((counts - kept)[FORMAT]))
    met = int(counts.sum()) + dropped.total()
    dropped += over  # `+=` leaves out zeros
    run.record(step, "pairs", met, made, dict(dropped))
    run.record(step, "lists", texts, listed, dict(unlisted))
    if not (listed if config.training.rows == "lists" else made):
        raise _nothing(config.training.rows, dropped, unlisted, run.counts(Step("rank", number)))
    return {
        "pairs": made,
        "format": made - similarity,
        "similarity": similarity,
        "lists": listed,
        "dropped": dict(dropped),
    }


def pair_batch(batch: pa.Table, config: Config, tally: Tally) -> pa.Table:
    """Make rows of schema TEXT_PAIRS from rows of schema RANKED, and count the texts."""
    rows = [pair_text(ranked_text(row), config).as_row() for row in batch.to_pylist()]
    tally.add(Counts(texts=len(rows)), at_once=True)
    return pa.Table.from_pylist(rows, TEXT_PAIRS)


def pair_text(text: RankedText, config: Config) -> TextPairs:
    """Return the pairs and the list of a ranked text, before the caps over all texts."""
    candidates = [judged(candidate, config.pairs) for candidate in text.candidates]
    # Training uses the plain prompt without a grammar, where these candidates have other log-probabilities.
    if config.sampling.constrained or text.prompt_ids != text.sampled_prompt_ids:
        candidates = [replace(candidate, logprob=None) for candidate in candidates]
    text = replace(text, candidates=candidates)
    found = find_preferences(text.text_id, candidates, config.pairs, config.run.seed)
    preferences = [*found.similarity, *found.format]
    pairs = [pair_of(text, preference) for preference in preferences]
    list_, why_not = list_of(text, config.pairs)
    return TextPairs(
        pairs=pairs,
        groups=[group_of(pair.margin, config.pairs) for pair in pairs],
        hashes=[pair_hash(config.run.seed, text.text_id, preference) for preference in preferences],
        dropped=[*found.dropped.elements()],
        list=list_,
        list_dropped=why_not,
    )


def kept_pairs(batch: pa.Table, thresholds: pa.Array) -> pa.Table:
    """Select the pairs of rows of schema TEXT_PAIRS by the threshold of their group's hashes, as schema PAIR."""
    pairs, groups, hashes = (_flat(batch[name]) for name in ("pairs", "groups", "hashes"))
    return _as_table(pairs.filter(pc.less_equal(hashes, thresholds.take(groups))), PAIR)  # a null drops


def kept_lists(batch: pa.Table) -> pa.Table:
    """Select the lists from rows of schema TEXT_PAIRS, as schema LIST, without nulls."""
    return _as_table(pc.drop_null(batch["list"].combine_chunks()), LIST)


def _map(source: Place, columns: list[str] | None, function: Callable[[pa.Table], pa.Table], out: Place) -> None:
    """Read `source`, map batches of rows, and write `out`, in tasks on all nodes."""
    import ray.data

    rows = ray.data.read_parquet(uri(source), columns=columns)
    rows.map_batches(function, batch_size=BATCH, batch_format="pyarrow").write_parquet(
        uri(out), row_group_size=ROWS_PER_GROUP, compression="zstd"
    )


def _count(matched: Place, pairs: Pairs) -> tuple[np.ndarray, Counter[str], Counter[str]]:
    """Count the pairs of each group [G], and by reason the dropped preferences and the dropped lists."""
    counts = np.zeros(group_count(pairs), dtype=np.int64)
    dropped, unlisted = Counter[str](), Counter[str]()
    for table in read_tables(matched, ["groups", "dropped", "list_dropped"]):
        counts += np.bincount(np.asarray(_flat(table["groups"])), minlength=len(counts))
        dropped += count_values(_flat(table["dropped"]))
        unlisted += count_values(pc.drop_null(table["list_dropped"].combine_chunks()))
    return counts, dropped, unlisted


def _groups_and_hashes(matched: Place) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for table in read_tables(matched, ["groups", "hashes"]):
        yield np.asarray(_flat(table["groups"])), np.asarray(_flat(table["hashes"]))


def _flat(lists: pa.ChunkedArray) -> pa.Array:
    return lists.combine_chunks().flatten()


def _as_table(rows: pa.StructArray, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays(rows.flatten(), schema=schema)


def _nothing(kind: str, dropped: Counter[str], unlisted: Counter[str], ranked: dict[str, Any]) -> UserError:
    reasons, needs = dropped, "A pair needs a valid answer and a worse answer."
    lower = "pairs.min_margin, or raise pairs.format_share if only format pairs were dropped"
    if kind == "lists":
        reasons, needs = unlisted, "A list needs pairs.list_least different answers with tags."
        lower = "pairs.list_least, or lower pairs.list_min_range if only ranges were too small"
    why = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in reasons.items())
    return UserError(
        f"There is nothing to train on: Semtag could make no {kind} ({why or 'no candidates to compare'}). "
        f"Candidates by format: {ranked.get('formats', 'unknown')}.",
        f"{needs} Add prompt.examples, set sampling.constrained=true, raise sampling.samples, lower {lower}.",
    )


if __name__ == "__main__":
    stage_main("pairs", build)
