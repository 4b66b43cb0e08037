"""Who may write a run: one holder at a time, by a lock of a file and by numbered signs in the run.

A file lock ends with its process, but not all disks have them, and stores have none. So a holder takes the next number
as well, which disks and stores give to one alone, and renews its own sign. Numbers only grow: who finds a higher one
has lost the run, whatever it slept through.
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
HELD = "SEMTAG_LEASE"  # the environment variable that says which number this process works under, and in which run
# Seconds. A holder ends its work after GIVEN_UP_AFTER without a renewal, and has ENDS_WITHIN for that: together less
# than the DEAD_AFTER after which another one takes over.
RENEWED_EVERY, WATCHED_EVERY = 10.0, 1.0
GIVEN_UP_AFTER, ENDS_WITHIN = 90.0, 15.0
DEAD_AFTER = 120.0

Sign = dict[str, Any]
NOBODY: Sign = {"host": "another machine"}  # of a sign that cannot be read just now


@contextlib.contextmanager
def file_lock(path: Path, run: Place, reading: bool = False) -> Iterator[tuple[TextIO, str | None]]:
    """Lock the file, which is made where there is none; yields it, and a name for all that share this lock.

    The name is of this file in this running system, so it differs between machines, users and containers that lock
    files of their own. It is None on a disk without locks. Raises UserError when another process has the lock.
    """
    with _opened(path, reading) as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if file.writable() else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            found = os.fstat(file.fileno())
            place: str | None = f"{_system()} {found.st_dev} {found.st_ino}"
        except BlockingIOError:
            raise UserError(f"Another process works on {run}.", "Wait for it, or end it.") from None
        except OSError:  # as of a disk whose files cannot be locked
            place = None
        yield file, place


def _opened(path: Path, reading: bool) -> TextIO:
    try:
        return open(path, "a", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} is a link, and a lock is none.", "Remove it.") from None
        if not (reading and _may_not_write(error)):
            raise disk_error(error, path) from None
    return (path if path.exists() else Path(os.devnull)).open()


def _may_not_write(error: OSError) -> bool:
    return isinstance(error, PermissionError) or error.errno == errno.EROFS or str(error).startswith("Forbidden")


def _system() -> str:
    """A name for the running system, another one after each start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return uuid.uuid4().hex


class Holder:
    """The holder of a number, which ends this process's work when it has lost the run."""

    def __init__(self, run: Place, number: int, sign: Sign) -> None:
        self.run, self.number, self.sign = run, number, sign
        self.lost: UserError | None = None
        self._renewals = 0
        self._silent = 0.0  # seconds in which this process ran without a renewal, or since it lost the run
        self._trouble: Exception = TimeoutError("Read timeout")

    def renew(self) -> None:
        """Renew the sign, unless the run is another one's by now. Where its folder was removed, nobody took it over."""
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
        """End the work when renewals have failed for too long, and kill what has not ended by then.

        What counts are calls and not the clock: a process that was stopped asks first whether it was given up.
        """
        self._silent += WATCHED_EVERY
        if self.lost and self._silent > ENDS_WITHIN:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        elif not self.lost and self._silent > GIVEN_UP_AFTER:
            self._lose(store_error(self._trouble, self.run) or _not_renewed(self.run, self._trouble))

    def release(self) -> None:
        """Give the run back. The sign stays, because its number may not be given again."""
        with contextlib.suppress(Exception):
            self._write({"released": True})

    def _write(self, more: Sign) -> None:
        write_text(self.run / SIGNS / str(self.number), json.dumps(self.sign | more))

    def _lose(self, why: UserError) -> None:
        if self.lost:
            return
        self.lost, self._silent = why, 0.0
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # this process ends without another word
            print(f"error: {why}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def lease(run: Place, place: str | None, reading: bool = False) -> Iterator[Holder]:
    """Hold the run while the block runs, renewing the sign; SIGTERM ends this process when the run is lost.

    `place` is what this process has locked: a sign of the same place is taken over at once, because its holder is gone.
    Another one is taken over when it is not renewed for `DEAD_AFTER` seconds. With `reading`, a run that cannot be
    written to is read all the same. Raises UserError when another holder lives, and at the end when the run was lost.
    """
    number = _wait_for_others(run, place) + 1
    holder = Holder(run, number, {"host": socket.gethostname(), "place": place, "holder": uuid.uuid4().hex})
    try:
        _take(holder)
    except OSError as error:
        if not (reading and _may_not_write(error)):
            raise disk_error(error, run) if isinstance(run, Path) else error from None
        yield holder
        return
    try:
        with _told(holder), repeating(holder.renew, RENEWED_EVERY), repeating(holder.watch, WATCHED_EVERY):
            yield holder
    finally:
        if holder.lost:
            raise holder.lost from None
        holder.release()


def check_held(run: Place) -> None:
    """Raises UserError when the number that this process works under is no more the run's newest."""
    number, _, where = os.environ.get(HELD, "").partition(" ")
    if where == uri(run):
        newest, sign = _newest(run)
        if newest > int(number):
            raise _taken_over(run, sign)


@contextlib.contextmanager
def _told(holder: Holder) -> Iterator[None]:
    """Have the processes that this one starts know what they work under."""
    before = os.environ.get(HELD)
    os.environ[HELD] = f"{holder.number} {uri(holder.run)}"
    try:
        yield
    finally:
        os.environ.pop(HELD, None)
        if before is not None:
            os.environ[HELD] = before


def _wait_for_others(run: Place, place: str | None) -> int:
    """Wait until no other holder lives; returns the newest number."""
    seen, end = _newest(run), time.monotonic() + DEAD_AFTER
    if waits := _may_live(seen[1], place):
        print(f"{_host(seen[1])} worked on {run}: waiting {DEAD_AFTER:g} seconds for a sign of life", file=sys.stderr)
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
    """Take the holder's number, and remove older signs. Raises UserError when another one was faster."""
    refused: OSError | None = None
    try:
        _create(holder.run / SIGNS / str(holder.number), json.dumps(holder.sign))
    except OSError as error:
        refused = error
    # Asked in any case: some stores overlook the condition, some say otherwise that the number is taken, and an answer
    # may be lost on its way.
    number, sign = _newest(holder.run)
    if refused and number < holder.number:
        raise refused
    if (number, sign.get("holder")) != (holder.number, holder.sign["holder"]):
        raise _busy(holder.run, sign)
    for older in _numbers(holder.run) - {number}:
        with contextlib.suppress(Exception):
            (holder.run / SIGNS / str(older)).unlink()


def _create(sign: Place, content: str) -> None:
    """Write a file that is not there yet. Raises OSError where it is."""
    if isinstance(sign, Path):
        sign.parent.mkdir(parents=True, exist_ok=True)
        with sign.open("x", encoding="utf-8") as file:
            file.write(content)
    else:
        sign.fs.pipe_file(sign.path, content.encode(), mode="create")


def _newest(run: Place) -> tuple[int, Sign]:
    """The newest number with its sign, empty where there is none; one that cannot be read is `NOBODY`'s."""
    number = max(_numbers(run), default=0)
    sign = run / SIGNS / str(number)
    try:
        # In one request: what is opened, and changes before it is read, is an error.
        content = sign.fs.cat_file(sign.path) if isinstance(sign, UPath) else sign.read_bytes()
        return number, json.loads(content)
    except FileNotFoundError:
        return number, NOBODY if number else {}
    except ValueError:  # it is being written
        return number, NOBODY


def _numbers(run: Place) -> set[int]:
    signs = run / SIGNS
    found = signs.glob("*") if isinstance(signs, Path) else map(PurePosixPath, signs.fs.find(signs.path))
    return {int(sign.name) for sign in found if sign.name.isdigit()}


def _host(sign: Sign) -> str:
    return f"A process on {(sign or NOBODY)['host']}"


def _busy(run: Place, sign: Sign) -> UserError:
    return UserError(f"{_host(sign)} works on {run}.", "Wait for it, or end it.")


def _taken_over(run: Place, sign: Sign) -> UserError:
    return UserError(
        f"{_host(sign)} took over {run}, because this one gave no sign of life for a while.",
        "Leave the run to it, or end it and run the same command again: it resumes.",
    )


def _not_renewed(run: Place, trouble: Exception) -> UserError:
    return UserError(
        f"The lease of {run} could not be renewed for {GIVEN_UP_AFTER:g} seconds: {trouble}",
        "Check the disk, then run the same command again: it resumes.",
    )
