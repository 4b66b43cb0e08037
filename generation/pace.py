"""The number of requests that a server is asked at once, and the pauses that it asks for."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

FIRST_WIDTH = 8  # requests in flight at the start
SLOWER = 4.0  # times the shortest answer that one may take before more requests in flight would only queue


class Pace:
    """The number of requests in flight: one more a round trip while the server keeps up, half when it refuses.

    This is additive increase and multiplicative decrease (Chiu and Jain 1989).
    """

    def __init__(self, most: int) -> None:
        self.most, self.width = most, float(min(FIRST_WIDTH, most))
        self._in_flight, self._changed = 0, asyncio.Condition()
        self._narrowed = self._closed_until = 0.0
        self._shortest = float("inf")

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Wait for a free slot, and for the end of a pause that the server asked for; give the time of the start."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._in_flight < int(self.width))
            self._in_flight += 1
        try:
            while (pause := self._closed_until - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            yield time.monotonic()
        finally:
            async with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def answered(self, began: float) -> None:
        """Widen after an answer, unless answers take longer than a queue of requests explains."""
        took = time.monotonic() - began
        self._shortest = min(self._shortest, took)
        if took <= SLOWER * self._shortest:
            self.width = min(float(self.most), self.width + 1 / self.width)

    def refused(self, began: float, pause: float) -> None:
        """Narrow once for all requests that were in flight together, and send none for `pause` seconds."""
        now = time.monotonic()
        self._closed_until = max(self._closed_until, now + pause)
        if began > self._narrowed:
            self.width, self._narrowed = max(1.0, self.width / 2), now
