"""Which files are read: folders, patterns, lists, endings, compression, and what a .json is."""

import bz2
import gzip
import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.configs.load import validate
from semtag.generation.files import COMPRESSED, ending, locate
from semtag.generation.readers import read_rows
from semtag.generation.records import Reject
from semtag.generation.texts import TextCleaner, preview

TEXTS = ["One text.", "Two, with é."]
COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def texts_of(path: Path | str | list[str], **data: Any) -> list[Any]:
    return [
        row.values.get("text") for row in read_rows(Data(path=path if isinstance(path, list) else str(path), **data))
    ]


def write(folder: Path, **files: bytes) -> None:
    """Write files; a name's `__` is a slash, its `_` a dot."""
    for name, content in files.items():
        file = folder / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def test_every_format_reads_the_same_texts(tmp_path: Path) -> None:
    texts = ["One text.", 'Two, with "quotes" and é.', "Three."]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text\n" + "".join('"' + text.replace('"', '""') + '"\n' for text in texts))
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    qas = [{"question": "Who?"}, {"question": "Why?", "is_impossible": True}, {"question": None}, 7]
    squad = {"data": [{"title": "T", "paragraphs": [{"context": text, "qas": qas} for text in texts]}]}
    (tmp_path / "a.json").write_text(json.dumps(squad))
    for kind in ("jsonl", "parquet", "csv", "txt", "json"):
        assert texts_of(tmp_path / f"a.{kind}") == texts, kind
    assert {str(row.values["questions"]) for row in read_rows(Data(path=str(tmp_path / "a.json")))} == {"['Who?']"}


def test_a_dataset_saved_to_disk_and_a_folder_of_files(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(tmp_path / "saved")
    assert locate(str(tmp_path / "saved")).format == "disk"
    assert texts_of(tmp_path / "saved") == ["one", "two"]
    parts = tmp_path / "parts"
    parts.mkdir()
    for number in (2, 1):
        (parts / f"{number}.jsonl").write_text(json.dumps({"text": str(number)}) + "\n")
    assert texts_of(parts) == ["1", "2"]


def test_a_paragraph_of_plain_text_spans_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first line\nsecond line\n\n\nnext paragraph")
    assert texts_of(tmp_path / "a.txt") == ["first line second line", "next paragraph"]


def test_folders_are_searched_and_endings_are_read_in_any_case(tmp_path: Path) -> None:
    write(tmp_path, A_JSONL=lines("a"), sub__b_jsonl=lines("b"), sub__day=lines("no"), README_md=b"not data")
    (tmp_path / "day=1").mkdir()
    (tmp_path / "day=1" / "part-0.ndjson").write_bytes(lines("c") + b"[]\n")
    for hidden in (".git", "_delta_log"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "x.jsonl").write_bytes(lines("no"))
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / "_a.jsonl").write_bytes(lines("no"))
    said: list[str] = []
    rows = list(read_rows(Data(path=str(tmp_path)), said.append))
    assert [row.source for row in rows] == [
        "A.JSONL:1",
        "day=1/part-0.ndjson:1",
        "day=1/part-0.ndjson:2",
        "sub/b.jsonl:1",
    ]
    assert [row.values.get("text") for row in rows] == ["a", "c", None, "b"]
    assert said == [f"{tmp_path}: 3 files are hidden or not jsonl and are not read, such as README.md"]
    assert "3 files are hidden or not jsonl" in preview(Data(path=str(tmp_path)))


def test_folders_that_are_links_are_searched_once(tmp_path: Path) -> None:
    write(tmp_path, data__a_jsonl=lines("a"), elsewhere__b_jsonl=lines("b"))
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    for path in ("data", "data/*", "data/**", "data/**/*.jsonl"):
        found = texts_of(tmp_path / path)
        assert found == (["a"] if path == "data/**/*.jsonl" else ["a", "b"]), path  # `**` follows no links


def test_patterns_and_lists_of_paths(tmp_path: Path) -> None:
    write(tmp_path, a1_jsonl=lines("1"), a2_jsonl=lines("2"), b_csv=b"text\n3\n", sub__a4_jsonl=lines("4"))
    (tmp_path / "a[1].jsonl").write_bytes(lines("of this very name"))
    assert texts_of(tmp_path / "a?.jsonl") == ["1", "2"]
    assert texts_of(tmp_path / "**" / "a?.jsonl") == ["1", "2", "4"]
    assert texts_of(tmp_path / "s*") == ["4"]
    assert texts_of(tmp_path / "a[1].jsonl") == ["of this very name"]
    several = [str(tmp_path / name) for name in ("b.csv", "a?.jsonl", "sub")]
    assert texts_of(several) == ["3", "1", "2", "4"]
    assert texts_of(several, limit=2) == ["3", "1"]
    assert f"4 distinct texts in 4 rows of {several[0]}, " in preview(Data(path=several))
    for none in ("c*.jsonl", "x/*.jsonl"):
        with pytest.raises(UserError, match="No file in"):
            locate(str(tmp_path / none))
    with pytest.raises(UserError, match="not a valid pattern"):
        locate(str(tmp_path / "**a"))


def test_a_list_holds_a_path() -> None:
    config = {"run": {"name": "t"}, "model": {"base": "b"}}
    for path in ([], ["s3://key:secret@bucket/x"], {"a": "b"}):
        with pytest.raises(UserError, match=r"data\.path"):
            validate(config | {"data": {"path": path}})


def test_a_format_that_is_named_is_taken_at_its_word(tmp_path: Path) -> None:
    write(tmp_path / "plain", part=lines("a"), LICENSE=b"[]\n")
    assert texts_of(tmp_path / "plain", format="jsonl") == [None, "a"]
    with pytest.raises(UserError, match=r"holds no file of a known format(.|\n)*data.format"):
        locate(str(tmp_path / "plain"))
    write(tmp_path / "mixed", a_jsonl=lines("a"), b_csv=b"text\nb\n", README_md=b"x")
    assert [texts_of(tmp_path / "mixed", format=format_) for format_ in ("jsonl", "csv")] == [["a"], ["b"]]
    with pytest.raises(UserError, match="several formats: csv, jsonl"):
        locate(str(tmp_path / "mixed"))
    write(tmp_path / "json", a_json=lines("a"), README_md=b"x")
    assert texts_of(tmp_path / "json", format="jsonl") == ["a"]


@pytest.mark.parametrize("packed", COMPRESSED)
def test_compressed_files_read_the_same_texts(tmp_path: Path, packed: str) -> None:
    squad = {"data": [{"title": "T", "paragraphs": [{"context": text} for text in TEXTS]}]}
    table = ("text\n" + "".join(f'"{text}"\n' for text in TEXTS)).encode()
    kinds = {"a.jsonl": lines(*TEXTS), "a.csv": table, "a.txt": "\n\n".join(TEXTS).encode()}
    kinds |= {"a.json": json.dumps(squad).encode()}
    for name, content in kinds.items():
        file = tmp_path / f"{name}{packed.upper()}"
        file.write_bytes(COMPRESS[packed](content))
        assert texts_of(file) == TEXTS, name
    write(tmp_path / "parts", **{f"{n}_jsonl_{packed[1:]}": COMPRESS[packed](lines(n)) for n in "ab"})
    assert texts_of(tmp_path / "parts") == ["a", "b"]
    (tmp_path / "two.jsonl.gz").write_bytes(b"".join(gzip.compress(lines(text)) for text in TEXTS))
    assert texts_of(tmp_path / "two.jsonl.gz") == TEXTS


@pytest.mark.parametrize("packed", COMPRESSED)
@pytest.mark.parametrize("damage", ["cut", "other", "changed"])
def test_a_damaged_archive_is_named(tmp_path: Path, packed: str, damage: str) -> None:
    whole = COMPRESS[packed](lines(*(f"text {number**7}" for number in range(20_000))))
    changed = whole[: len(whole) // 2] + bytes(255 - byte for byte in whole[len(whole) // 2 :])
    damaged = {"cut": whole[:-20], "other": b"hello there", "changed": changed}[damage]
    (tmp_path / f"a.jsonl{packed}").write_bytes(damaged)
    with pytest.raises(UserError, match=rf"Cannot read {tmp_path}/a\.jsonl{packed}: .*[^.]\.\n"):
        texts_of(tmp_path)


def test_an_ending_is_read_in_any_case_and_without_its_compression() -> None:
    names = {"A.JSONL": ".jsonl", "a.csv.GZ": ".csv", "part.c000.snappy.parquet": ".parquet", "x.gz": "", "a": ""}
    assert {name: ending(name) for name in names} == names


def test_json_is_told_apart_by_looking(tmp_path: Path) -> None:
    rows = [{"text": text} for text in TEXTS]
    squad = {"data": [{"title": "T", "paragraphs": [{"context": text} for text in TEXTS]}]}
    contents = {
        "lines": lines(*TEXTS),
        "lines after blank ones": b"\xef\xbb\xbf\n \n" + lines(*TEXTS),
        "an array": json.dumps(rows).encode(),
        "an array over lines": json.dumps(rows, indent=1).encode(),
        "SQuAD with a byte-order mark": b"\xef\xbb\xbf" + json.dumps(squad).encode(),
        "SQuAD over lines": json.dumps(squad, indent=1).encode(),
    }
    for what, content in contents.items():
        (tmp_path / "a.json").write_bytes(content)
        assert texts_of(tmp_path) == TEXTS, what
    (tmp_path / "a.json").write_text('[{"text": "One text."}, 7, {"other": 1}]')
    assert [row.problem for row in read_rows(Data(path=str(tmp_path)))] == [None, "broken_line", None]
    (tmp_path / "a.json").write_text('{\n  "text": "One row of its own."\n}')
    assert texts_of(tmp_path) == ["One row of its own."]


def test_json_that_is_broken_is_named(tmp_path: Path) -> None:
    for content in (b"", b'{"data": [\n', b"[" * 5000, b'{"text": "broken\n{"text": "y"}\n'):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.json is not JSON(.|\n)*data.format=jsonl"):
            texts_of(tmp_path)
    for content in (b"{}", b"[]", b'{"data": 7}'):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(UserError, match="not SQuAD JSON"):
            texts_of(tmp_path, format="squad")


def test_an_odd_part_of_squad_costs_no_other(tmp_path: Path) -> None:
    good = {"context": "One text.", "qas": 7}
    articles = [7, {"title": "T"}, {"title": "T", "paragraphs": [3, good, {"context": None}]}, {"paragraphs": [good]}]
    (tmp_path / "a.json").write_text(json.dumps({"data": articles}))
    rows = list(read_rows(Data(path=str(tmp_path))))
    assert [row.problem for row in rows] == ["broken_line"] * 3 + [None] * 3
    assert [row.values["text"] for row in rows[3:]] == ["One text.", None, "One text."]


def test_lines_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"text": "Zwei, mit é."}\n{"text": "x"}\n'.encode("utf-16"))
    assert texts_of(tmp_path, encoding="utf-16") == ["Zwei, mit é.", "x"]
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"is not in utf-16(.|\n)*data.encoding"):
        texts_of(tmp_path, encoding="utf-16")
    for wrong in ("latin-17", "rot13"):
        with pytest.raises(ValueError, match=wrong):
            Data(path="a", encoding=wrong)


def test_byte_order_marks_are_no_part_of_a_text(tmp_path: Path) -> None:
    write(tmp_path, a_txt=b"\xef\xbb\xbfOne text.\n", a_csv=b"\xef\xbb\xbftext\nOne text.\n")
    marked = b"\xef\xbb\xbf" + lines("One text.")
    write(tmp_path, a_jsonl=marked + marked)
    pq.write_table(pa.table({"text": ["One text."]}), tmp_path / "a.parquet")
    for name in ("a.txt", "a.csv", "a.jsonl", "a.parquet"):
        assert set(texts_of(tmp_path / name)) == {"One text."}, name


SPELLINGS = st.sampled_from(
    ['{"text": "', '"}', "\n", "[", "]", ",", '"', "text", "\t", "\ufeff", "\r\n", '{"data": [']
)
BYTES = st.one_of(st.binary(max_size=60), st.lists(SPELLINGS, max_size=12).map(lambda parts: "".join(parts).encode()))


@given(parts=st.lists(BYTES, max_size=6), kind=st.sampled_from(["jsonl", "csv", "tsv", "txt", "json"]))
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes_give_texts_and_rejects_that_add_up(tmp_path: Path, parts: list[bytes], kind: str) -> None:
    table = [b"text,other" if kind == "csv" else b"text\tother"] if kind in ("csv", "tsv") else []
    (tmp_path / f"a.{kind}").write_bytes(b"\n".join([*table, *parts]))
    texts, rows, kept, rejected = TextCleaner(Data(path=str(tmp_path / f"a.{kind}"))), 0, 0, Counter[str]()
    try:
        for row in read_rows(texts.data):
            record = texts.clean(row)
            rows += 1
            if isinstance(record, Reject):
                rejected[record.reason] += 1
            else:
                kept += 1
            pa.Table.from_pylist([vars(record)])  # what the stage writes
    except UserError:
        assert kind == "json"  # which is read as a whole
    assert rows == texts.rows == kept + rejected.total()
    assert rejected == texts.dropped
