"""The lock and the lease of a run, which let one process at a time write: a locked file, and numbered signs.

A file lock ends with its process, but some disks and all object stores have no file locks. So a holder also creates a
sign with the next number, the file `.lease/NUMBER`, and keeps renewing it. Disks and object stores let only one process
create that file. Numbers only grow. A holder that finds a higher number has lost the run, however long it was stopped.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import psutil
from upath import UPath

from semtag.configs.errors import UserError
from semtag.store.background import repeating
from semtag.store.locations import Place, disk_error, store_error, uri, write_text

SIGNS = ".lease"  # the run's folder of signs
HELD = "SEMTAG_LEASE"  # environment variable: the number that this process works under, and the run
# Seconds. A holder without a renewal for GIVEN_UP_AFTER ends its work within ENDS_WITHIN. The sum is below DEAD_AFTER,
# because another process takes the run over after DEAD_AFTER.
RENEWED_EVERY, WATCHED_EVERY = 10.0, 1.0
GIVEN_UP_AFTER, ENDS_WITHIN = 90.0, 15.0
DEAD_AFTER = 120.0

Sign = dict[str, Any]
NOBODY: Sign = {"host": "another machine"}  # stands for a sign that cannot be read at the moment


@contextlib.contextmanager
def file_lock(path: Path, run: Place, reading: bool = False) -> Iterator[tuple[TextIO, str | None]]:
    """Lock a file, made if missing, and yield the open file and a name of the lock.

    The name stands for this file in this running system. So machines, users and containers that lock files of their own
    have different names. The name is None on a disk without file locks. Raises UserError for a locked file.
    """
    with _opened(path, reading) as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if file.writable() else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            found = os.fstat(file.fileno())
            place: str | None = f"{_system()} {found.st_dev} {found.st_ino}"
        except BlockingIOError:
            raise UserError(f"Another process works on {run}.", "Wait for that process, or end it.") from None
        except OSError:  # such as on a disk without file locks
            place = None
        yield file, place


def _opened(path: Path, reading: bool) -> TextIO:
    try:
        return open(path, "a", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} is a link, but the lock must be a file.", "Remove the link.") from None
        if not (reading and _may_not_write(error)):
            raise disk_error(error, path) from None
    return (path if path.exists() else Path(os.devnull)).open()


def _may_not_write(error: OSError) -> bool:
    return isinstance(error, PermissionError) or error.errno == errno.EROFS or str(error).startswith("Forbidden")


def _system() -> str:
    """Return a name of the running system, which changes with each boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return uuid.uuid4().hex


class Holder:
    """The holder of a lease, which ends this process's work when the run is lost."""

    def __init__(self, run: Place, number: int, sign: Sign) -> None:
        self.run, self.number, self.sign = run, number, sign
        self.lost: UserError | None = None
        self._renewals = 0
        self._silent = 0.0  # seconds of running since the last renewal, or since the run was lost
        self._trouble: Exception = TimeoutError("Read timeout")

    def renew(self) -> None:
        """Renew the sign, unless another holder took the run over. A removed folder of signs is no takeover."""
        try:
            number, sign = _newest(self.run)
            another = sign.get("holder", self.sign["holder"]) != self.sign["holder"]
            if number > self.number or (number == self.number and another):
                self._lose(_taken_over(self.run, sign))
                return
            self._renewals += 1
            self._write({"renewals": self._renewals})
            self._silent = 0.0
        except Exception as error:  # an outage, whose length `watch` measures
            self._trouble = error

    def watch(self) -> None:
        """End the work after GIVEN_UP_AFTER seconds without a renewal; kill children that outlive a lost run.

        The method counts its own calls and ignores the clock, because a process that was stopped must try a renewal
        before it gives up. Children have ENDS_WITHIN seconds to end.
        """
        self._silent += WATCHED_EVERY
        if self.lost and self._silent > ENDS_WITHIN:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        elif not self.lost and self._silent > GIVEN_UP_AFTER:
            self._lose(store_error(self._trouble, self.run) or _not_renewed(self.run, self._trouble))

    def release(self) -> None:
        """Release the run. The sign stays, because its number must not be used again."""
        with contextlib.suppress(Exception):
            self._write({"released": True})

    def _write(self, more: Sign) -> None:
        write_text(self.run / SIGNS / str(self.number), json.dumps(self.sign | more))

    def _lose(self, why: UserError) -> None:
        if self.lost:
            return
        self.lost, self._silent = why, 0.0
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # SIGTERM ends this process silently
            print(f"error: {why}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def lease(run: Place, place: str | None, reading: bool = False) -> Iterator[Holder]:
    """Hold the run while the block runs, and renew the sign. SIGTERM ends this process when the run is lost.

    `place` is the name of this process's file lock. A sign with the same `place` is taken over at once, because its
    holder is gone. Other signs are taken over after DEAD_AFTER seconds without a renewal. With `reading`, a run that
    this process may not write is opened without a sign. Raises UserError when another holder lives, and at the end when
    the run was lost.
    """
    # Take the next number, unless the run is only read.
    number = _wait_for_others(run, place) + 1
    holder = Holder(run, number, {"host": socket.gethostname(), "place": place, "holder": uuid.uuid4().hex})
    try:
        _take(holder)
    except OSError as error:
        if not (reading and _may_not_write(error)):
            raise disk_error(error, run) if isinstance(run, Path) else error from None
        yield holder
        return
    # Renew the sign and watch the renewals, each in a thread.
    try:
        with _told(holder), repeating(holder.renew, RENEWED_EVERY), repeating(holder.watch, WATCHED_EVERY):
            yield holder
    finally:
        if holder.lost:
            raise holder.lost from None
        holder.release()


def check_held(run: Place) -> None:
    """Check that this process still holds the run. Raises UserError when the run has a newer sign."""
    number, _, where = os.environ.get(HELD, "").partition(" ")
    if where == uri(run):
        newest, sign = _newest(run)
        if newest > int(number):
            raise _taken_over(run, sign)


@contextlib.contextmanager
def _told(holder: Holder) -> Iterator[None]:
    """Tell child processes the number and the run, by an environment variable, while the block runs."""
    before = os.environ.get(HELD)
    os.environ[HELD] = f"{holder.number} {uri(holder.run)}"
    try:
        yield
    finally:
        os.environ.pop(HELD, None)
        if before is not None:
            os.environ[HELD] = before


def _wait_for_others(run: Place, place: str | None) -> int:
    """Wait until no other holder lives, and return the newest number. Raises UserError when a holder renews."""
    seen, end = _newest(run), time.monotonic() + DEAD_AFTER
    if waits := _may_live(seen[1], place):
        print(f"{_host(seen[1])} held {run}: waiting {DEAD_AFTER:g} seconds for its lease to expire", file=sys.stderr)
    while waits and time.monotonic() < end:
        time.sleep(min(1.0, DEAD_AFTER / 10))
        now = _newest(run)
        waits = _may_live(now[1], place)
        if waits and now != seen:
            raise _busy(run, now[1])
        seen = now
    return seen[0]


def _may_live(sign: Sign, place: str | None) -> bool:
    return bool(sign) and not sign.get("released") and (place is None or sign.get("place") != place)


def _take(holder: Holder) -> None:
    """Take the holder's number, and remove older signs. Raises UserError when another process was faster."""
    refused: OSError | None = None
    try:
        _create(holder.run / SIGNS / str(holder.number), json.dumps(holder.sign))
    except OSError as error:
        refused = error
    # The newest sign decides in any case. Some object stores ignore the condition, some raise other errors for a taken
    # number, and a reply may be lost on its way.
    number, sign = _newest(holder.run)
    if refused and number < holder.number:
        raise refused
    if (number, sign.get("holder")) != (holder.number, holder.sign["holder"]):
        raise _busy(holder.run, sign)
    for older in _numbers(holder.run) - {number}:
        with contextlib.suppress(Exception):
            (holder.run / SIGNS / str(older)).unlink()


def _create(sign: Place, content: str) -> None:
    """Create a file with its content. Raises OSError when the file exists."""
    if isinstance(sign, Path):
        sign.parent.mkdir(parents=True, exist_ok=True)
        with sign.open("x", encoding="utf-8") as file:
            file.write(content)
    else:
        sign.fs.pipe_file(sign.path, content.encode(), mode="create")


def _newest(run: Place) -> tuple[int, Sign]:
    """Return the newest number and its sign: 0 and {} without signs, NOBODY for a sign that cannot be read."""
    number = max(_numbers(run), default=0)
    sign = run / SIGNS / str(number)
    try:
        # One request, because a file that changes between opening and reading is an error.
        content = sign.fs.cat_file(sign.path) if isinstance(sign, UPath) else sign.read_bytes()
        return number, json.loads(content)
    except FileNotFoundError:
        return number, NOBODY if number else {}
    except ValueError:  # the sign is being written
        return number, NOBODY


def _numbers(run: Place) -> set[int]:
    signs = run / SIGNS
    found = signs.glob("*") if isinstance(signs, Path) else map(PurePosixPath, signs.fs.find(signs.path))
    return {int(sign.name) for sign in found if sign.name.isdigit()}


def _host(sign: Sign) -> str:
    return f"A process on {(sign or NOBODY)['host']}"


def _busy(run: Place, sign: Sign) -> UserError:
    return UserError(f"{_host(sign)} works on {run}.", "Wait for that process, or end it.")


def _taken_over(run: Place, sign: Sign) -> UserError:
    return UserError(
        f"{_host(sign)} took over {run}, because this process did not renew its lease in time.",
        "Wait for that process, or end it and run the same command again to resume.",
    )


def _not_renewed(run: Place, trouble: Exception) -> UserError:
    return UserError(
        f"The lease of {run} could not be renewed for {GIVEN_UP_AFTER:g} seconds: {trouble}",
        "Check the disk, then run the same command again to resume.",
    )
