"""Progress of long work: a live bar on a terminal, or a line every half minute in a log."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TextIO

LINE_EVERY_SECONDS = 30.0


@dataclass(frozen=True)
class Counts:
    """Counts of sampling and scoring: texts, candidates, valid and scored candidates, tokens, and the sum of scores.

    `read` and `written` are the tokens of prompts and answers that a server was asked for.
    """

    texts: int = 0
    candidates: int = 0
    valid: int = 0
    tokens: int = 0
    scored: int = 0
    score_sum: float = 0.0
    read: int = 0
    written: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.texts + other.texts,
            self.candidates + other.candidates,
            self.valid + other.valid,
            self.tokens + other.tokens,
            self.scored + other.scored,
            self.score_sum + other.score_sum,
            self.read + other.read,
            self.written + other.written,
        )


class Adds(Protocol):
    """The receiver of the workers' counts: a tally of the whole job, or an object that ignores counts."""

    def add(self, by: Counts, at_once: bool = False) -> None:
        """Add counts: `at_once`, or later together with other counts."""


class NoTally:
    """A receiver of counts that ignores them, where no progress is shown."""

    def add(self, by: Counts, at_once: bool = False) -> None:
        """Ignore the counts."""


class Progress(AbstractContextManager["Progress"]):
    """The progress display of one stage: count, rate and time left.

    `total` is None while the total is unknown. `note` is shown behind the figures. With a `price` of a node's hour, the
    display has the cost since the first call of `show`.
    """

    def __init__(
        self,
        label: str,
        unit: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        price: float | None = None,
    ):
        self.label, self.unit, self.price = label, unit, price
        self.cost = 0.0
        self._cost_until: float | None = None
        self.total: int | None = None
        self.count = self._before = 0
        self.note = ""
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._clock = clock
        self._start = self._last_shown = clock()

    def begin(self, total: int, before: int = 0, unit: str | None = None) -> None:
        """Start to count again, towards `total`, from the `before` units that an earlier attempt has done.

        The rate leaves these units out. `unit` replaces the unit's name if given.
        """
        self.unit = unit or self.unit
        self.total, self.count, self._before, self.note = total, before, before, ""
        self._start = self._clock()

    def advance(self, by: int = 1, note: str = "") -> None:
        """Count `by` more units."""
        self.set(self.count + by, note)

    def set(self, count: int, note: str = "") -> None:
        """Set the count, and show the progress if the last display is old enough."""
        self.count = count
        self.note = note or self.note
        if self._clock() - self._last_shown >= (0.2 if self._live else LINE_EVERY_SECONDS):
            self._show()

    def show(self, done: Counts, nodes: int) -> None:
        """Set the count and the note from `done`, and add the cost of `nodes` nodes since the last call."""
        now = self._clock()
        since, self._cost_until = now if self._cost_until is None else self._cost_until, now
        self.cost += nodes * (now - since) / 3600 * (self.price or 0)
        self.set(done.texts, self._figures(done, max(now - self._start, 1e-9)))

    def _figures(self, done: Counts, seconds: float) -> str:
        figures = []
        if done.tokens:  # replayed candidates may have no tokens
            figures.append(f"{done.tokens / seconds:,.0f} tokens/s")
        if done.candidates:
            figures.append(f"{done.valid / done.candidates:.1%} valid")
        if done.scored:
            figures.append(f"mean score {done.score_sum / done.scored:.3f}")
        if done.read or done.written:
            figures.append(f"{done.read + done.written:,} tokens bought")
        if self.price is not None:
            figures.append(f"cost {self.cost:,.2f}")
        return ", ".join(figures)

    def say(self, message: str) -> None:
        """Print the message on a line of its own, behind the label."""
        self._clear()
        print(f"{self.label:>9}  {message}", file=self._stream, flush=True)

    def line(self) -> str:
        """Format the progress as a line. Example: `50 of 1,000 texts, 1.7/s, 9:30 left, note`."""
        seconds = max(self._clock() - self._start, 1e-9)
        rate = (self.count - self._before) / seconds
        of = f" of {self.total:,}" if self.total else ""
        left = f", {_duration((self.total - self.count) / rate)} left" if self.total and rate else ""
        note = f", {self.note}" if self.note else ""
        return f"{self.count:,}{of} {self.unit}, {rate:,.1f}/s{left}{note}"

    def _show(self) -> None:
        self._last_shown = self._clock()
        if not self._live:
            self.say(self.line())
            return
        bar = "" if not self.total else _bar(self.count / self.total) + " "
        print(f"\r\x1b[2K{self.label:>9}  {bar}{self.line()}", end="", file=self._stream, flush=True)

    def _clear(self) -> None:
        if self._live:
            print("\r\x1b[2K", end="", file=self._stream)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()


def _bar(share: float, width: int = 24) -> str:
    filled = round(min(1.0, share) * width)
    return "━" * filled + "╺" * (filled < width) + " " * (width - filled - 1)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
