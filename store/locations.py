"""Places that a run reads from and writes to: a local disk, or an object store (s3://, gs://).

Clients find endpoint and credentials as they always do, in the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...)
or in the files and roles of the machine. None passes through a config, so none ends in a log or a manifest.
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

# Unix takes 107 bytes for the path of a socket. Ray adds 64 at most to its folder, and that is `/semtag-XXXXXXXX/r`.
LONGEST_SOCKET_FOLDER = 107 - 64 - 18

# How fsspec's and Arrow's clients name what went wrong in the store and not in our code.
_TROUBLE = re.compile(
    r"Could not connect to the endpoint|Connection was closed|Connect timeout|Read timeout|endpoint URL|AWS Error|"
    r"NoSuchBucket|bucket does not exist|AccessDenied|Access Denied|InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden|"
    r"Unable to locate credentials|google\.cloud|storage\.googleapis"
)


def place_at(name: str | Place) -> Place:
    """The place of that name. Raises UserError for a store that no installed client speaks to, or none may."""
    if not isinstance(name, str):
        return name
    try:
        name = place_name(name)
    except ValueError as error:
        raise UserError(f"{error}.", "Check the name of the place.") from None
    return _in_store(name) if in_store(name) else Path(name)


def _in_store(name: str) -> UPath:
    try:
        # A store's listing must be asked for anew each time: other processes write there.
        found = UPath(name, use_listings_cache=False)
        _ = found.fs
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{name} cannot be reached: {error}", 'For s3:// install ".[s3]", for gs:// ".[gcs]".'
        ) from None
    return found


def in_store(name: str | Place) -> bool:
    """Whether that names a place in an object store."""
    return "://" in str(name)


def is_hub_name(name: str) -> bool:
    """Whether that can only be the name of a model on a hub, OWNER/NAME or NAME, and no such path is there.

    Behind an `@` a name may say which revision of the model is meant.
    """
    plain = not in_store(name) and not name.startswith((".", "/", "~")) and name.partition("@")[0].count("/") <= 1
    return plain and not packaged.is_packaged(name) and not Path(name).exists()


def remove(target: Place) -> None:
    """Delete a folder with all that is in it, where there is one."""
    if isinstance(target, Path):
        shutil.rmtree(target, ignore_errors=True)
    elif target.exists():
        target.fs.rm(target.path, recursive=True)


def upload(folder: Path, target: UPath) -> None:
    """Copy all files of a local folder, if there is one, to a store; each appears there whole or not at all."""
    for file in filter(Path.is_file, folder.rglob("*")):
        target.fs.put_file(str(file), (target / file.relative_to(folder).as_posix()).path)


def write_json(target: Place, value: Any) -> None:
    """Write a JSON file as `write_text` does."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file's name may be no UTF-8
        text = json.dumps(value, indent=2)
    write_text(target, text + "\n")


def write_text(target: Place, text: str) -> None:
    """Write a text file, in place of an older one. Raises UserError where a disk does not take it."""
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
    """Have the disk keep what was written to the files, and the names in the folders, also when the power goes."""
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
    """Give a whole folder its name, in place of an older one, with no moment at which neither is there."""
    sync(*(path for path in folder.rglob("*") if not path.is_symlink()), folder)
    old = target.with_name(f".{target.name}.old.partial")
    if target.exists() and LIBC.renameat2(AT_FDCWD, bytes(folder), AT_FDCWD, bytes(target), RENAME_EXCHANGE) == 0:
        folder.rename(old)
    else:
        if target.exists():  # on a disk that cannot exchange two names
            target.rename(old)
        folder.rename(target)
    sync(target.parent)
    remove(old)


def make_folder(folder: Path) -> None:
    """Make a folder where there is none. Raises UserError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from None


def local_folder(name: str) -> str:
    """The folder of this machine for a packaged model, a folder of a store, or a certain revision of a hub's model.

    Each is converted or fetched once for each state of its source, and kept in a cache. Other names come back as they
    are. Raises UserError when there is nothing.
    """
    if name in packaged.MODELS:
        return packaged.folder_of(name, cache_folder() / "packaged")
    if "@" in name and is_hub_name(name):
        return hub.snapshot(*name.split("@", 1))
    source = place_at(name)
    if isinstance(source, Path):
        return name.removeprefix("file://")
    with naming_store(source):
        return str(_fetched(source))


def _fetched(source: UPath) -> Path:
    # Arrow's client marks a folder by an empty object of its name.
    files = [file for file in source.fs.find(source.path) if not file.endswith("/")]
    if not files:
        raise UserError(f"{source} is empty or not there.", "Check the path.")
    states = [f"{file} {source.fs.checksum(file)}" for file in sorted(files)]
    copy = cache_folder() / "fetched" / short_hash("\n".join(states))
    make_folder(copy.parent)
    # All actors of a node ask for a model at once, and one of them fetches it.
    with FileLock(f"{copy}.lock"):
        if not copy.exists():
            partial = copy.with_name(f".{copy.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            for file in files:
                _fetch(source, file, partial)
            partial.rename(copy)
    return copy


def _fetch(source: UPath, file: str, folder: Path) -> None:
    """Copy a file of the store to where it lies below `source`. Raises UserError where its name leads out of that."""
    target = Path(os.path.normpath(folder / file.removeprefix(f"{source.path}/")))
    if not target.is_relative_to(folder):
        raise UserError(f"{source} holds a file whose name leads out of it: {file}.", "Remove it from there.")
    target.parent.mkdir(parents=True, exist_ok=True)
    source.fs.get_file(file, str(target))


def cache_folder() -> Path:
    """Where this user's local files of runs in a store and converted models are kept.

    It is $XDG_CACHE_HOME/semtag, or ~/.cache/semtag.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "semtag"


def socket_folder() -> str:
    """The folder of temporary files, or another one where that has too long a name for the sockets that lie in it.

    Raises UserError where neither will do.
    """
    for folder in (tempfile.gettempdir(), "/tmp"):
        if len(os.fsencode(folder)) <= LONGEST_SOCKET_FOLDER and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise UserError(
        f"The name of the temporary folder {tempfile.gettempdir()} is too long for Ray's sockets, and /tmp is not "
        "writable.",
        f"Set TMPDIR to a folder whose path has at most {LONGEST_SOCKET_FOLDER} bytes.",
    )


def working_folder(run: Place) -> Path:
    """The local folder for what a run in a store keeps on this machine: logs as they grow, checkpoints, its lock."""
    return cache_folder() / "runs" / f"{run.name}-{short_hash(str(run))}"


def weights_hash(folder: Place) -> str:
    """Hash of a folder's safetensors files, 16 hex digits; their names and their order do not matter."""
    hashes = []
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as source:
            digest = hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=8))  # type: ignore[arg-type]
        hashes.append(digest.hexdigest())
    return short_hash("".join(sorted(hashes)))


def uri(target: Place) -> str:
    """The place's full name, as Ray's workers on any node understand it."""
    return str(target.resolve())


@contextlib.contextmanager
def naming_store(where: Place) -> Iterator[None]:
    """Raises UserError for what goes wrong in the store that holds `where` while the block runs."""
    try:
        yield
    except Exception as error:
        if known := store_error(error, where):
            raise known from None
        raise


def store_error(error: BaseException, where: Place) -> UserError | None:
    """The error in words when it is the store's, naming the store; None when it is another one."""
    if isinstance(where, Path) or not _TROUBLE.search(f"{type(error).__name__}: {error}"):
        return None
    store = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or f"{where.protocol}://"
    lines = str(error).strip().splitlines()
    telling = next((line for line in reversed(lines) if _TROUBLE.search(line)), lines[-1])
    return UserError(
        f"The object store {store}, which holds {where}, failed: {telling.strip()[:300]}",
        "Check that it answers, that the bucket exists and that the credentials in the environment may write there; "
        "then run the same command again: it resumes.",
    )


def disk_error(error: OSError, path: Place) -> UserError:
    """The error of the disk in words, for a full disk with its mend."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"The disk that holds {path} is full.",
            "Free some space or set run.root to another disk, then run the same command again: it resumes.",
        )
    return UserError(f"Cannot write to {path}: {error.strerror or error}.", "Check the path and its permissions.")


def short_hash(text: str) -> str:
    """Hash of a text, 16 hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
