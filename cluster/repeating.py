"""Work that goes on beside other work."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeating(work: Callable[[], None], every: float) -> Iterator[None]:
    """Call `work` in a thread, every so many seconds, while the block runs."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(every):
            work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
