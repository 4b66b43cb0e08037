"""One odd cell costs no other: of any type, of any bytes, in any column."""

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semtag.cluster.progress import Progress
from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.generation.cells import as_json, rows_of
from semtag.generation.readers import Row, read_rows
from semtag.generation.records import Reject
from semtag.generation.texts import TextCleaner, prepare
from semtag.store.parquet import read_rows as read_parquet
from semtag.store.run_dir import RunDir
from tests.test_texts import config_for

WATER, KENTE = "A canal lock lifts boats between two levels of water.", "Kente cloth is woven in Ghana."
FOREVER = pa.array([506_000_000_000_000_000], pa.int64())  # microseconds until the year 18004


def prepared(file: Path, **data: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Texts and rejects that the texts stage writes, and the rows that it read."""
    config = config_for(file, file.parent, held_out=0.0, **data)
    config = config.model_copy(update={"run": config.run.model_copy(update={"max_rejected": 1.0})})
    run = RunDir.of(config)
    run.create()
    counts = prepare(run, config, Progress("texts", "rows"))
    kept = list(read_parquet(run.layout.train_texts(1, reuse=False)))
    return kept, list(read_parquet(run.layout.rejects)), counts["rows"]


def broken_strings(*values: bytes) -> pa.Array:
    """An array of strings that are no UTF-8, as some programs write them."""
    whole = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), whole.buffers())


def test_a_cell_beside_the_text_that_is_no_utf8_costs_nothing(tmp_path: Path) -> None:
    csv, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    csv.write_bytes(f'text,title\n"{WATER}",caf\u00e9\n"{KENTE}",plain\n'.encode("cp1252"))
    rows = [{"text": WATER, "title": "\ud800"}, {"text": KENTE, "title": ["\ud800"]}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file, articles in ((csv, ["caf\\udce9", "plain"]), (lines, ["\\ud800", '["\\ud800"]'])):
        kept, rejects, rows_in = prepared(file)
        assert ([row["text"] for row in kept], rejects, rows_in) == ([WATER, KENTE], [], 2)
        assert [row["article"] for row in kept] == articles


def test_a_name_of_a_file_that_is_no_utf8_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.jsonl").write_text(json.dumps({"text": WATER}) + "\n[]\n")
    kept, [reject], rows_in = prepared(tmp_path)
    assert (len(kept), rows_in) == (1, 2)
    assert reject["detail"].startswith("caf\\udce9.jsonl:2")


def test_a_number_of_5000_digits_is_kept_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "{WATER}", "n": {"7" * 5000}, "small": 7}}\n')
    [row] = read_rows(Data(path=str(tmp_path / "a.jsonl")))
    assert row.values["n"] == "7" * 5000
    assert row.values["small"] == 7


def test_nesting_that_loads_but_cannot_be_written_is_cut(tmp_path: Path) -> None:
    deep = json.loads("[" * 900 + "]" * 900)
    for _ in range(2000):
        deep = [deep]
    assert json.loads(as_json({"deep": deep, "plain": 1}))["plain"] == 1
    assert "nested too deeply" in as_json({"deep": deep})


def test_metadata_is_json() -> None:
    values = {"n": float("nan"), "b": b"\x89PNG", "long": b"x" * 3000, "d": Decimal("1.5"), "t": (1, float("inf"))}
    values |= {"day": datetime.date(2024, 6, 1), "odd": "\ud800"}
    found = json.loads(as_json(values), parse_constant=lambda name: pytest.fail(name))
    expected = {"n": None, "b": "\\x89PNG", "long": "<3,000 bytes>", "d": "1.5", "t": [1, None], "day": "2024-06-01"}
    assert found == expected | {"odd": "\ud800"}


def test_what_python_cannot_hold_is_text_or_a_reject(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": broken_strings(WATER.encode(), b"\xff\xfe", KENTE.encode()),
            "title": broken_strings(b"\xff", b"plain", b"\xff"),
            "day": pa.concat_arrays([FOREVER] * 3).view(pa.timestamp("us")),
            "zone": pa.concat_arrays([FOREVER] * 3).view(pa.timestamp("us", tz="No/Where")),
            "names": pa.ListArray.from_arrays([0, 1, 2, 3], broken_strings(b"a", b"\xff", b"c")),
        }
    )
    rows = list(rows_of(table, {}))
    assert [row["day"] for row in rows] == ["18004-07-02 11:33:20.000000"] * 3
    assert [row["names"] for row in rows] == [["a"], ["\udcff"], ["c"]]
    pq.write_table(table, tmp_path / "a.parquet")
    kept, rejects, rows_in = prepared(tmp_path / "a.parquet")
    assert [row["text"] for row in kept] == [WATER, KENTE]
    assert [row["article"] for row in kept] == ["\\udcff"] * 2
    assert [row["reason"] for row in rejects] == ["invalid_utf8"]
    assert rows_in == 3


def test_no_column_beside_the_text_is_decoded(tmp_path: Path) -> None:
    import datasets

    sounds = datasets.Dataset.from_dict({"text": ["one", "two"], "sound": [{"bytes": b"\0" * 9999, "path": "a"}] * 2})
    sounds.cast_column("sound", datasets.Audio()).save_to_disk(tmp_path / "saved")
    rows = list(read_rows(Data(path=str(tmp_path / "saved"))))
    assert [row.values["text"] for row in rows] == ["one", "two"]
    assert as_json(rows[0].values) == '{"text": "one", "sound": {"bytes": "<9,999 bytes>", "path": "a"}}'


def test_class_labels_come_with_their_names(tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["world", "sports"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names, "all": datasets.List(names)})
    values = {"text": ["a", "b", "c", "d"], "label": [0, 1, None, -1], "all": [[0, 1], [], [1], [-1]]}
    dataset = datasets.Dataset.from_dict(values, features)
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "a.parquet")
    for place in ("saved", "a.parquet"):
        rows = [row.values for row in read_rows(Data(path=str(tmp_path / place)))]
        assert [row["label"] for row in rows] == ["world", "sports", None, None], place
        assert [row["all"] for row in rows] == [["world", "sports"], [], ["sports"], [None]], place


def test_a_network_that_breaks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def rows() -> Any:
        yield from ({"text": f"text {number}"} for number in range(2000))
        raise ConnectionError("the line is dead")

    stream = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    found = read_rows(Data(path="owner/name"))
    assert next(found).values == {"text": "text 0"}
    with pytest.raises(UserError, match=r"owner/name \(.*the line is dead\)"):
        list(found)


@pytest.mark.parametrize("known", [True, False])
def test_a_stream_may_begin_with_nulls(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def rows() -> Any:
        yield from ({"text": None if number < 300 else f"text {number}", "n": [number % 2]} for number in range(1000))

    features = datasets.Features(
        {"text": datasets.Value("string"), "n": datasets.List(datasets.ClassLabel(names=["a", "b"]))}
    )
    stream = datasets.IterableDataset.from_generator(rows, features=features if known else None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    rows_in = [row.values for row in read_rows(Data(path="owner/name"))]
    assert [row["text"] for row in rows_in] == [None] * 300 + [f"text {number}" for number in range(300, 1000)]
    assert [row["n"] for row in rows_in[:2]] == ([["a"], ["b"]] if known else [[0], [1]])


def test_a_damaged_file_is_named_without_a_second_full_stop(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [WATER] * 2000}), tmp_path / "a.parquet", compression="none", use_dictionary=False)
    whole = bytearray((tmp_path / "a.parquet").read_bytes())
    whole[4:40] = b"\xff" * 36
    (tmp_path / "a.parquet").write_bytes(whole)
    with pytest.raises(UserError, match=r"a\.parquet") as caught:
        list(read_rows(Data(path=str(tmp_path / "a.parquet"))))
    assert ".." not in str(caught.value)


def test_a_first_row_without_the_column_is_one_reject(tmp_path: Path) -> None:
    rows = [{"body": "x"}, {"text": WATER}, {"text": KENTE}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, [reject], rows_in = prepared(tmp_path / "a.jsonl")
    assert (len(kept), reject["reason"], rows_in) == (2, "missing_column", 3)


def test_a_misspelt_column_is_noticed_after_a_hundred_rows() -> None:
    texts = TextCleaner(Data(path="a.jsonl", column="txet"))
    for _ in range(99):
        assert getattr(texts.clean(Row("a", {"text": "x"})), "reason", None) == "missing_column"
    with pytest.raises(UserError, match="no column 'txet'; it has: text"):
        texts.clean(Row("a", {"text": "x"}))


def arrays() -> st.SearchStrategy[pa.Array]:
    """Columns of four cells, of any bytes and of any 64 bits, read as every type that takes them."""
    numbers = st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=4, max_size=4)
    units = [pa.timestamp(unit, tz) for unit in ("s", "us", "ns") for tz in (None, "UTC", "No/Where")]
    kinds = st.sampled_from([*units, pa.date64(), pa.time64("us"), pa.duration("s"), pa.duration("ns"), pa.float64()])
    wide = st.builds(lambda values, kind: pa.array(values, pa.int64()).view(kind), numbers, kinds)
    days = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=4, max_size=4)
    dates = days.map(lambda values: pa.array(values, pa.int32()).view(pa.date32()))
    bytes_ = st.lists(st.binary(max_size=12), min_size=4, max_size=4)
    flat = st.one_of(wide, dates, bytes_.map(pa.array), bytes_.map(lambda values: broken_strings(*values)))
    return st.one_of(
        flat,
        flat.map(lambda cells: pa.ListArray.from_arrays([0, 1, 1, 3, 4], cells)),
        flat.map(lambda cells: pa.StructArray.from_arrays([cells, cells], ["a", "b"])),
        flat.map(lambda cells: pa.StructArray.from_arrays([cells, cells], ["a", "a"])),
        flat.map(lambda cells: pa.DictionaryArray.from_arrays([3, 1, 1, 0], cells)),
    )


@given(text=arrays(), beside=arrays())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_cell_in_any_column_gives_a_row(text: pa.Array, beside: pa.Array) -> None:
    texts = TextCleaner(Data(path="a", article_column="beside"))
    records = [texts.clean(Row("a", values)) for values in rows_of(pa.table({"text": text, "beside": beside}), {})]
    assert len(records) == texts.rows == 4
    for record in records:
        pa.Table.from_pylist([vars(record)])  # what the stage writes
        json.loads(record.row if isinstance(record, Reject) else record.meta, parse_constant=pytest.fail)


@pytest.mark.parametrize("noted", [b"no json", b'{"info": {"features": {"text": {"_type": "NewKind"}}}}'])
def test_notes_of_datasets_that_cannot_be_read_cost_nothing(tmp_path: Path, noted: bytes) -> None:
    table = pa.table({"text": [WATER, KENTE]}).replace_schema_metadata({b"huggingface": noted})
    pq.write_table(table, tmp_path / "a.parquet")
    kept, rejects, rows_in = prepared(tmp_path / "a.parquet")
    assert ([row["text"] for row in kept], rejects, rows_in) == ([WATER, KENTE], [], 2)
