"""Locations that a run reads and writes: on a local disk, or in an object store (s3://, gs://).

The stores' clients find endpoint and credentials in the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...) or in
the files and roles of the machine. Credentials never pass through a config, so no log or manifest shows them.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from upath import UPath

from semtag.configs.errors import UserError
from semtag.configs.fields import place_name
from semtag.store import hub, packaged

Place = Path | UPath
LIBC = ctypes.CDLL(None)
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)

# The path of a Unix socket has at most 107 bytes. Ray adds at most 64 to its folder, `/semtag-XXXXXXXX/r` (18 bytes).
LONGEST_SOCKET_FOLDER = 107 - 64 - 18

# Errors of fsspec's and Arrow's clients that the object store caused, and not Semtag's code.
_TROUBLE = re.compile(
    r"Could not connect to the endpoint|Connection was closed|Connect timeout|Read timeout|endpoint URL|AWS Error|"
    r"NoSuchBucket|bucket does not exist|AccessDenied|Access Denied|InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden|"
    r"Unable to locate credentials|google\.cloud|storage\.googleapis"
)


def place_at(name: str | Place) -> Place:
    """Return the location of a name. Raises UserError for a bad name, and for a store without an installed client."""
    if not isinstance(name, str):
        return name
    try:
        name = place_name(name)
    except ValueError as error:
        raise UserError(f"{error}.", "Check the name of the location.") from None
    return _in_store(name) if in_store(name) else Path(name)


def _in_store(name: str) -> UPath:
    try:
        # Listings are not cached, because other processes write to the object store.
        found = UPath(name, use_listings_cache=False)
        _ = found.fs
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{name} cannot be reached: {error}", 'For s3:// do `pip install ".[s3]"`, for gs:// ".[gcs]".'
        ) from None
    return found


def in_store(name: str | Place) -> bool:
    """Return whether the name is a location in an object store."""
    return "://" in str(name)


def is_hub_name(name: str) -> bool:
    """Return whether the name is a model on a hub: OWNER/NAME or NAME, not packaged, and no path that exists.

    The name may end in `@REVISION`.
    """
    plain = not in_store(name) and not name.startswith((".", "/", "~")) and name.partition("@")[0].count("/") <= 1
    return plain and not packaged.is_packaged(name) and not Path(name).exists()


def remove(target: Place) -> None:
    """Delete a folder with its contents, if it exists."""
    if isinstance(target, Path):
        shutil.rmtree(target, ignore_errors=True)
    elif target.exists():
        target.fs.rm(target.path, recursive=True)


def upload(folder: Path, target: UPath) -> None:
    """Copy the files of a local folder, if it exists, to an object store. Each file appears whole or not at all."""
    for file in filter(Path.is_file, folder.rglob("*")):
        target.fs.put_file(str(file), (target / file.relative_to(folder).as_posix()).path)


def write_json(target: Place, value: Any) -> None:
    """Write a JSON file as `write_text` does."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file's name may be invalid UTF-8
        text = json.dumps(value, indent=2)
    write_text(target, text + "\n")


def write_text(target: Place, text: str) -> None:
    """Write a text file, whole or not at all, in place of an older file. Raises UserError if the disk refuses."""
    if not isinstance(target, Path):
        target.write_text(text, encoding="utf-8")
        return
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        sync(target.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise disk_error(error, target) from None


def sync(*paths: Path) -> None:
    """Flush files, and the names in folders, to the disk, so that they survive a power failure."""
    for path in paths:
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # some disks do not sync folders
                raise
        finally:
            os.close(opened)


def put_in_place(folder: Path, target: Path) -> None:
    """Rename a finished folder to `target`. An older folder is exchanged at once, where the disk can do so."""
    sync(*(path for path in folder.rglob("*") if not path.is_symlink()), folder)
    old = target.with_name(f".{target.name}.old.partial")
    if target.exists() and LIBC.renameat2(AT_FDCWD, bytes(folder), AT_FDCWD, bytes(target), RENAME_EXCHANGE) == 0:
        folder.rename(old)
    else:
        if target.exists():  # the disk cannot exchange two names
            target.rename(old)
        folder.rename(target)
    sync(target.parent)
    remove(old)


def make_folder(folder: Path) -> None:
    """Make a folder, unless it exists. Raises UserError if the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from None


def local_folder(name: str) -> str:
    """Return the local folder of a packaged model, a folder in an object store, or a hub model with `@REVISION`.

    The source is converted or fetched once for each of its states, and cached. Other names are returned unchanged.
    Raises UserError when the source is empty or missing.
    """
    if name in packaged.MODELS:
        return packaged.folder_of(name, cache_folder() / "packaged")
    if "@" in name and is_hub_name(name):
        return hub.snapshot(*name.split("@", 1))
    source = place_at(name)
    if isinstance(source, Path):
        return name.removeprefix("file://")
    with explain_store_errors(source):
        return str(_fetched(source))


def _fetched(source: UPath) -> Path:
    # Arrow's client marks a folder by an empty object with the folder's name.
    files = [file for file in source.fs.find(source.path) if not file.endswith("/")]
    if not files:
        raise UserError(f"{source} is empty or not there.", "Check the path.")
    states = [f"{file} {source.fs.checksum(file)}" for file in sorted(files)]
    copy = cache_folder() / "fetched" / short_hash("\n".join(states))
    make_folder(copy.parent)
    # All actors of a node ask for a model at once, but only one actor fetches the model.
    with FileLock(f"{copy}.lock"):
        if not copy.exists():
            partial = copy.with_name(f".{copy.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
            for file in files:
                _fetch(source, file, partial)
            partial.rename(copy)
    return copy


def _fetch(source: UPath, file: str, folder: Path) -> None:
    """Copy a file below `source` to its path in `folder`. Raises UserError if its name leads out of `folder`."""
    target = Path(os.path.normpath(folder / file.removeprefix(f"{source.path}/")))
    if not target.is_relative_to(folder):
        raise UserError(f"{source} holds a file whose name leads out of it: {file}.", "Remove that file.")
    target.parent.mkdir(parents=True, exist_ok=True)
    source.fs.get_file(file, str(target))


def cache_folder() -> Path:
    """Return this user's cache, for converted and fetched models and for local files of runs in an object store.

    The cache is $XDG_CACHE_HOME/semtag, or ~/.cache/semtag.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "semtag"


def socket_folder() -> str:
    """Return the folder of temporary files, or /tmp if that folder has too long a path for Ray's sockets.

    Raises UserError when neither folder is writable with a path of at most LONGEST_SOCKET_FOLDER bytes.
    """
    for folder in (tempfile.gettempdir(), "/tmp"):
        if len(os.fsencode(folder)) <= LONGEST_SOCKET_FOLDER and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise UserError(
        f"Ray's sockets fit neither into the temporary folder {tempfile.gettempdir()} nor into /tmp.",
        f"Set TMPDIR to a writable folder whose path has at most {LONGEST_SOCKET_FOLDER} bytes.",
    )


def working_folder(run: Place) -> Path:
    """Return the local folder of a run in an object store, for its lock, its checkpoints and its growing logs."""
    return cache_folder() / "runs" / f"{run.name}-{short_hash(str(run))}"


def weights_hash(folder: Place) -> str:
    """Return the hash of a folder's safetensors files, 16 hex digits. Names and order of the files do not matter."""
    hashes = []
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as source:
            digest = hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=8))  # type: ignore[arg-type]
        hashes.append(digest.hexdigest())
    return short_hash("".join(sorted(hashes)))


def uri(target: Place) -> str:
    """Return the location's full name, which Ray's workers on any node can open."""
    return str(target.resolve())


@contextlib.contextmanager
def explain_store_errors(where: Place) -> Iterator[None]:
    """Turn errors of the object store that holds `where` into UserErrors while the block runs."""
    try:
        yield
    except Exception as error:
        if known := store_error(error, where):
            raise known from None
        raise


def store_error(error: BaseException, where: Place) -> UserError | None:
    """Return a UserError that names the object store, or None if the object store did not cause the error."""
    if isinstance(where, Path) or not _TROUBLE.search(f"{type(error).__name__}: {error}"):
        return None
    store = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or f"{where.protocol}://"
    lines = str(error).strip().splitlines()
    telling = next((line for line in reversed(lines) if _TROUBLE.search(line)), lines[-1])
    return UserError(
        f"The object store {store}, which holds {where}, failed: {telling.strip()[:300]}",
        "Check that the store answers, that the bucket exists and that the credentials in the environment may write "
        "there. Then run the same command again to resume.",
    )


def disk_error(error: OSError, path: Place) -> UserError:
    """Return a UserError for an error of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"The disk that holds {path} is full.",
            "Free some space, then run the same command again to resume; or set run.root to another disk.",
        )
    return UserError(f"Cannot write to {path}: {error.strerror or error}.", "Check the path and its permissions.")


def short_hash(text: str) -> str:
    """Return the hash of a text, 16 hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
