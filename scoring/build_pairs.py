"""The pairs stage: two passes over ranked/, one to count and one to write; it holds 8 bytes a format pair."""

from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from cluster.parquet import RowWriter, count_rows, read_rows
from cluster.progress import Progress
from cluster.run_dir import RunDir
from cluster.stage import stage_main
from configs.errors import UserError
from configs.schema import Config
from scoring.pairs import Matches, cap_threshold, format_quota, list_row, match, pair_hash, pair_row
from scoring.records import LIST, PAIR


def build(run: RunDir, config: Config, progress: Progress) -> dict[str, Any]:
    """Ranked lists -> pairs/ and lists/; returns the counts. Raises UserError when there is no pair to train on."""
    ranked, seed = run.path / "ranked", config.run.seed
    progress.begin(2 * count_rows(ranked))
    similarity, hashes = _count(ranked, config, progress)
    quota = format_quota(similarity, config.pairs.format_share)
    threshold = cap_threshold(hashes, quota)
    pairs, lists, dropped, texts = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    with run.writing("pairs") as pairs_folder, run.writing("lists") as lists_folder:
        with (
            RowWriter(pairs_folder / "rows.parquet", PAIR) as out,
            RowWriter(lists_folder / "rows.parquet", LIST) as ls,
        ):
            for row in read_rows(ranked):
                found = match(row["text_id"], row["candidates"], config.pairs, seed)
                for match_ in found.similarity:
                    out.write(pair_row(row, match_))
                for match_ in found.format:
                    if pair_hash(seed, row["text_id"], match_) <= threshold:
                        out.write(pair_row(row, match_))
                        pairs["format"] += 1
                    else:
                        found.dropped["over_format_share"] += 1
                pairs["similarity"] += len(found.similarity)
                dropped += found.dropped
                texts["in"] += 1
                list_ = list_row(row)
                if list_ is not None:
                    ls.write(list_)
                lists["out" if list_ else "fewer_than_two_answers"] += 1
                progress.advance()
    made = pairs.total()
    run.record("pairs", "pairs", made + dropped.total(), made, dict(dropped))
    run.record("pairs", "lists", texts["in"], lists.pop("out", 0), dict(lists))
    _check_any(made, dict(dropped), run)
    return {"pairs": made, **dict(pairs), "dropped": dict(dropped)}


def _count(ranked: Path, config: Config, progress: Progress) -> tuple[int, np.ndarray]:
    """Number of similarity pairs, and the hashes [F] of all format pairs."""
    similarity, hashes = 0, array("q")
    for row in read_rows(ranked, columns=["text_id", "candidates"]):
        found: Matches = match(row["text_id"], row["candidates"], config.pairs, config.run.seed)
        similarity += len(found.similarity)
        hashes.extend(pair_hash(config.run.seed, row["text_id"], match_) for match_ in found.format)
        progress.advance()
    return similarity, np.frombuffer(hashes, dtype=np.int64) if hashes else np.empty(0, dtype=np.int64)


def _check_any(made: int, dropped: dict[str, int], run: RunDir) -> None:
    if made:
        return
    counts = run.manifest()["stages"].get("rank", {}).get("counts", {})
    why = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in dropped.items())
    raise UserError(
        f"There is nothing to train on: no pair could be made ({why or 'no candidates met'}). "
        f"Candidates by format: {counts.get('formats', 'unknown')}.",
        "A pair needs a valid answer and a worse one. Use a base model that can follow the prompt, draw more samples "
        "(sampling.samples), lower pairs.min_margin, or raise pairs.format_share if only format pairs were dropped.",
    )


if __name__ == "__main__":
    stage_main("pairs", build)
