"""What a person sees of long work."""

import io

from cluster.progress import LINE_EVERY_SECONDS, Progress
from cluster.stage import describe


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then() -> None:
    out, clock = io.StringIO(), Clock()
    progress = Progress("rank", "texts", out, clock)
    progress.begin(1000)
    for _ in range(10):
        clock.now += LINE_EVERY_SECONDS / 5
        progress.advance(10, "note")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == "     rank  50 of 1,000 texts, 1.7/s, 9:30 left, note"


def test_a_terminal_gets_a_live_bar_that_goes_away() -> None:
    out, clock = Terminal(), Clock()
    with Progress("train", "steps", out, clock) as progress:
        progress.begin(8)
        clock.now += 7200
        progress.set(4)
    assert "\u2501" * 12 in out.getvalue()
    assert "2:00:00 left" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[2K")


def test_counts_in_words() -> None:
    counts = {"texts": 1200, "dropped": {"too_long": 3}, "rejects": {}, "mean_score": 0.25, "state": "x"}
    assert describe(counts) == "1,200 texts, dropped: 3 too long, mean score 0.25, state x"
