"""A sign in an object store that a run is being worked on, for machines that share no file locks."""

import contextlib
import itertools
import json
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

from upath import UPath

from cluster.repeating import repeating
from configs.errors import UserError

RENEWED_EVERY = 10.0  # seconds
DEAD_AFTER = 60.0  # seconds without renewal, by the clock of the machine that waits


@contextlib.contextmanager
def lease(sign: UPath) -> Iterator[None]:
    """Hold the sign while the block runs, renewing it.

    A sign of this machine is taken over at once: its file lock has shown that the holder is gone. One of another
    machine is taken over when it is not renewed for `DEAD_AFTER` seconds. Raises UserError when it is.
    """
    _wait_for_others(sign)
    mine = {"host": socket.gethostname(), "holder": uuid.uuid4().hex}
    renewals = itertools.count(1)

    def renew() -> None:
        with contextlib.suppress(Exception):  # an outage ends the run elsewhere, with the store's name
            _write(sign, mine | {"renewals": next(renewals)})

    _write(sign, mine)
    found = _read(sign)
    if found is None or found["holder"] != mine["holder"]:
        raise _busy(sign, found)
    try:
        with repeating(renew, RENEWED_EVERY):
            yield
    finally:
        with contextlib.suppress(Exception):
            sign.unlink()


def _wait_for_others(sign: UPath) -> None:
    found, end = _read(sign), time.monotonic() + DEAD_AFTER
    if found is None or found.get("host") == socket.gethostname():
        return
    while time.monotonic() < end:
        time.sleep(min(1.0, DEAD_AFTER / 10))
        now = _read(sign)
        if now is None:
            return
        if now != found:
            raise _busy(sign, now)


def _read(sign: UPath) -> dict[str, Any] | None:
    try:
        # In one request: what is opened, and changes before it is read, is an error.
        return json.loads(sign.fs.cat_file(sign.path))
    except FileNotFoundError:
        return None


def _write(sign: UPath, content: dict[str, Any]) -> None:
    sign.fs.pipe_file(sign.path, json.dumps(content).encode())


def _busy(sign: UPath, found: dict[str, Any] | None) -> UserError:
    host = (found or {}).get("host", "another machine")
    return UserError(f"A process on {host} works on {sign.parent}.", "Wait for it, or end it.")
