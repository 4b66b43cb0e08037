"""What `semtag tag` reads comes out as it was: types, odd numbers, odd names. The answers are written by hand."""

import csv
import datetime
import decimal
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Value
from hypothesis import given
from hypothesis import strategies as st

from semtag import tag_corpus as tag_texts
from semtag.cluster.progress import Progress
from semtag.cluster.stage_process import describe
from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.generation.records import SAMPLED, read_candidate
from semtag.store.locations import Place, write_json
from semtag.store.parquet import RowWriter, count_rows, read_rows
from semtag.store.run_dir import RunDir
from semtag.tag_columns import keep_columns
from semtag.tag_corpus import ROW
from semtag.tag_job import job_file, rejects_of, tag, tagger_config
from tests.conftest import ROOT

DEMO = ROOT / "configs" / "demo.yaml"
UTC = datetime.UTC


def tagged(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, answers: Path | None = None) -> str:
    """Do a tagging job that answers each text by its last word; returns what was said."""
    config = load_config(DEMO, [f"data.path={data}", "data.limit=null", *overrides])
    work, told = RunDir(out.with_name(f"{out.name}.unfinished")), io.StringIO()

    def answer(texts: Place, *others: Any) -> Any:
        with RowWriter(work.local_dir / "answers.parquet", SAMPLED) as made:
            for row in read_rows(texts):
                said = f"[{row['text'].split()[-1]}]"
                candidate = replace(read_candidate(config.prompt, 0, said, "stop"), score=0.5)
                more = {"in_parts": len(row["text"]) > 99, "candidates": [vars(candidate)]}
                if "refused" in row["text"]:
                    more = {"reason": "refused_by_engine", "candidates": []}
                made.write(dict.fromkeys(SAMPLED.names) | row | more)
        return others[-1]([work.local_dir / "answers.parquet"])

    monkeypatch.setattr(tag_texts, "check_model", lambda *_, **__: None)
    monkeypatch.setattr(tag_texts, "finish", answer)
    work.create()
    work.start(config)
    asked = {"votes": 1, "constrained": False, "score": True, "answers": answers and str(answers)}
    write_json(job_file(work), {"out": out.name, **asked})
    with Progress("tag", "texts", told) as progress:
        progress.say(describe(tag_texts.tag(work, progress)))
    assert not work.path.exists()
    return told.getvalue()


def lines(file: Path, *rows: object) -> Path:
    """A file of JSON lines; NaN is written as Python writes it."""
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def test_columns_of_parquet_keep_their_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime.datetime(2024, 6, 1, 12, 30, 0, 123456, UTC)
    columns = {
        "text": pa.array(["a mill", None, "a boat", "a mill"], pa.large_string()),
        "at": pa.array([at, at, None, at], pa.timestamp("us", "Europe/Paris")),
        "price": pa.array([decimal.Decimal("1.50"), None, None, None], pa.decimal128(9, 2)),
        "raw": pa.array([b"\x89PNG", b"", None, b"x"]),
        "small": pa.array([1, 2, None, 4], pa.int8()),
        "label": pa.array(["x", "y", "x", None]).dictionary_encode(),
        "part": pa.array([{"a": [1.5]}, None, {"a": []}, {"a": None}], pa.struct([("a", pa.list_(pa.float32()))])),
    }
    data, out = tmp_path / "data", tmp_path / "tags.parquet"
    data.mkdir()
    pq.write_table(pa.table(columns), data / "a.parquet")
    pq.write_table(pa.table({"text": ["a loom"], "more": [True]}), data / "b.parquet")
    tagged(data, out, monkeypatch)
    found = pq.read_table(out)
    for name, column in columns.items():
        kept = found[name].combine_chunks()
        assert kept.type == column.type or (name, kept.type) == ("label", pa.string())
        assert kept.to_pylist()[:3] == [column.to_pylist()[place] for place in (0, 2, 3)]
    assert found["more"].to_pylist() == [None, None, None, True]
    assert found["tags"].to_pylist() == [["mill"], ["boat"], ["mill"], ["loom"]]
    assert found.column_names == [*columns, "more", "tags", "tags_format", "tags_score"]
    [reject] = Path(f"{out}.rejects.jsonl").read_text().splitlines()
    assert json.loads(reject)["reason"] == "null_text"
    tagged(data, tmp_path / "first.parquet", monkeypatch, "data.limit=3")
    assert pq.read_table(tmp_path / "first.parquet")["tags"].to_pylist() == [["mill"], ["boat"]]


@pytest.mark.parametrize("kind", ["disk", "parquet", "hub"])
def test_datasets_keep_their_types_and_the_names_of_their_labels(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime.datetime(2024, 6, 1)
    named = datasets.ClassLabel(names=["no", "yes"])
    types = datasets.Features(
        {"text": Value("string"), "label": named, "all": datasets.List(named), "at": Value("timestamp[s]")}
    )
    rows = {"text": ["a mill", "a boat", "a loom", "a kiln"], "label": [1, -1, 0, 0], "at": [at, None, at, at]}
    rows |= {"all": [[0, 1], [], None, [-1]]}
    dataset, data, overrides = datasets.Dataset.from_dict(rows, features=types), tmp_path / "data", list[str]()
    if kind == "disk":
        dataset.save_to_disk(data)
    elif kind == "parquet":
        data.mkdir()
        dataset.to_parquet(data / "a.parquet")
    else:
        data, overrides = Path("someone/something"), ["data.format=hub"]
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: dataset.to_iterable_dataset())
    tagged(data, tmp_path / "tags.parquet", monkeypatch, *overrides)
    found = pq.read_table(tmp_path / "tags.parquet")
    assert found["label"].to_pylist() == ["yes", None, "no", "no"]
    assert found["all"].to_pylist() == [["no", "yes"], [], None, [None]]
    assert found["at"].to_pylist() == [at, None, at, at] and pa.types.is_timestamp(found["at"].type)
    assert found["tags"].to_pylist() == [["mill"], ["boat"], ["loom"], ["kiln"]]


def test_answers_that_are_kept_are_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused text is asked about again, and what a text says of itself is compared beside its id."""
    rows = [{"text": text} for text in ("a mill", "a boat", "is refused", "a mill")]
    first, second, third = tmp_path / "1.jsonl", tmp_path / "2.jsonl", tmp_path / "3.jsonl"
    data, kept = lines(tmp_path / "a.jsonl", *rows), tmp_path / "kept" / "identity"
    assert "0 of 3 texts have answers" in tagged(data, first, monkeypatch, answers=kept)
    data = lines(tmp_path / "b.jsonl", {"text": "a loom"}, *rows[::-1])
    said = tagged(data, second, monkeypatch, answers=kept)
    assert "2 of 4 texts have answers" in said and "tagging 2 texts" in said
    found = [json.loads(line)["tags"] for line in second.read_text().splitlines()]
    assert found == [["loom"], ["mill"], ["boat"], ["mill"]]
    assert "refused_by_engine" in rejects_of(second).read_text()
    assert len(list(kept.glob("*.parquet"))) == 2 and not list(kept.glob(".*"))
    said = tagged(lines(tmp_path / "c.jsonl", *rows[:2]), third, monkeypatch, answers=kept)
    assert "2 of 2 texts have answers" in said and "tagging 0 texts" in said
    assert [json.loads(line)["tags"] for line in third.read_text().splitlines()] == [["mill"], ["boat"]]


def test_texts_that_the_scoring_model_reads_in_part_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = lines(tmp_path / "a.jsonl", {"text": "a mill"}, {"text": "a mill " * 30})
    assert ", 1 scored in parts, " in tagged(data, tmp_path / "tags.jsonl", monkeypatch)


def test_labels_without_a_name_are_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    types = datasets.Features({"text": Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    known = datasets.Dataset.from_dict({"text": ["a mill", "a boat"], "label": [1, 0]}, features=types)
    known.to_parquet(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    pq.write_table(table.set_column(1, "label", pa.array([5, 0])), tmp_path / "a.parquet")
    tagged(tmp_path / "a.parquet", tmp_path / "tags.parquet", monkeypatch)
    assert pq.read_table(tmp_path / "tags.parquet")["label"].to_pylist() == ["5", "no"]


def test_values_without_types_keep_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semtag.tag_columns.CHUNK", 2)
    rows: list[dict[str, Any]] = [
        {"text": "one mill", "day": "2024-06-01", "at": "2024-06-01T12:00:00", "late": None, "number": 2**60},
        {"text": "one boat", "day": "2024-06-02", "mixed": 7, "score": float("nan"), "empty": {}},
        {"text": ""},
        {"text": "one loom", "late": "text", "mixed": "seven", "number": 0.5, "by": {"name": "A"}},
        {"text": "one oven", "half": "\ud83d", "by": {"age": 7}, "long": 2**70},
    ]
    out = tmp_path / "tags.parquet"
    said = tagged(lines(tmp_path / "rows.jsonl", *rows), out, monkeypatch)
    assert "become JSON text in the Parquet file: number, mixed, empty, long" in said
    found = pq.read_table(out).to_pydict()
    assert found["day"] == ["2024-06-01", "2024-06-02", None, None] and found["at"][0] == "2024-06-01T12:00:00"
    assert found["late"] == [None, None, "text", None]
    assert found["mixed"] == [None, "7", '"seven"', None]
    assert found["number"] == [str(2**60), None, "0.5", None]
    assert found["half"][-1] == "\\ud83d" and found["long"][-1] == str(2**70)
    assert found["by"][2:] == [{"name": "A", "age": None}, {"name": None, "age": 7}]
    assert found["tags"] == [["mill"], ["boat"], ["loom"], ["oven"]]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_json_has_no_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "tags.jsonl"
    lines(data, {"text": "a mill", "x": float("nan"), "y": [float("inf"), 1]}, {"text": None, "x": float("nan")})
    tagged(data, out, monkeypatch)
    for file in (out, Path(f"{out}.rejects.jsonl")):
        row = json.loads(file.read_text(), parse_constant=refuse)
        assert row.get("row", row)["x"] is None
    assert json.loads(out.read_text())["y"] == [None, 1]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_brackets_in_a_name_are_no_pattern(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a[1]*" / f"x[1]?.{ending}"
    out.parent.mkdir()
    tagged(lines(out.with_name("#2 [b].jsonl"), {"text": "a mill"}, {"text": "a boat"}), out, monkeypatch)
    assert out.exists() and b"boat" in out.read_bytes()


def test_halves_of_characters_do_not_end_a_csv_after_all_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = (
        lines(tmp_path / "rows.jsonl", {"text": "a mill", "x\ud83d": "\ud83d", "y": "\udce9"}),
        tmp_path / "t.csv",
    )
    tagged(data, out, monkeypatch)
    with out.open(encoding="utf-8", errors="surrogateescape", newline="") as back:
        [row] = csv.DictReader(back)
    assert (row["x\\ud83d"], row["y"], row["tags"]) == ("\\ud83d", "\udce9", "[mill]")


def test_rejects_of_another_job_are_not_overwritten(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "tags.jsonl"
    model.mkdir()
    (model / "config.json").write_text("{}")
    Path(f"{out}.rejects.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"tags.jsonl.rejects.jsonl exists already"):
        tag(str(model), "rows.jsonl", out, [], votes=1, base=False, score=False, constrained=False)


@pytest.mark.parametrize("name", ["news #2.jsonl", "0123/", "no", "a: b.jsonl", "[x].jsonl"])
def test_the_name_of_the_data_is_no_yaml(name: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create()
    run.start(load_config(DEMO, [f"run.root={tmp_path}", "run.name=run"]))
    assert tagger_config(str(run.path), name, base=True).data.path == name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab\ud83d"), inner, max_size=2),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.sampled_from("xyz"), JSON, max_size=3), min_size=1, max_size=8))
def test_any_values_have_a_table(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("any")
    with RowWriter(folder / "rows.parquet", ROW) as out:
        for row in rows:
            out.write({"text_ids": [1], "whole": True, "reason": None, "row": json.dumps(row)})
    data = Data(path=str(lines(folder / "data.jsonl", *rows)))
    names = sorted({name for row in rows for name in row})
    if not names:
        return
    mixed = keep_columns(folder / "columns.parquet", data, folder / "rows.parquet", names)
    found = pq.read_table(folder / "columns.parquet")
    assert count_rows(folder / "columns.parquet") == len(rows) and found.column_names == names
    for name in mixed:
        texts = found[name].to_pylist()
        assert [text and json.dumps(json.loads(text)) for text in texts] == [
            None if row.get(name) is None else json.dumps(row[name]) for row in rows
        ]
