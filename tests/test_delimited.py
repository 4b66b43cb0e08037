"""CSV as people have it: broken rows, headers, delimiters."""

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.generation import delimited as module
from semtag.generation.delimited import delimited
from semtag.generation.readers import Row, read_rows


def rows_of(folder: Path, content: str | bytes, name: str = "a.csv", **data: str) -> list[Row]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(Data.model_validate({"path": str(folder / name), **data})))


def test_an_unclosed_quote_costs_one_row(tmp_path: Path) -> None:
    for end in ("", "The third.,c\n", '"The third.",c\n'):
        first, *others = rows_of(tmp_path, f'text,title\n"The first.,a\n"The second, whole.",b\n{end}')
        assert (first.problem, first.source, first.values) == ("broken_line", "a.csv:2", {"line": '"The first.,a\n'})
        found = [(row.source, row.values["text"]) for row in others]
        assert found == [("a.csv:3", "The second, whole."), ("a.csv:4", "The third.")][: len(found)]
        assert len(found) == (2 if end else 1)


def test_an_unclosed_quote_takes_no_more_than_a_row_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_ROW", 1000)
    rows = rows_of(tmp_path, 'text\n"never closed\n' + "".join(f"text {number}\n" for number in range(5000)))
    assert [row.problem for row in rows] == ["broken_line"] + [None] * 5000
    assert "more than 1,000 characters" in rows[0].detail or "field limit" in rows[0].detail


def test_a_row_with_a_cell_too_many_is_rejected(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path, 'text,label\n"Quoted, as it should be",1\nHello, world, again,2\nshort\n\nempty at the end,3,,\n'
    )
    assert [(row.problem, row.detail) for row in rows] == [
        (None, ""),
        ("extra_cells", "4 cells, 2 columns"),
        (None, ""),
        (None, ""),
    ]
    assert [row.values for row in rows[2:]] == [
        {"text": "short", "label": None},
        {"text": "empty at the end", "label": "3"},
    ]


def test_a_line_end_within_a_cell_is_part_of_it(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, b'text,title\r\n"Two\r\nlines.",a\r\nNext.,b\r\n')
    assert [(row.source, row.values["text"]) for row in rows] == [("a.csv:2", "Two\r\nlines."), ("a.csv:4", "Next.")]


def test_a_column_there_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.csv has the column 'text' twice"):
        rows_of(tmp_path, "text,title,text\na,b,c\n")
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["text", "title", "title"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet has the column 'title' twice"):
        list(read_rows(Data(path=str(tmp_path / "a.parquet"))))
    assert rows_of(tmp_path, "text,,\na,b,c\n")[0].values["text"] == "a"  # as spreadsheets leave them


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_by_looking_at_the_header(tmp_path: Path, sign: str) -> None:
    content = f'title{sign}text\na{sign}"One; two, three | four\tfive."\n'
    for name in ("a.csv", "a.tsv"):
        assert [row.values for row in rows_of(tmp_path, content, name)] == [
            {"title": "a", "text": "One; two, three | four\tfive."}
        ]
    with pytest.raises(
        UserError, match=r"no column 'body'; it has: title, text(.|\n)*data.column(.|\n)*data.delimiter"
    ):
        rows_of(tmp_path, content, column="body")


def test_a_delimiter_that_is_set_is_taken(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "text:a;b\nOne, two:3\n", delimiter=":")[0].values == {"text": "One, two", "a;b": "3"}
    assert rows_of(tmp_path, "text\ta,b\nOne\t3\n", delimiter="\\t")[0].values == {"text": "One", "a,b": "3"}
    for wrong in ('"', "\n", "", ";;"):
        with pytest.raises(ValueError, match="delimiter"):
            Data(path="a", delimiter=wrong)


def test_a_header_in_another_encoding_names_the_key(tmp_path: Path) -> None:
    content = "Text;Größe\nEin schöner Text;3\n".encode("cp1252")
    with pytest.raises(UserError, match=r"a\.csv is not in utf-8: byte 0xf6 in its header(.|\n)*data.encoding"):
        rows_of(tmp_path, content, column="Text")
    [row] = rows_of(tmp_path, content, column="Text", encoding="cp1252")
    assert row.values == {"Text": "Ein schöner Text", "Größe": "3"}


def test_a_file_without_rows_is_none(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "") == rows_of(tmp_path, "\n\n") == rows_of(tmp_path, "text,title\n") == []
    with pytest.raises(UserError, match="no column 'text'"):
        rows_of(tmp_path, '"text,title\n')


CELLS = st.text(st.sampled_from('ab",;\n\r\t é'), max_size=8)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), min_size=1, max_size=6))
def test_what_python_writes_is_read_back(table: list[list[str]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(table)
    assert [row.cells for row in delimited(io.StringIO(out.getvalue(), newline=""), ",")] == table


@given(st.text(st.sampled_from('a",\n'), max_size=60))
def test_every_line_is_in_one_row_or_broken(text: str) -> None:
    lines = io.StringIO(text, newline="").readlines()
    begins = [row.number for row in delimited(io.StringIO(text, newline=""), ",")]
    assert begins == sorted(set(begins))
    assert set(begins) <= set(range(1, len(lines) + 1))
    for row in delimited(io.StringIO(text, newline=""), ","):
        assert lines[row.number - 1] == row.line or not row.problem
