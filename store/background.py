"""Repeated calls of a function in a background thread."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

PATIENCE = 60.0  # seconds that the end of the block waits for a running call


@contextlib.contextmanager
def repeating(work: Callable[[], None], every: float, at_end: bool = False) -> Iterator[None]:
    """Call `work` in a thread, with `every` seconds between calls, while the block runs; `at_end` adds a last call.

    A call that fails is logged, and the calls continue. A call that hangs delays the end of the block by PATIENCE.
    """
    stop = threading.Event()

    def attempt() -> None:
        try:
            work()
        except Exception:
            logging.getLogger(__name__).warning("A call in the background failed.", exc_info=True)

    # `wait` gives False after `every` seconds, and True as soon as the block has ended.
    def repeat() -> None:
        while not stop.wait(every):
            attempt()
        if at_end:
            attempt()

    # A daemon, because a call that hangs must not keep the process alive.
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)
