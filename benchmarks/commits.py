"""Ends of a whole job within the commit of a block, after each of its steps, on a disk and in a store.

In a store the server decides when: it holds the request that takes the step while the job is killed. On a disk Ray
commits by one rename, and the folders are watched: what the kill left is looked at, and says which step it met.
"""

import contextlib
import subprocess
from pathlib import Path

from benchmarks.family import Family
from benchmarks.stores import Store
from semtag.store.layout import RoundLayout

# As a store has them, but that the rows may be there in part, and that no copy comes before the end.
PENDING, ROWS, COMMITTED = ON_DISK = ("commit: ids pending", "commit: rows there", "commit: done")


def end_in_commit(
    step: str, job: subprocess.Popen[bytes], family: Family, layout: RoundLayout, store: Store | None
) -> str | None:
    """Kill the job at that step of the next commit; returns the step that it was met in, None if it ended before."""
    if store is None:
        return _end_on_disk(step, job, family, Path(str(layout.sampled_ids)), Path(str(layout.sampled)))
    store.hold(step)
    while job.poll() is None and not store.held.wait(0.05):
        family.watch()
    if met := job.poll() is None:
        family.end()
        job.wait()
    store.let_go(drop=met)
    return step if met else None


def _end_on_disk(step: str, job: subprocess.Popen[bytes], family: Family, ids: Path, rows: Path) -> str | None:
    before = last_commit(ids, rows)
    while job.poll() is None:
        family.watch()
        now = last_commit(ids, rows)
        if now and now != before and now[1] == step:
            family.end()
            job.wait()
            found = last_commit(ids, rows)
            return found[1] if found else None
    return None


def last_commit(ids: Path, rows: Path) -> tuple[str, str] | None:
    """The last block of the last start, and which of ON_DISK it has reached; None before the first block."""
    with contextlib.suppress(FileNotFoundError, ValueError):  # no folder or file yet, or one is moved meanwhile
        last = max(_newest(ids).glob("*.parquet"), key=lambda file: (file.stat().st_mtime_ns, file.name))
        block = last.name.removesuffix(".parquet").removesuffix(".pending")
        if not last.name.endswith(".pending.parquet"):
            return block, COMMITTED
        return block, ROWS if (rows / f"{block}-0.parquet").exists() else PENDING
    return None


def _newest(ids: Path) -> Path:
    return max(ids.iterdir(), key=lambda start: start.stat().st_mtime_ns)
