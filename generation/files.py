"""The files that `data.path` names, their format, and how to open them: folders, patterns, compression."""

import codecs
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, TextIO, cast

from semtag.configs.errors import UserError
from semtag.store.locations import Place, in_store, place_at

ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
HIDDEN = (".", "_")  # first characters of files that belong to other programs, such as _SUCCESS
WILD = "*?["  # characters that make a path a pattern
LIKE = {"jsonl": ".json", "squad": ".json"}  # the ending to read where no file has an ending of the format


@dataclass(frozen=True)
class File:
    """A file of texts. `name` is the path below the folder, or below the part of a pattern without wildcards."""

    place: Place
    name: str


@dataclass(frozen=True)
class Located:
    """The meaning of a path: files of one format, or a dataset on a disk or a hub. `skipped` names files not read."""

    format: str
    files: list[File] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def locate(path: str, format_: str = "auto") -> Located:
    """Find a file, a folder with its subfolders, a pattern such as `texts/*.jsonl`, or a dataset by its path.

    A format other than `auto` is trusted. Raises UserError where no file is found, or where the files have no known
    format or several formats.
    """
    place = place_at(path)
    if format_ == "hub":
        return Located("hub")
    if place.is_dir():
        if format_ == "disk" or (format_ == "auto" and _is_dataset(place)):
            return Located("disk")
        return _of_one_format(path, list(_below(place)), format_)
    if place.exists():
        return Located(_format_of(File(place, place.name), format_), [File(place, place.name)])
    if _is_wild(path):
        return _of_one_format(path, _matching(place), format_)
    if format_ != "auto" or place.suffix or place.is_absolute() or in_store(place) or path.startswith("."):
        raise UserError(f"No such file: {place}.", "Check data.path; a relative path starts at the current folder.")
    return Located("hub")


def ending(name: str) -> str:
    """Return the ending that tells the format: `A.JSONL.gz` becomes `.jsonl`."""
    path = PurePosixPath(name.lower())
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix


def opened(file: File) -> BinaryIO:
    """Open a file for reading; a file with an ending of COMPRESSED is decompressed."""
    compression = "infer" if file.place.suffix.lower() in COMPRESSED else None
    if compression:
        _know_zstd()
    if isinstance(file.place, Path):
        from fsspec.implementations.local import LocalFileSystem

        found: IO[bytes] = LocalFileSystem().open(str(file.place), "rb", compression=compression)
    else:
        found = file.place.fs.open(file.place.path, "rb", compression=compression)
    return cast(BinaryIO, found)


def opened_text(file: File, encoding: str, newline: str | None = None) -> TextIO:
    """Open a file as text, without a byte-order mark. Bytes that the encoding lacks become surrogates."""
    name = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    return io.TextIOWrapper(opened(file), name, "surrogateescape", newline)


def _know_zstd() -> None:
    """Let fsspec read zstd through Arrow, because Arrow is installed anyway."""
    import fsspec.compression
    import pyarrow as pa

    def read(source: BinaryIO, **_: object) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(source, "zstd")))

    fsspec.compression.register_compression("zstd", read, "zst", force=True)


def _is_dataset(folder: Place) -> bool:
    return any((folder / name).exists() for name in ("dataset_info.json", "dataset_dict.json"))


def _below(folder: Place) -> Iterator[File]:
    """Yield all files of a folder and its subfolders. Links are followed, hidden subfolders are left out."""
    if not isinstance(folder, Path):
        root = folder.path.rstrip("/")
        names = [path.removeprefix(f"{root}/") for path in folder.fs.find(root)]
        # Arrow's client marks a folder by an empty object whose name ends in a slash.
        shown = (name for name in names if not (_in_hidden_folder(name) or name.endswith("/")))
        yield from (File(folder / name, name) for name in shown)
        return
    seen = set()
    for here, folders, names in os.walk(folder, onerror=_cannot_list, followlinks=True):
        if (real := os.path.realpath(here)) in seen:
            folders.clear()  # a link back to a folder above
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(HIDDEN)]
        places = [Path(here, name) for name in names]
        yield from (File(place, place.relative_to(folder).as_posix()) for place in places)


def _is_wild(name: str) -> bool:
    return any(sign in name for sign in WILD)


def _in_hidden_folder(name: str) -> bool:
    return any(part.startswith(HIDDEN) for part in name.split("/")[:-1])


def _is_hidden(file: File) -> bool:
    return PurePosixPath(file.name).name.startswith(HIDDEN)


def _cannot_list(error: OSError) -> None:
    raise UserError(
        f"Cannot read the folder {error.filename}: {error.strerror}.", "Check data.path and the folder's permissions."
    )


def _matching(pattern: Place) -> list[File]:
    """Return the files that a pattern matches, and the files in folders that it matches, each once."""
    wild = next(part for part in reversed([pattern, *pattern.parents]) if _is_wild(part.name))
    head, files = wild.parent, dict[str, File]()
    try:
        matches = sorted(head.glob(pattern.relative_to(head).as_posix()), key=str)
    except ValueError as error:
        raise UserError(f"{pattern} is not a valid pattern: {error}.", "Correct data.path.") from None
    for found in matches:
        for place in [file.place for file in _below(found)] if found.is_dir() else [found]:
            name = place.relative_to(head).as_posix()
            if not _in_hidden_folder(name):
                files.setdefault(str(place.resolve()), File(place, name))
    return list(files.values())


def _of_one_format(path: str, files: list[File], format_: str) -> Located:
    """Return the files with an ending of the format, else the files with its ending in `LIKE`, else all files.

    Hidden files are never read. A hidden file with a known ending is among the skipped files. Raises UserError when
    no file is found, or when `format_` is auto and the files do not have one known format.
    """
    files.sort(key=lambda file: file.name)
    hidden = [file.name for file in files if _is_hidden(file) and ending(file.name) in ENDINGS]
    files = [file for file in files if not _is_hidden(file)]
    if not files:
        raise UserError(f"No file in {path}.", "Check data.path; a relative path starts at the current folder.")
    endings = {ending(file.name) for file in files}
    formats = {ENDINGS[one] for one in endings if one in ENDINGS}
    if format_ == "auto" and len(formats) != 1:
        held = f"files of several formats: {', '.join(sorted(formats))}" if formats else "no file of a known format"
        raise UserError(f"{path} holds {held}. The first file is {files[0].name}.", "Set data.format.")
    wanted = formats.pop() if format_ == "auto" else format_
    own = {one for one in endings if ENDINGS.get(one) == wanted} or endings & {LIKE.get(wanted)} or endings
    taken = [file for file in files if ending(file.name) in own]
    return Located(wanted, taken, [*(file.name for file in files if ending(file.name) not in own), *hidden])


def _format_of(file: File, format_: str) -> str:
    if format_ != "auto":
        return format_
    if ending(file.name) not in ENDINGS:
        known = f"{', '.join(ENDINGS)}, each also with {', '.join(COMPRESSED)}"
        raise UserError(f"Cannot tell the format of {file.place}.", f"Set data.format. Known endings: {known}.")
    return ENDINGS[ending(file.name)]
