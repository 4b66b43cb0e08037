"""Rows of a CSV from its lines. A broken row damages no other row, and no row is cut or merged with another."""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO

DELIMITERS = (",", ";", "\t", "|")
LONGEST_ROW = 2**24  # characters, because an unclosed quote must not read the rest of a large file into memory


@dataclass(frozen=True)
class Cells:
    """A row: its cells, and the number of its first line, from 1. A broken row has that `line` and a `problem`."""

    number: int
    cells: list[str] = field(default_factory=list)
    line: str = ""
    problem: str = ""


def delimited(text: TextIO, delimiter: str) -> Iterator[Cells]:
    """Yield the rows, the header first, without blank lines.

    After a broken row, reading continues at the second line of that row.
    """
    csv.field_size_limit(LONGEST_ROW)
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Cells(lines.number, line=lines.give_back(), problem=str(error))
        else:
            if cells:
                yield Cells(lines.number, cells)


class _Lines(Iterator[str]):
    """The lines of a file. All lines of a row but its first can be given back, to be read again."""

    def __init__(self, text: TextIO) -> None:
        self.number = 1  # of the first line of the row
        self._text = text
        self._given_back = deque[str]()
        self._row: list[str] = []
        self._size = 0

    def begin_row(self) -> None:
        """Start a row at the next line."""
        self.number += len(self._row)
        self._row, self._size = [], 0

    def __next__(self) -> str:
        line = self._given_back.popleft() if self._given_back else next(self._text)
        self._row.append(line)
        self._size += len(line)
        if self._size > LONGEST_ROW:
            raise csv.Error(f"a row of more than {LONGEST_ROW:,} characters")
        return line

    def give_back(self) -> str:
        """Give back all lines of the row but its first; return the first."""
        first, *others = self._row
        self._given_back.extendleft(reversed(others))
        self._row = [first]
        return first
