"""Readers of files and datasets in every format, each a stream of rows."""

import itertools
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.generation.cells import encodable, load_json, rows_of
from semtag.generation.delimited import DELIMITERS, delimited
from semtag.generation.documents import Part, split_rows
from semtag.generation.files import File, ending, locate, opened, opened_text
from semtag.generation.reasons import RejectReason
from semtag.generation.typed import features_of, load_dataset, rows_of_dataset
from semtag.store.hub import fix_for
from semtag.store.locations import Place, explain_store_errors, place_at
from semtag.store.parquet import ROWS_PER_GROUP

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """An input row. For a row that cannot be read, `problem` is the reason, with its `detail`."""

    source: str
    values: dict[str, Any] = field(default_factory=dict)
    problem: RejectReason | None = None
    detail: str = ""
    part: Part | None = None  # set where data.max_words splits documents


def read_rows(data: Data, say: Say = lambda _: None) -> Iterator[Row]:
    """Yield the first `data.limit` rows of `data.path`, in order, or all rows. `say` is told which files are not read.

    A row for each part comes in place of a row whose text is longer than `data.max_words`. Raises UserError when a
    whole source cannot be read.
    """
    yield from split_rows(itertools.islice(_all_rows(data, say), data.limit), data)


def _all_rows(data: Data, say: Say) -> Iterator[Row]:
    for path in data.paths:
        with explain_store_errors(place_at(path)):
            located = locate(path, data.format)
            if located.skipped:
                say(
                    f"{path}: {len(located.skipped):,} files are hidden or not {located.format} and are not read, "
                    f"such as {located.skipped[0]}"
                )
            if located.format in ("hub", "disk"):
                yield from _read_dataset(path, data, located.format)
            for file in located.files:
                yield from _rows_of_file(file, data, READERS[located.format])


def _rows_of_file(file: File, data: Data, read: "Reader") -> Iterator[Row]:
    try:
        yield from read(file, data)
    except UnicodeError as error:
        raise UserError(
            f"{file.place} is not in {data.encoding}: {_reason(error)}.", "Set data.encoding to the file's encoding."
        ) from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"Cannot read {file.place}: {_reason(error)}.", "Check data.path and the file.") from None


def _reason(error: Exception) -> str:
    """Return the first line of an error's message, without its full stop."""
    said = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return said.splitlines()[0].rstrip(". ")


def _read_jsonl(file: File, data: Data) -> Iterator[Row]:
    with opened_text(file, data.encoding, newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _row_of_line(f"{file.name}:{number}", line)


def _row_of_line(source: str, line: str) -> Row:
    # Files with byte-order marks may be concatenated, so any line may begin with a mark.
    line = line.removeprefix("\ufeff").rstrip("\r\n")
    try:
        line.encode()
        values = load_json(line)
    except UnicodeEncodeError as error:
        return Row(source, {"line": _shown(line)}, RejectReason.INVALID_UTF8, encodable(str(error)))
    except (json.JSONDecodeError, RecursionError) as error:
        return Row(source, {"line": _shown(line)}, RejectReason.BROKEN_LINE, str(error))
    return _row_of_value(source, values)


def _row_of_value(source: str, values: Any) -> Row:
    if isinstance(values, dict):
        return Row(source, values)
    return Row(source, {"line": values}, RejectReason.BROKEN_LINE, "not a JSON object")


def _shown(line: str) -> str:
    return encodable(line[:2000])


def _read_json(file: File, data: Data) -> Iterator[Row]:
    """Read a .json file by its content: JSON lines, an array of rows, SQuAD's nesting, or one row."""
    with opened_text(file, data.encoding) as text:
        first = next((line for line in text if line.strip()), "")
    try:
        values = None if first.lstrip().startswith("[") else load_json(first)
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, dict) and not isinstance(values.get("data"), list):
        yield from _read_jsonl(file, data)
        return
    whole = _load_whole(file, data)
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        yield from _rows_of_squad(file, whole["data"], data)
        return
    for number, values in enumerate(whole if isinstance(whole, list) else [whole]):
        yield _row_of_value(f"{file.name}:{number}", values)


def _load_whole(file: File, data: Data) -> Any:
    with opened_text(file, data.encoding) as text:
        try:
            return load_json(text.read())
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(
                f"{file.place} is not JSON: {_reason(error)}.",
                "Fix the file, or set data.format=jsonl if each line is a row.",
            ) from None


def _read_parquet(file: File, data: Data) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pre_buffer would keep all row groups in memory until the file is closed.
        with opened(file) as source, pq.ParquetFile(source, pre_buffer=False) as parquet:
            schema = parquet.schema_arrow
            check_columns(data.column, schema.names, file.place)
            features = features_of(schema)
            batches = parquet.iter_batches(ROWS_PER_GROUP)
            rows = itertools.chain.from_iterable(rows_of(pa.Table.from_batches([batch]), features) for batch in batches)
            for number, values in enumerate(rows, 1):
                yield Row(f"{file.name}:{number}", values)
    except pa.ArrowException as error:
        raise UserError(
            f"{file.place} is not a valid Parquet file: {_reason(error)}.", "Check the file and data.format."
        ) from None


def _read_csv(file: File, data: Data) -> Iterator[Row]:
    delimiter, columns = _header(file, data)
    with opened_text(file, data.encoding, newline="") as text:
        for found in itertools.islice(delimited(text, delimiter), 1, None):
            source, cells = f"{file.name}:{found.number}", found.cells
            if found.problem:
                yield Row(source, {"line": _shown(found.line)}, RejectReason.BROKEN_LINE, found.problem)
            elif any(cells[len(columns) :]):
                yield Row(
                    source, {"cells": cells}, RejectReason.EXTRA_CELLS, f"{len(cells)} cells, {len(columns)} columns"
                )
            else:
                yield Row(source, dict(itertools.zip_longest(columns, cells[: len(columns)])))


def _header(file: File, data: Data) -> tuple[str, list[str]]:
    """Return the delimiter and the columns. An unset delimiter is the first that yields the text's column.

    An empty file has no columns. Raises UserError for a header in another encoding, without the text's column, or with
    a column twice.
    """
    own = data.delimiter or ("\t" if ending(file.name) == ".tsv" else ",")
    headers = dict[str, list[str]]()
    for delimiter in [own] if data.delimiter else dict.fromkeys([own, *DELIMITERS]):
        with opened_text(file, data.encoding, newline="") as text:
            first = next(delimited(text, delimiter), None)
        if first is None:
            return delimiter, []
        # A byte that the encoding lacks is a surrogate here: 0xF6 is U+DCF6.
        if odd := re.search("[\udc80-\udcff]", "".join(first.cells)):
            byte = f"byte 0x{ord(odd[0]) - 0xDC00:02x} in its header"
            raise UserError(f"{file.place} is not in {data.encoding}: {byte}.", "Set data.encoding, such as cp1252.")
        headers[delimiter] = first.cells
        if data.column in first.cells:
            break
    delimiter = max(headers, key=lambda one: (data.column in headers[one], len(headers[one])))
    check_columns(data.column, headers[delimiter], file.place, " Or set data.delimiter.")
    return delimiter, headers[delimiter]


def _read_text(file: File, data: Data) -> Iterator[Row]:
    """Yield a row for each paragraph. Blank lines separate paragraphs."""
    paragraph: list[str] = []
    with opened_text(file, data.encoding) as lines:
        for number, line in enumerate(itertools.chain(lines, [""]), 1):
            if line.strip():
                paragraph.append(line.strip())
            elif paragraph:
                yield Row(f"{file.name}:{number - len(paragraph)}", {data.column: " ".join(paragraph)})
                paragraph = []


def _read_squad(file: File, data: Data) -> Iterator[Row]:
    whole = _load_whole(file, data)
    articles = whole.get("data") if isinstance(whole, dict) else None
    if not isinstance(articles, list):
        raise UserError(f"{file.place} is not SQuAD JSON: its key 'data' has no list of articles.", "Set data.format.")
    yield from _rows_of_squad(file, articles, data)


def _rows_of_squad(file: File, articles: list[Any], data: Data) -> Iterator[Row]:
    """Yield a row for each paragraph of SQuAD's articles, with the questions that the paragraph answers."""
    for place, article in enumerate(articles):
        if not (isinstance(article, dict) and isinstance(article.get("paragraphs"), list)):
            yield Row(f"{file.name}:{place}", {"article": article}, RejectReason.BROKEN_LINE, "not a SQuAD article")
            continue
        title = article.get("title")
        for number, paragraph in enumerate(article["paragraphs"]):
            source = f"{file.name}:{title}:{number}"
            if not isinstance(paragraph, dict):
                yield Row(source, {"paragraph": paragraph}, RejectReason.BROKEN_LINE, "not a SQuAD paragraph")
                continue
            values = {data.column: paragraph.get("context"), "title": title, "questions": _answered(paragraph)}
            yield Row(source, values)


def _answered(paragraph: dict[str, Any]) -> list[str]:
    """Return the questions that a SQuAD paragraph answers. Version 2 also has questions without an answer."""
    qas = paragraph.get("qas")
    listed = qas if isinstance(qas, list) else []
    asked = [qa for qa in listed if isinstance(qa, dict) and not qa.get("is_impossible")]
    return [qa["question"] for qa in asked if isinstance(qa.get("question"), str)]


def _read_dataset(path: str, data: Data, format_: str) -> Iterator[Row]:
    """Yield the rows of a dataset on a disk or a hub. No column is decoded, because columns come as Arrow has them."""
    try:
        dataset = load_dataset(path, data, format_)
        if features := dict(dataset.features or {}):
            check_columns(data.column, list(features), path)
        for number, values in enumerate(rows_of_dataset(dataset, features)):
            yield Row(f"{path}:{number}", values)
    except UserError:
        raise
    except Exception as error:  # of many kinds in the hub client, each of which means that the source cannot be read
        raise UserError(
            f"Cannot read the dataset {path} ({type(error).__name__}: {_reason(error)}).",
            fix_for(error, "Check data.path, data.subset, data.split and the network. A file's path needs its ending."),
        ) from None


def check_columns(column: str, columns: list[str], source: Place | str, more: str = "") -> None:
    """Check that `column` is among `columns`, and that no column occurs twice. Raises UserError otherwise."""
    if column not in columns:
        raise UserError(
            f"{source} has no column '{column}'; it has: {', '.join(columns) or 'none'}.",
            f"Set data.column to the column that holds the text.{more}",
        )
    if twice := [name for name, times in Counter(columns).items() if name and times > 1]:
        raise UserError(f"{source} has the column '{twice[0]}' twice.", "Rename one of the two columns.")


Reader = Callable[[File, Data], Iterator[Row]]
READERS: dict[str, Reader] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "parquet": _read_parquet,
    "csv": _read_csv,
    "text": _read_text,
    "squad": _read_squad,
}
