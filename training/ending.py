"""The end of a training before its last step, by SIGTERM or SIGHUP: a checkpoint first, so that no step is lost.

The wish to end is a file beside the training, because the processes of a training on Ray get no signal.
`callbacks.EndWhenAsked` acts on it.
"""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

ENDED = "ended"  # the file, in the folder of the training
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def keep_wish(folder: Path) -> Iterator[None]:
    """Turn a signal that would end this process into the wish to end the training in `folder`, while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # under nohup, SIGHUP stays ignored
            signal.signal(number, lambda *_: (folder / ENDED).touch())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
