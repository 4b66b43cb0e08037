"""Conversion of cells of any type: to Python values, and to JSON or text that every later step can write."""

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

DEEPEST = 50  # levels of nesting that are kept of a value that json.dumps refuses
LONGEST = 2000  # bytes that are written; a longer value is a sound or a picture
DIGITS = 4300  # of an integer; Python refuses to parse more, because the time grows with their square


def as_json(value: Any) -> str:
    """Write a value as JSON in ASCII, the same on every run.

    Dates, decimals and bytes become text, because JSON has no such types. Long bytes are only counted. NaN and
    infinities become null. Example: `b"\\x89PNG"` becomes `"\\\\x89PNG"`.
    """
    try:
        return json.dumps(value, allow_nan=False, default=_as_text)
    except (ValueError, RecursionError):
        return json.dumps(_plain(value, DEEPEST), default=_as_text)


def as_article(value: Any) -> str | None:
    """Return a cell as the name of an article; None for null, NaN and an empty string."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return encodable(as_json(value) if isinstance(value, dict | list) else str(value))


def encodable(text: str) -> str:
    """Write surrogates, which UTF-8 cannot hold, as escapes: `caf\\udce9` becomes `caf\\\\udce9`."""
    return text.encode("utf-8", "backslashreplace").decode()


def load_json(text: str) -> Any:
    """Parse JSON; an integer with too many digits becomes text. Raises JSONDecodeError or RecursionError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < DIGITS else digits)


def rows_of(table: "pa.Table", features: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table. `features`, as the `datasets` library has them, name the class labels.

    Text that is not UTF-8 comes with surrogates, as Python reads such files. A value that Python cannot hold becomes
    text.
    """
    columns = [
        _values(column, features.get(name)) for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    for values in zip(*columns, strict=True):
        yield dict(zip(table.column_names, values, strict=True))


def named(value: Any, feature: Any) -> Any:
    """Replace a class label, or each in a list, by its name: 1 becomes `sports`. Keep other values.

    -1 means no label, and becomes None. A number above the names becomes text.
    """
    if isinstance(value, list):
        inner = getattr(feature, "feature", None)
        return value if inner is None else [named(part, inner) for part in value]
    names = getattr(feature, "names", None)
    if not names or not isinstance(value, int):
        return value
    if value < 0:
        return None
    return names[value] if value < len(names) else str(value)


def _values(column: "pa.ChunkedArray", feature: Any) -> list[Any]:
    try:
        values = column.to_pylist()
    except Exception:  # one bad cell fails the whole column, with errors of many kinds
        values = [_value(cell) for cell in column]
    return [named(value, feature) for value in values] if feature is not None else values


def _value(cell: "pa.Scalar") -> Any:
    """Convert one cell, part by part where the cell is nested."""
    import pyarrow as pa

    try:
        return cell.as_py()
    except Exception:
        if isinstance(cell, pa.DictionaryScalar):
            return _value(cell.value)
        if isinstance(cell, pa.StructScalar):
            return {cell.type[place].name: _value(cell[place]) for place in range(cell.type.num_fields)}
        if pa.types.is_nested(cell.type):
            return [_value(part) for part in cell.values]
    try:
        if pa.types.is_string(cell.type) or pa.types.is_large_string(cell.type):
            return cell.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
        return cell.cast(pa.string()).as_py()
    except Exception:
        return f"<{cell.type}>"


def _as_text(value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    return value.decode("utf-8", "backslashreplace") if len(value) <= LONGEST else f"<{len(value):,} bytes>"


def _plain(value: Any, levels: int) -> Any:
    """Return a value without NaN and infinities, and with at most `levels` levels of nesting."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not isinstance(value, dict | list | tuple):
        return value
    if not levels:
        return "nested too deeply"
    if isinstance(value, dict):
        return {key: _plain(part, levels - 1) for key, part in value.items()}
    return [_plain(part, levels - 1) for part in value]
