"""Hashes that are the same on every machine, and a set of 64-bit ids."""

import hashlib

import numpy as np


def hash64(*parts: object) -> int:
    """Return the signed 64-bit BLAKE2b hash of the parts, the same on every machine."""
    joined = "\x1f".join(map(str, parts)).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big", signed=True)


class IdSet:
    """A growing set of signed 64-bit ids, of 8 bytes each, in sorted arrays. Arrays of similar size are merged."""

    RECENT = 2**16  # ids that a Python set holds before they become a sorted array

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted: list[np.ndarray] = []  # from long to short

    def add(self, id_: int) -> bool:
        """Add an id, and return whether the id is new."""
        if id_ in self._recent or any(_holds(ids, id_) for ids in self._sorted):
            return False
        self._recent.add(id_)
        if len(self._recent) == self.RECENT:
            merged = np.array(sorted(self._recent), dtype=np.int64)
            while self._sorted and len(self._sorted[-1]) <= len(merged):
                merged = np.sort(np.concatenate([self._sorted.pop(), merged]), kind="stable")
            self._sorted.append(merged)
            self._recent.clear()
        return True


def _holds(ids: np.ndarray, id_: int) -> bool:
    place = int(ids.searchsorted(id_))
    return place < len(ids) and int(ids[place]) == id_
