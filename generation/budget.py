"""An actor's share of the budget for a server: tokens are set aside before a request, and counted after it."""

from semtag.configs.schema import Budget


class Purse:
    """The share of one of `actors` equal buyers. A request that it has no room for is not sent."""

    def __init__(self, budget: Budget, actors: int) -> None:
        self._budget, self._actors = budget, actors
        self._read = self._written = 0  # counted, and set aside for requests in flight

    def take(self, read: int, written: int) -> bool:
        """Set tokens aside for a request; return whether there was room for them."""
        total_read, total_written = self._read + read, self._written + written
        tokens, cost = self._budget.tokens, self._budget.cost
        if tokens is not None and total_read + total_written > tokens / self._actors:
            return False
        if cost is not None and self._budget.cost_of(total_read, total_written) > cost / self._actors:
            return False
        self._read, self._written = total_read, total_written
        return True

    def correct(self, read: int, written: int) -> None:
        """Count what a request used beyond the tokens set aside; negative for less."""
        self._read, self._written = self._read + read, self._written + written
