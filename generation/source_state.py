"""The state of the data when a run read it, so that Semtag notices other data under the same path."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.generation.files import locate
from semtag.store.locations import explain_store_errors, place_at
from semtag.store.run_dir import RunDir

State = dict[str, dict[str, Any]]
# Keys of an object's content hash or time in the listings of object stores, the best first.
MARKS = ("ETag", "etag", "md5Hash", "LastModified", "updated", "mtime", "created")


def source_state(data: Data) -> State:
    """Return the state of each file to read, by its path; empty for a dataset of a hub.

    On a disk the state is size, time of change and a hash of the content, because copies of a file differ in time. In
    an object store the state is size and the object store's own mark of the content.
    """
    states = _states(data)
    return {name: state | ({"hash": _hash(name)} if "modified" in state else {}) for name, state in states.items()}


def check_source(run: RunDir, data: Data, mend: str) -> None:
    """Check that the data is what the run read. Raises UserError where a file is new, gone or changed.

    No error is raised if all files are gone, because the run has read them.
    """
    file = run.layout.source_state
    if not file.exists():
        return
    before, now = json.loads(file.read_text(encoding="utf-8")), _states(data)
    names = sorted(before.keys() | now.keys()) if now else []
    changed = [f"{name} {what}" for name in names if (what := _change(name, before.get(name), now.get(name)))]
    if changed:
        more = f" and {len(changed) - 3:,} more" if len(changed) > 3 else ""
        raise UserError(
            f"{data.where} is not the data that {run.path} read: {', '.join(changed[:3])}{more}.",
            f"Put the old data back, or {mend}.",
        )


def _change(file: str, before: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    """Say what became of a file, such as `is gone`; empty where the file is the same."""
    if before is None:
        return "is new"
    if now is None:
        return "is gone"
    if before | now == before:
        return ""
    copied = "hash" in before and before["size"] == now["size"] and before["hash"] == _hash(file)
    return "" if copied else "has changed"


def _states(data: Data) -> State:
    """Return the states without hashes; empty where no file is found."""
    states: State = {}
    for path in data.paths:
        with explain_store_errors(place_at(path)):
            states |= _states_below(path, data.format)
    return states


def _states_below(path: str, format_: str) -> State:
    place = place_at(path)
    try:
        located = locate(path, format_)
    except UserError:
        if place.exists():
            raise
        return {}
    files = [file.place for file in located.files]
    if located.format == "disk":
        files = [file for file in place.rglob("*") if file.is_file()]
    if isinstance(place, Path):
        stats = {str(file): file.stat() for file in files}
        return {name: {"size": stat.st_size, "modified": stat.st_mtime_ns} for name, stat in stats.items()}
    below = os.path.commonpath([file.path for file in files if not isinstance(file, Path)]) if files else place.path
    listed = place.fs.find(below, detail=True)  # one request in place of one for each file
    return {str(file): _in_store(listed[file.path]) for file in files if not isinstance(file, Path)}


def _in_store(entry: dict[str, Any]) -> dict[str, Any]:
    return {"size": entry.get("size"), "mark": next((str(entry[name]) for name in MARKS if entry.get(name)), "")}


def _hash(file: str) -> str:
    with Path(file).open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16))  # type: ignore[arg-type]
    return digest.hexdigest()
