"""What an interrupted pipeline has done, and the doing of what is left.

Ray Data writes the ids of a block to `X.pending.parquet` and its rows to `X-0.parquet`, and commits both at once by
renaming the first to `X.parquet`. So rows count where their ids are committed, and at no other place. Each start
commits into a folder of its own, so Ray neither reads nor clears what an earlier one left.
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

RUNS = 2  # passes of the pipeline: one for what is left, and another one for what that lost or left out
READERS = 16  # files read at once, most of the time waiting for a disk or a store
PENDING = ".pending"
Result = TypeVar("Result")
Work = Callable[[np.ndarray, bool], None]


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

    def done(self) -> np.ndarray:
        """The sorted ids of the texts that have one."""
        return self.ids[self.have_row]


def finish(
    texts: Place,
    rows: Place,
    ids: Place,
    progress: Progress,
    work: Work,
    use: Callable[[list[Place]], Result],
) -> Result:
    """Call `work`, a pipeline that commits below `ids`, until each text has a row; returns what `use` makes of them.

    `work` gets the sorted ids of the texts that have rows, and whether it is the last pass: an earlier one may leave
    out texts whose engines died at one place. `use` gets the files of rows. Rows that cannot be used because a file of
    theirs is damaged are done again, once. Raises RuntimeError when the pipeline leaves texts out again and again.
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
    """The committed rows of all starts: their `files`, and which of the texts are `expected` still."""

    def __init__(self, texts: Place, rows: Place, ids: Place, progress: Progress) -> None:
        self.expected, self.files = TextIds(texts), list[Place]()
        self._rows, self._ids, self._progress = rows, ids, progress
        self._settled = set[str]()

    def complete(self, work: Work) -> None:
        """Have `work` done until no text is left, as `finish` says."""
        self.settle()
        for number in range(RUNS):
            if self.expected.left():
                work(self.expected.done(), number == RUNS - 1)
                self.settle()
        if left := self.expected.left():
            raise RuntimeError(f"the pipeline lost {left} of {len(self.expected.ids)} texts, {RUNS} times in a row")

    def settle(self) -> None:
        """Take the blocks that came since the last time, each as a whole, and withdraw ids that have no rows."""
        found, data, lacking = _files_of_ids(self._ids), defaultdict[str, list[Place]](list), 0
        for file in parquet_files(self._rows):
            data[_block_of(file)].append(file)
        blocks = [name for name in found if not name.endswith(PENDING) and name not in self._settled]
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
            self._progress.say(f"{_count(lacking, 'block lacks', 'blocks lack')} rows: done again")
        # The rows of a pending block are no stray ones: a kill left them in the middle of their commit.
        if stray := sum(name not in found and name + PENDING not in found for name in data):
            self._progress.say(f"{_count(stray, 'file of rows was', 'files of rows were')} never committed: ignored")

    def withdraw_damaged(self) -> int:
        """Read all rows whole, as `settle` does not, and withdraw the blocks that cannot be read; returns how many."""
        found = _files_of_ids(self._ids)
        with ThreadPoolExecutor(READERS) as pool:
            sound = zip(self.files, pool.map(_is_sound, self.files), strict=True)
            damaged = {_block_of(file) for file, is_sound in sound if not is_sound}
        for name in damaged:
            _withdraw(found[name], [file for file in self.files if _block_of(file) == name])
        if damaged:
            self._progress.say(f"{_count(len(damaged), 'block has', 'blocks have')} damaged rows: done again")
        return len(damaged)


def _kept(ids: Place, rows: list[Place]) -> np.ndarray | None:
    """The ids of a block, all of which have rows; None where rows or ids are missing."""
    promised, found = _readable_ids([ids]), _readable_ids(rows)
    if promised is None or found is None or not np.isin(promised, found).all():
        return None
    return promised


def _files_of_ids(ids: Place) -> dict[str, Place]:
    """Block -> the file of its ids, of all starts; the name of one that is pending still ends in `PENDING`."""
    files: list[Place] = sorted(ids.rglob("*.parquet"), key=str)
    return {file.name.removesuffix(".parquet"): file for file in files}


def _withdraw(ids: Place, rows: list[Place]) -> None:
    # The ids first: they are what counts.
    for part in [ids, *rows]:
        part.unlink(missing_ok=True)


def _block_of(rows: Place) -> str:
    return rows.name.rsplit("-", 1)[0]


def among(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the `ids` [N] are among the sorted `known` ones, bool [N]."""
    if not len(known):
        return np.zeros(len(ids), dtype=bool)
    return known[np.minimum(np.searchsorted(known, ids), len(known) - 1)] == ids


def read_ids(path: Place | list[Place]) -> np.ndarray:
    """The text ids [N] of a Parquet file, of several, or of all in a folder."""
    chunks = [table["text_id"].to_numpy() for table in read_tables(path, ["text_id"])]
    return np.concatenate([np.empty(0, dtype=np.int64), *chunks])


def _readable_ids(files: list[Place]) -> np.ndarray | None:
    """The text ids of the files, or None where one of them is damaged."""
    try:
        return read_ids(files)
    except (pa.ArrowInvalid, OSError):
        if all(_is_sound(file, ["text_id"]) for file in files):  # a disk or a store failed meanwhile
            raise
        return None


def _is_sound(file: Place, columns: list[str] | None = None) -> bool:
    """Whether the file is Parquet that can be read. Raises what its disk or its store raises."""
    # The whole file is read first. What fails after this line is the file, and not a store that fails for a while.
    content = pa.BufferReader(file.read_bytes())
    try:
        pq.read_table(content, columns=columns)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
