"""Work that goes on beside other work."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

PATIENCE = 60.0  # seconds that the end of the block waits for work that is going on


@contextlib.contextmanager
def repeating(work: Callable[[], None], every: float, at_end: bool = False) -> Iterator[None]:
    """Call `work` in a thread, every so many seconds, while the block runs, and with `at_end` once more after it.

    Work that fails is logged and called again. Work that hangs does not keep the block from ending.
    """
    stop = threading.Event()

    def attempt() -> None:
        try:
            work()
        except Exception:
            logging.getLogger(__name__).warning("Work beside other work failed.", exc_info=True)

    def repeat() -> None:
        while not stop.wait(every):
            attempt()
        if at_end:
            attempt()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)
