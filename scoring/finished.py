"""What an interrupted pipeline has done, and the doing of what is left.

Ray Data writes the ids of a block to `X.pending.parquet` and its rows to `X-0.parquet`, and commits both at once by
renaming the first to `X.parquet`. So rows count where their ids are committed, and at no other place.
"""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from cluster.parquet import parquet_files, read_tables
from cluster.places import Place
from cluster.progress import Progress

RUNS = 2  # passes of the pipeline: one for what is left, and another one for what that lost or left out
PENDING = ".pending"


class TextIds:
    """The ids of all texts, each of which is to have one row; 9 bytes a text."""

    def __init__(self, texts: Place) -> None:
        self.ids = np.sort(read_ids(texts))
        self.have_row = np.zeros(len(self.ids), dtype=bool)
        self.repeated = self.unknown = 0

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Which of the `ids` [N] of rows are the first ones of their text, bool [N]; the others are counted."""
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        known = self.ids[places] == ids
        first = np.zeros(len(ids), dtype=bool)
        first[np.unique(ids, return_index=True)[1]] = True
        taken = known & first & ~self.have_row[places]
        self.have_row[places[taken]] = True
        self.unknown += int((~known).sum())
        self.repeated += int((known & ~taken).sum())
        return taken

    def left(self) -> int:
        """How many texts have no row."""
        return int((~self.have_row).sum())


def finish(texts: Place, rows: Place, ids: Place, progress: Progress, work: Callable[[bool], None]) -> list[Place]:
    """Call `work`, a pipeline with its checkpoint in `ids`, until each text has a row; returns the files of rows.

    It is told whether it is the last pass: an earlier one may leave out texts whose engines died at one place.
    Raises RuntimeError when the pipeline leaves texts out again and again.
    """
    files, left = settle(texts, rows, ids, progress)
    for number in range(RUNS):
        if not left:
            break
        work(number == RUNS - 1)
        files, left = settle(texts, rows, ids, progress)
    if left:
        raise RuntimeError(f"the pipeline lost {left} of {len(read_ids(texts))} texts, {RUNS} times in a row")
    return files


def settle(texts: Place, rows: Place, ids: Place, progress: Progress) -> tuple[list[Place], int]:
    """Withdraw ids that have no rows; returns the files of committed rows, and how many texts have none."""
    blocks = {file.name.removesuffix(".parquet"): file for file in parquet_files(ids)}
    data: dict[str, list[Place]] = defaultdict(list)
    for file in parquet_files(rows):
        data[file.name.rsplit("-", 1)[0]].append(file)
    expected, committed, lacking = TextIds(texts), list[Place](), 0
    # A block counts as a whole or not at all.
    for name, file in blocks.items():
        if name.endswith(PENDING):
            # Where both are there, Ray would delete the rows of the pending ids and keep the committed ones.
            if name.removesuffix(PENDING) in blocks:
                file.unlink()
            continue
        promised = read_ids([file])
        if np.isin(promised, _readable_ids(data[name])).all():
            expected.take(promised)
            committed += data[name]
        else:
            # The ids first: Ray passes over texts whose ids are there.
            for part in [file, *data[name]]:
                part.unlink()
            lacking += 1
    # The rows of a pending block are no stray ones: Ray deletes them when it resumes.
    if lacking:
        progress.say(f"{_count(lacking, 'block lacks', 'blocks lack')} rows: done again")
    if stray := sum(name not in blocks and name + PENDING not in blocks for name in data):
        progress.say(f"{_count(stray, 'file of rows was', 'files of rows were')} never committed: ignored")
    return committed, expected.left()


def read_ids(path: Place | list[Place]) -> np.ndarray:
    """The text ids [N] of a Parquet file, of several, or of all in a folder."""
    chunks = [table["text_id"].to_numpy() for table in read_tables(path, ["text_id"])]
    return np.concatenate([np.empty(0, dtype=np.int64), *chunks])


def _readable_ids(files: list[Place]) -> np.ndarray:
    """The text ids of the files, none where a kill cut one short."""
    try:
        return read_ids(files)
    except pa.ArrowInvalid:
        return np.empty(0, dtype=np.int64)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
