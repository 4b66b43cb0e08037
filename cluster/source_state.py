"""What the data was when a run read it, so that other data under the same path is noticed."""

import hashlib
import json
from pathlib import Path
from typing import Any

from cluster.places import naming_store, place_at
from cluster.run_dir import RunDir
from configs.errors import UserError
from configs.schema import Data

State = dict[str, dict[str, Any]]
MARKS = ("ETag", "etag", "md5Hash", "LastModified", "updated", "mtime", "created")  # the best first


def source_state(data: Data) -> State:
    """The state of each file of the data, by its place below `data.path`; nothing for a dataset of a hub.

    On a disk it is size, time of change and a hash of the content, because copies of one file differ in their time. In
    an object store it is size and the store's own mark of the content.
    """
    state = _listed(data)
    if isinstance(root := place_at(data.path), Path):
        for name, of_file in state.items():
            of_file["hash"] = _hash(root / name)
    return state


def check_source(run: RunDir, data: Data, mend: str) -> None:
    """Raises UserError where the data is no more what the run read. All of it may be gone: it was read."""
    file = run.layout.source_state
    if not file.exists():
        return
    before, now = json.loads(file.read_text(encoding="utf-8")), _listed(data)
    if not now:
        return
    changed = [
        f"{name or data.path} {what}"
        for name in sorted(before.keys() | now.keys())
        if (what := _change(Path(data.path) / name, before.get(name), now.get(name)))
    ]
    if changed:
        more = f" and {len(changed) - 3:,} more" if len(changed) > 3 else ""
        raise UserError(
            f"{data.path} is no more what {run.path} read: {', '.join(changed[:3])}{more}.",
            f"Put the old data back, or {mend}.",
        )


def _change(file: Path, before: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    """What became of a file, in words; nothing where it is the same."""
    if before is None:
        return "is new"
    if now is None:
        return "is gone"
    if before | now == before:
        return ""
    same = "hash" in before and before["size"] == now["size"] and before["hash"] == _hash(file)
    return "" if same else "has changed"


def _listed(data: Data) -> State:
    """The files of the data without their hashes. Hidden files, and those that begin with _, are no data."""
    root = place_at(data.path)
    if not isinstance(root, Path):
        with naming_store(root):
            found = root.fs.find(root.path, detail=True)
        names = {name.removeprefix(root.path).strip("/"): entry for name, entry in found.items()}
        return {name: _in_store(entry) for name, entry in names.items() if _is_data(name)}
    files = {"": root} if root.is_file() else {file.relative_to(root).as_posix(): file for file in root.rglob("*")}
    stats = {name: file.stat() for name, file in files.items() if _is_data(name) and file.is_file()}
    return {name: {"size": stat.st_size, "modified": stat.st_mtime_ns} for name, stat in stats.items()}


def _is_data(name: str) -> bool:
    return not any(part.startswith((".", "_")) for part in name.split("/"))


def _in_store(entry: dict[str, Any]) -> dict[str, Any]:
    mark = next((str(entry[name]) for name in MARKS if entry.get(name)), "")
    return {"size": entry.get("size"), "mark": mark}


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16))  # type: ignore[arg-type]
    return digest.hexdigest()
