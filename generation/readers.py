"""Every format that texts come in, read as a stream of rows."""

import csv
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster.parquet import read_rows as read_parquet_rows
from cluster.places import Place, in_store, naming_store, place_at
from configs.errors import UserError
from configs.schema import Data

ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".txt": "text",
    ".json": "squad",
}


@dataclass(frozen=True)
class Row:
    """One input row as read. `problem` is a reject reason for a row that could not be read, with its `detail`."""

    source: str
    values: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    detail: str = ""


def read_rows(data: Data) -> Iterator[Row]:
    """Stream the first `data.limit` rows of `data.path` in order, or all of them.

    Raises UserError when the source as a whole cannot be read.
    """
    with naming_store(place_at(data.path)):
        yield from itertools.islice(_all_rows(data), data.limit)


def _all_rows(data: Data) -> Iterator[Row]:
    format_ = detect_format(data)
    if format_ in ("hub", "disk"):
        yield from _read_dataset(data, format_)
        return
    for file in _files(place_at(data.path), format_):
        try:
            yield from READERS[format_](file, data)
        except OSError as error:
            raise UserError(f"Cannot read {file}: {error.strerror or error}.", "Check data.path.") from None


def detect_format(data: Data) -> str:
    """The configured format, or the one that the path shows."""
    path = place_at(data.path)
    if data.format != "auto":
        if data.format != "hub" and not path.exists():
            raise _missing(path)
        return data.format
    if path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            return "disk"
        endings = {ENDINGS[file.suffix] for file in path.iterdir() if file.suffix in ENDINGS}
        if len(endings) != 1:
            raise UserError(f"{path} holds {sorted(endings) or 'no known'} formats.", "Set data.format.")
        return endings.pop()
    if path.exists():
        if path.suffix not in ENDINGS:
            raise UserError(
                f"Cannot tell the format of {path}.", f"Set data.format; known endings: {', '.join(ENDINGS)}."
            )
        return ENDINGS[path.suffix]
    if path.suffix or path.is_absolute() or in_store(path) or data.path.startswith("."):
        raise _missing(path)
    return "hub"


def _missing(path: Place) -> UserError:
    return UserError(f"No such file: {path}.", "Check data.path; a relative path starts at the current folder.")


def _files(path: Place, format_: str) -> list[Place]:
    if path.is_file():
        return [path]
    files = sorted((file for file in path.iterdir() if ENDINGS.get(file.suffix) == format_), key=str)
    if not files:
        raise UserError(f"No {format_} file in {path}.", "Check data.path and data.format.")
    return files


def _read_jsonl(file: Place, data: Data) -> Iterator[Row]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            source = f"{file.name}:{number}"
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except UnicodeDecodeError as error:
                yield Row(source, {"line": _shown(line)}, "invalid_utf8", str(error))
            except (json.JSONDecodeError, RecursionError) as error:
                yield Row(source, {"line": _shown(line)}, "broken_line", str(error))
            else:
                if isinstance(values, dict):
                    yield Row(source, values)
                else:
                    yield Row(source, {"line": values}, "broken_line", "not a JSON object")


def _shown(line: bytes) -> str:
    return line[:2000].decode("utf-8", "backslashreplace")


def _read_parquet(file: Place, data: Data) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open("rb") as source:
            require_column(data.column, pq.read_schema(source).names, file)
        for number, values in enumerate(read_parquet_rows(file), 1):
            yield Row(f"{file.name}:{number}", values)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} is not a Parquet file: {error}.", "Check data.format.") from None


def _read_csv(file: Place, data: Data) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.DictReader(lines, restkey="extra_cells")
        require_column(data.column, list(reader.fieldnames or []), file)
        for values in reader:
            yield Row(f"{file.name}:{reader.line_num}", values)


def _read_text(file: Place, data: Data) -> Iterator[Row]:
    """A paragraph each; blank lines part them."""
    paragraph: list[str] = []
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(itertools.chain(lines, [""]), 1):
            if line.strip():
                paragraph.append(line.strip())
            elif paragraph:
                yield Row(f"{file.name}:{number - len(paragraph)}", {data.column: " ".join(paragraph)})
                paragraph = []


def _read_squad(file: Place, data: Data) -> Iterator[Row]:
    """SQuAD's own nesting: articles of paragraphs, each with the questions that it answers."""
    try:
        articles = json.loads(file.read_text(encoding="utf-8"))["data"]
        nested = [(article["title"], article["paragraphs"]) for article in articles]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not SQuAD JSON ({error!r}).", "Set data.format; JSON lines end in .jsonl."
        ) from None
    for title, paragraphs in nested:
        for number, paragraph in enumerate(paragraphs):
            values = {data.column: paragraph.get("context"), "title": title, "questions": _answered(paragraph)}
            yield Row(f"{file.name}:{title}:{number}", values)


def _answered(paragraph: dict[str, Any]) -> list[str]:
    """The questions that a SQuAD paragraph answers; version 2 has others beside them."""
    asked = [qa for qa in paragraph.get("qas") or [] if isinstance(qa, dict) and not qa.get("is_impossible")]
    return [qa["question"] for qa in asked if isinstance(qa.get("question"), str)]


def _read_dataset(data: Data, format_: str) -> Iterator[Row]:
    import datasets

    try:
        if format_ == "disk":
            loaded = datasets.load_from_disk(data.path)
            dataset = loaded[data.split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            dataset = datasets.load_dataset(
                data.path, data.subset, split=data.split, revision=data.revision, streaming=True
            )
    except Exception as error:  # the hub client raises many kinds; all mean that the source cannot be read
        raise UserError(
            f"Cannot load the dataset {data.path} ({type(error).__name__}: {str(error).splitlines()[0]}).",
            "Check data.path, data.subset and data.split, and the network; a file needs its ending.",
        ) from None
    if dataset.features:
        require_column(data.column, list(dataset.features), data.path)
    for number, values in enumerate(dataset):
        yield Row(f"{data.path}:{number}", dict(values))


def require_column(column: str, columns: list[str], source: Place | str) -> None:
    """Raises UserError when `column` is not among `columns`."""
    if column not in columns:
        raise UserError(
            f"{source} has no column '{column}'; it has: {', '.join(columns) or 'none'}.",
            "Set data.column to the one that holds the text.",
        )


READERS: dict[str, Callable[[Place, Data], Iterator[Row]]] = {
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "csv": _read_csv,
    "text": _read_text,
    "squad": _read_squad,
}
