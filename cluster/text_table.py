"""Tables of text for a terminal."""

from collections.abc import Container, Sequence


def text_table(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Format rows as the lines of a table, with a rule below the first row.

    Columns whose place, from 0, is in `right` are aligned to the right.
    Example: `[("a", "b"), ("1", "22")]` becomes `["a  b", "─────", "1  22"]`.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (f"{cell:{'>' if place in right else '<'}{widths[place]}}" for place, cell in enumerate(row))
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "─" * max(map(len, lines)), *lines[1:]]
