"""Rows that an interrupted pipeline committed, and new passes over the texts without a row.

Ray Data writes the ids of a block to `X.pending.parquet` and the block's rows to `X-0.parquet`. Ray commits both by
renaming the first file to `X.parquet`. So Semtag uses rows only if their ids are committed. Each start commits into a
new folder, so that Ray neither reads nor deletes the files of an earlier start.
"""

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.store.locations import Place
from semtag.store.parquet import parquet_files, read_tables

RUNS = 2  # passes of the pipeline; the second pass takes the texts that the first one lost or left out
READERS = 16  # threads that read files; they mostly wait for the disk or the object store
PENDING = ".pending"  # ends the name of a block that is not committed
Result = TypeVar("Result")
Work = Callable[[np.ndarray, bool], None]


class TextIds:
    """Ids of all texts, with a flag for each text that has its row; 9 bytes per text."""

    def __init__(self, texts: Place) -> None:
        self.ids = np.sort(read_ids(texts))
        self.have_row = np.zeros(len(self.ids), dtype=bool)
        self.repeated = self.unknown = 0

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Mark the texts of rows as having a row; return which of the rows' `ids` [N] to keep, bool [N].

        An id is kept if it is known and its text has no row yet. Other ids are counted as `repeated` or `unknown`.
        Example: with texts 3, 5 and 8, `take([5, 9, 5])` returns `[True, False, False]`.
        """
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
        """Return the number of texts without a row."""
        return int((~self.have_row).sum())

    def done(self) -> np.ndarray:
        """Return the sorted ids of the texts with a row."""
        return self.ids[self.have_row]


def finish(
    texts: Place,
    rows: Place,
    ids: Place,
    progress: Progress,
    work: Work,
    use: Callable[[list[Place]], Result],
) -> Result:
    """Call `work`, a pipeline that commits below `ids`, until each text has a row; return the result of `use`.

    `work` gets the sorted ids of the texts with a row, and whether this is the last pass. An earlier pass may leave out
    texts whose engines died at only one slot. `use` gets the files of rows. If `use` fails because files are damaged,
    Semtag computes their rows again, once. Raises RuntimeError if texts have no row after the last pass.
    """
    found = Found(texts, rows, ids, progress)
    found.complete(work)
    try:
        return use(found.files)
    except UserError:
        raise
    except Exception:
        if not found.withdraw_damaged():
            raise
    again = Found(texts, rows, ids, progress)
    again.complete(work)
    return use(again.files)


class Found:
    """Committed rows of all starts: their `files`, and the ids of the `expected` texts."""

    def __init__(self, texts: Place, rows: Place, ids: Place, progress: Progress) -> None:
        self.expected, self.files = TextIds(texts), list[Place]()
        self._rows, self._ids, self._progress = rows, ids, progress
        self._settled = set[str]()

    def complete(self, work: Work) -> None:
        """Call `work` until each text has a row. Raises RuntimeError if texts have no row after RUNS passes."""
        self.settle()
        for number in range(RUNS):
            if self.expected.left():
                work(self.expected.done(), number == RUNS - 1)
                self.settle()
        if left := self.expected.left():
            raise RuntimeError(
                f"the pipeline lost {left} of {len(self.expected.ids)} texts: they have no row after {RUNS} passes"
            )

    def settle(self) -> None:
        """Take the blocks committed since the last call, and withdraw each block in which an id has no row."""
        # Find the blocks that are new, with their files of ids and of rows.
        found, data, lacking = _files_of_ids(self._ids), defaultdict[str, list[Place]](list), 0
        for file in parquet_files(self._rows):
            data[_block_of(file)].append(file)
        blocks = [name for name in found if not name.endswith(PENDING) and name not in self._settled]
        # Keep a block if each of its ids has a row.
        with ThreadPoolExecutor(READERS) as pool:
            kept = pool.map(_kept, [found[name] for name in blocks], [data[name] for name in blocks])
            for name, ids in zip(blocks, kept, strict=True):
                if ids is None:
                    _withdraw(found.pop(name), data.pop(name))
                    lacking += 1
                else:
                    self.expected.take(ids)
                    self.files += data[name]
        self._settled |= set(blocks)
        if lacking:
            self._progress.say(f"{_count(lacking, 'block lacks', 'blocks lack')} rows: Semtag computes them again")
        # Rows of a pending block are not reported, because a kill during a commit leaves them.
        if stray := sum(name not in found and name + PENDING not in found for name in data):
            self._progress.say(f"{_count(stray, 'file of rows was', 'files of rows were')} never committed: ignored")

    def withdraw_damaged(self) -> int:
        """Read all columns of all rows, and withdraw the blocks with damaged rows; return the number of blocks."""
        found = _files_of_ids(self._ids)
        with ThreadPoolExecutor(READERS) as pool:
            sound = zip(self.files, pool.map(_is_sound, self.files), strict=True)
            damaged = {_block_of(file) for file, is_sound in sound if not is_sound}
        for name in damaged:
            _withdraw(found[name], [file for file in self.files if _block_of(file) == name])
        if damaged:
            blocks = _count(len(damaged), "block has", "blocks have")
            self._progress.say(f"{blocks} damaged rows: Semtag computes them again")
        return len(damaged)


def _kept(ids: Place, rows: list[Place]) -> np.ndarray | None:
    """Return the ids of a block; None if an id has no row or a file is damaged."""
    promised, found = _readable_ids([ids]), _readable_ids(rows)
    if promised is None or found is None or not np.isin(promised, found).all():
        return None
    return promised


def _files_of_ids(ids: Place) -> dict[str, Place]:
    """Map each block of all starts to its file of ids. Example: `7f/X.pending.parquet` has the block `X.pending`."""
    files: list[Place] = sorted(ids.rglob("*.parquet"), key=str)
    return {file.name.removesuffix(".parquet"): file for file in files}


def _withdraw(ids: Place, rows: list[Place]) -> None:
    # Delete the ids first, because rows without ids are ignored.
    for part in [ids, *rows]:
        part.unlink(missing_ok=True)


def _block_of(rows: Place) -> str:
    return rows.name.rsplit("-", 1)[0]


def among(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return which of the `ids` [N] are among the sorted `known` ids, bool [N]."""
    if not len(known):
        return np.zeros(len(ids), dtype=bool)
    return known[np.minimum(np.searchsorted(known, ids), len(known) - 1)] == ids


def read_ids(path: Place | list[Place]) -> np.ndarray:
    """Return the text ids [N] of a Parquet file, of several files, or of all files in a folder."""
    chunks = [table["text_id"].to_numpy() for table in read_tables(path, ["text_id"])]
    return np.concatenate([np.empty(0, dtype=np.int64), *chunks])


def _readable_ids(files: list[Place]) -> np.ndarray | None:
    """Return the text ids of the files, or None if a file is damaged. Raises errors of the disk or object store."""
    try:
        return read_ids(files)
    except (pa.ArrowInvalid, OSError):
        if all(_is_sound(file, ["text_id"]) for file in files):  # the disk or object store failed
            raise
        return None


def _is_sound(file: Place, columns: list[str] | None = None) -> bool:
    """Check whether the file is readable Parquet. Raises errors of the disk or object store."""
    # Read all bytes first. An error after this line comes from the file, not from the disk or object store.
    content = pa.BufferReader(file.read_bytes())
    try:
        pq.read_table(content, columns=columns)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
