"""Reading, normalising, dropping duplicates, splitting."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semtag.cluster.progress import Progress
from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.configs.load import load_config, validate
from semtag.configs.rounds import Rounds
from semtag.configs.schema import Config
from semtag.generation.files import locate
from semtag.generation.readers import Row, read_rows
from semtag.generation.records import Text
from semtag.generation.texts import (
    HELD_OUT,
    VALIDATION,
    TextCleaner,
    assign,
    hold_out,
    normalise,
    prepare,
    preview,
    split_key,
    text_id,
)
from semtag.store.hashing import IdSet
from semtag.store.parquet import read_rows as read_parquet
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT

DEMO = ROOT / "configs" / "demo.yaml"


def config_for(path: Path, tmp_path: Path, **data: Any) -> Config:
    return validate(
        {
            "run": {"name": "t", "root": str(tmp_path / "runs")},
            "data": {"path": str(path), **data},
            "model": {"base": "none"},
            "rounds": {"validation": 0.0},
        }
    )


def texts_of(path: Path, **data: Any) -> list[Any]:
    column = data.get("column", "text")
    return [row.values.get(column) for row in read_rows(Data(path=str(path), **data))]


def test_bad_rows_are_rejected_with_their_reason_and_cost_no_other(tmp_path: Path) -> None:
    lines = [
        b'{"text": "good one", "id": 1}',
        b'{"text": "broken',
        b'{"other": "no text"}',
        b'{"text": null}',
        b'{"text": "  \\u0000 "}',
        b'{"text": 7}',
        b'{"text": "\xff\xfe"}',
        b'{"text": "\\ud800"}',
        b"[1]",
        b'{"text": "good\\n one"}',
        b'{"text": "good two"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    strict = config_for(tmp_path / "a.jsonl", tmp_path, held_out=0.0)
    run = RunDir.of(strict)
    run.create()
    with pytest.raises(UserError, match=r"72.7% of 11 rows are rejected, more than run.max_rejected=0.5"):
        prepare(run, strict, Progress("texts", "rows"))
    assert len(list(read_parquet(run.layout.rejects))) == 9  # to look at
    config = strict.model_copy(update={"run": strict.run.model_copy(update={"max_rejected": 0.8})})
    counts = prepare(run, config, Progress("texts", "rows"))
    assert counts["rows"] == 11
    assert counts["dropped"] == {
        "broken_line": 2,
        "missing_column": 1,
        "null_text": 1,
        "empty_text": 1,
        "not_text": 1,
        "invalid_utf8": 2,
        "duplicate": 1,
    }
    train = list(read_parquet(run.layout.train_texts(1, reuse=False)))
    assert [row["text"] for row in train] == ["good one", "good two"]
    assert json.loads(train[0]["meta"]) == {"id": 1}
    rejects = list(read_parquet(run.layout.rejects))
    assert Counter(row["reason"] for row in rejects) == Counter(counts["dropped"])
    assert run.ledger().as_json()["texts"]["rows"] == {"in": 11, "out": 2, "dropped": counts["dropped"]}


def test_errors_that_the_user_can_mend(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("body\nx\n")
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "body.json").write_text('{\n  "body": "x"\n}')
    (tmp_path / "a.xyz").write_text("x")
    for file in ("a.jsonl", "a.parquet", "a.csv", "body.json"):
        with pytest.raises(UserError, match=r"no column 'text'; it has: body"):
            prepare(RunDir(tmp_path / "run"), config_for(tmp_path / file, tmp_path), Progress("texts", "rows"))
    with pytest.raises(UserError, match="No such file"):
        locate(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="not SQuAD JSON"):
        texts_of(tmp_path / "bad.json", format="squad")
    with pytest.raises(UserError, match="Cannot tell the format"):
        locate(str(tmp_path / "a.xyz"))


@given(st.text(max_size=60))
def test_normalise_is_idempotent_and_ids_depend_on_it_alone(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert text_id(once) == text_id(normalise(f"  {once}\n"))
        assert -(2**63) <= text_id(once) < 2**63


@given(st.text(st.sampled_from("aé \u200b\u200d\ufeff\u00ade\u0301"), max_size=12))
def test_texts_that_look_the_same_have_one_id(text: str) -> None:
    shown = normalise(re.sub("[\u200b\u200d\ufeff\u00ad]", "", text))
    assert text_id(normalise(text)) == text_id(shown)


def test_texts_that_look_the_same_are_one_and_keep_their_spelling() -> None:
    texts = TextCleaner(Data(path="a"))
    rows = ["\u200b\u200d\ufeff", "A can\u200dal.", "A ca\u200bnal.", "A \u00ad canal.", "A lock."]
    records = [texts.clean(Row("a", {"text": text})) for text in rows]
    assert [getattr(record, "reason", None) for record in records] == [
        "empty_text",
        None,
        "duplicate",
        "duplicate",
        None,
    ]
    assert records[1] == Text(text_id("A canal."), "A can\u200dal.", None, "{}")


def test_text_id_is_fixed_for_ever() -> None:
    assert text_id("The governor holds the engine's speed.") == -916144202885750644


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30), st.data())
def test_held_out_articles_come_close_to_the_share(articles: list[int], data: st.DataObject) -> None:
    keys = np.array([key for key in articles for _ in range(data.draw(st.integers(1, 50)))], dtype=np.int64)
    held = hold_out(keys, 0.3)
    taken = np.isin(keys, held).sum()
    assert abs(taken - 0.3 * len(keys)) <= np.unique(keys, return_counts=True)[1].max()
    assert held.tolist() == hold_out(keys[::-1], 0.3).tolist()


@given(st.lists(st.integers(-20, 20)))
def test_a_set_of_ids_is_a_set(ids: list[int]) -> None:
    class Small(IdSet):
        RECENT = 2

    ours, sets = Small(), set[int]()
    for id_ in ids:
        assert ours.add(id_) == (id_ not in sets)
        sets.add(id_)


def dealt(ids: np.ndarray, held_out: float = 0.25, **rounds: Any) -> np.ndarray:
    """The part of each text, by `rounds` and a share to hold out."""
    config = load_config(DEMO, ["rounds.validation=0.1", "data.held_out_by=text", f"data.held_out={held_out}"])
    config = config.model_copy(update={"rounds": config.rounds.model_copy(update=rounds)})
    keys = [split_key(Text(id_, "", None, "{}"), None, config) for id_ in ids.tolist()]
    return assign(np.array(keys), ids, config)


IDS = np.array([text_id(str(number)) for number in range(1000)])


def test_texts_are_dealt_to_parts_of_even_size() -> None:
    parts = dealt(IDS, count=3)
    sizes = Counter(parts.tolist())
    train = len(IDS) - sizes[HELD_OUT]
    assert 200 < sizes[HELD_OUT] < 300
    assert sizes[VALIDATION] == int(0.1 * train)
    assert sizes.keys() == {HELD_OUT, VALIDATION, 1, 2, 3}  # each text has one of these
    rounds = [sizes[number] for number in (1, 2, 3)]
    assert max(rounds) - min(rounds) <= 1
    assert Counter(dealt(IDS, count=3, max_validation=20).tolist())[VALIDATION] == 20
    assert VALIDATION not in dealt(IDS, count=3, validation=0.0)


def test_parts_go_by_hash_and_not_by_order() -> None:
    parts = dict(zip(IDS.tolist(), dealt(IDS, count=2).tolist(), strict=True))
    backwards = IDS[::-1]
    assert parts == dict(zip(backwards.tolist(), dealt(backwards, count=2).tolist(), strict=True))
    neighbours = dealt(IDS, count=2, validation=0.0, held_out=0.0)
    assert 300 < (neighbours[1:] == neighbours[:-1]).sum() < 700  # texts that follow one another are not dealt in turn


def test_how_many_rounds_there_are_changes_neither_held_out_nor_validation_texts() -> None:
    one, three = dealt(IDS, count=1), dealt(IDS, count=3)
    for part in (HELD_OUT, VALIDATION):
        assert ((one == part) == (three == part)).all()


def test_rounds_that_reuse_texts_have_all_of_them() -> None:
    split, reuse = dealt(IDS, count=3), dealt(IDS, count=3, texts="reuse")
    assert set(reuse.tolist()) == {HELD_OUT, VALIDATION, 1}
    assert ((reuse > 0) == (split > 0)).all()


def test_rounds_get_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(100)))
    plain = config_for(tmp_path / "a.jsonl", tmp_path, held_out=0.2)
    for texts in ("split", "reuse"):
        config = validate(plain.model_dump() | {"rounds": {"count": 2, "texts": texts, "validation": 0.1}})
        run = RunDir.of(config)
        run.create()
        counts = prepare(run, config, Progress("texts", "rows"))
        layout = run.layout
        files = [*(layout.train_texts(n, texts == "reuse") for n in (1, 2)), layout.validation_texts, layout.held_out]
        ids = [{row["text_id"] for row in read_parquet(file)} for file in files]
        assert abs(len(ids[0]) - len(ids[1])) <= 1
        assert (counts["validation"], counts["held_out"]) == (len(ids[2]), len(ids[3]))
        assert len(set.union(*ids)) == 100 == sum(counts[name] for name in ("train", "validation", "held_out"))
        assert sum(map(len, ids)) == 100 + (counts["train"] if texts == "reuse" else 0)
        assert run.ledger().as_json()["texts"]["rows"] == {"in": 100, "out": 100, "dropped": {}}


def test_a_round_without_a_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n')
    config = config_for(tmp_path / "a.jsonl", tmp_path, held_out=0.0)
    config = config.model_copy(update={"rounds": Rounds(count=3, validation=0.0)})
    run = RunDir.of(config)
    run.create()
    with pytest.raises(UserError, match=r"No text is left to train on in round 3(.|\n)*rounds.texts=reuse"):
        prepare(run, config, Progress("texts", "rows"))


def test_articles_are_held_out_whole(tmp_path: Path) -> None:
    rows = [{"text": f"text {i} of {i % 10}", "title": f"article {i % 10}"} for i in range(200)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_for(tmp_path / "a.jsonl", tmp_path, held_out=0.3, held_out_by="article")
    run = RunDir.of(config)
    run.create()
    counts = prepare(run, config, Progress("texts", "rows"))
    files = (run.layout.train_texts(1, reuse=False), run.layout.held_out)
    sides = [{row["article"] for row in read_parquet(file)} for file in files]
    assert not sides[0] & sides[1]
    assert counts["held_out"] == 60


def test_a_misspelt_article_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "subject": "s"}\n{"text": "y", "title": ""}\n')
    data: dict[str, Any] = {"held_out": 0.3, "held_out_by": "article"}
    for column in ("subjct", None):  # null means title
        config = config_for(tmp_path / "a.jsonl", tmp_path, **data, article_column=column)
        message = rf"column '{column or 'title'}'. The other columns are: subject\.(.|\n)*data.article_column"
        with pytest.raises(UserError, match=message):
            preview(config.data)
        RunDir.of(config).create()
        with pytest.raises(UserError, match=message):
            prepare(RunDir.of(config), config, Progress("texts", "rows"))
    for changed in ({"held_out_by": "text"}, {"held_out": 0.0}):
        assert "2 distinct" in preview(Data(path=str(tmp_path), **(data | changed)))


def test_texts_without_an_article_are_counted(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "title": title} for n, title in enumerate(["a", "", None, float("nan"), "a", "b"])]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_for(tmp_path / "a.jsonl", tmp_path, held_out=0.3, held_out_by="article")
    RunDir.of(config).create()
    assert prepare(RunDir.of(config), config, Progress("texts", "rows"))["without_article"] == 3


def test_preview_counts_and_never_asks_the_hub(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "x"}\n{"text": null}\n')
    found = preview(Data(path=str(tmp_path / "a.jsonl")))
    assert "1 distinct texts in 3 rows" in found
    assert "1 duplicate, 1 null_text" in found
    assert "squad_v2, split train, from the Hugging Face hub" in preview(Data(path="squad_v2"))
