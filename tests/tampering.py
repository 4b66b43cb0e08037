"""Changes of a finished run, for tests of `semtag verify`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from semtag.configs.load import dump_config, load_config
from semtag.store.locations import write_json
from semtag.store.parquet import RowWriter, parquet_files, read_rows
from semtag.store.run_dir import RunDir
from semtag.verify import verify

Row = dict[str, Any]
Rows = list[Row]
Change = Callable[[RunDir], None]


def problems(run: RunDir) -> dict[str, list[str]]:
    """What `semtag verify` finds wrong, by check."""
    return {check: wrong for check, wrong in verify(run).items() if wrong}


def rewrite(place: Path, change: Callable[[Rows], Rows]) -> None:
    """Put changed rows in place of those of a folder, or of a file."""
    files = parquet_files(place)
    schema, rows = pq.read_schema(files[0]), change([*read_rows(place)])
    for file in files:
        file.unlink()
    with RowWriter(files[0], schema) as out:
        for row in rows:
            out.write(row)


def rows_of(name: str, change: Callable[[Rows], Rows]) -> Change:
    """A change of all rows of a folder of round 2."""
    return lambda run: rewrite(getattr(run.layout.round(2), name), change)


def one_of(name: str, which: Callable[[Row], bool], change: Callable[[Row], Row]) -> Change:
    """A change of some columns of the first row of a folder of round 2 that is such a one."""

    def changed(rows: Rows) -> Rows:
        place = next(place for place, row in enumerate(rows) if which(row))
        return [*rows[:place], rows[place] | change(rows[place]), *rows[place + 1 :]]

    return rows_of(name, changed)


def first(name: str, change: Callable[[Row], Row]) -> Change:
    """A change of some columns of the first row."""
    return one_of(name, lambda row: True, change)


def best(change: Callable[[Row], Row]) -> Change:
    """A change of the best candidate of a ranked text, a valid one."""
    return one_of(
        "ranked",
        lambda row: row["candidates"][0]["format"] == "valid",
        lambda row: {"candidates": [row["candidates"][0] | change(row["candidates"][0]), *row["candidates"][1:]]},
    )


def similar(change: Callable[[Row], Row]) -> Change:
    """A change of a similarity pair."""
    return one_of("pairs", lambda row: row["kind"] == "similarity", change)


def json_file(name: str, change: Callable[[Any], object]) -> Change:
    """A change of the manifest or the ledger."""

    def write(run: RunDir) -> None:
        file = getattr(run.layout, name)
        value = json.loads(file.read_text(encoding="utf-8"))
        change(value)
        write_json(file, value)

    return write


def configured(*overrides: str) -> Change:
    """Other settings in config.yaml, beside what the manifest keeps of the steps."""

    def write(run: RunDir) -> None:
        run.layout.config.write_text(dump_config(load_config(run.layout.config, overrides)), encoding="utf-8")

    return write


def both(*changes: Change) -> Change:
    """Changes one after the other."""

    def write(run: RunDir) -> None:
        for change in changes:
            change(run)

    return write


def counted(step: str, unit: str, **numbers: int) -> Change:
    """Numbers that are added to an entry of the ledger, by `came_in`, `out` or a reason."""

    def add(ledger: Any) -> None:
        entry = ledger[step][unit]
        for name, number in numbers.items():
            key = {"came_in": "in"}.get(name, name)
            where = entry if key in entry else entry["dropped"]
            where[key] = where.get(key, 0) + number

    return json_file("ledger", add)


def rejected(times: int) -> Change:
    """A ranked text among the rejects of its round."""

    def write(run: RunDir) -> None:
        layout = run.layout.round(2)
        row = json.dumps({"text_id": next(read_rows(layout.ranked))["text_id"]})
        reject = {"stage": "rank", "reason": "too_long", "detail": "", "row": row}
        rewrite(layout.rejects, lambda rows: [*rows, *[reject] * times])

    return write


def held_out_too(run: RunDir) -> None:
    text = next(read_rows(run.layout.train_texts(1, reuse=False)))
    rewrite(run.layout.held_out, lambda rows: [*rows, text])


def cut_short(run: RunDir) -> None:
    file = parquet_files(run.layout.round(2).pairs)[0]
    file.write_bytes(file.read_bytes()[:-20])


def damaged(run: RunDir) -> None:
    file = parquet_files(run.layout.round(2).ranked)[0]
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(200) + content[204:])


def of_another_schema(run: RunDir) -> None:
    for file in parquet_files(run.layout.round(2).lists):
        pq.write_table(pq.read_table(file).drop_columns(["scores"]), file)


def of_equal_answers(run: RunDir) -> None:
    """A similarity pair whose rejected answer says the same as the chosen one, and scores less."""
    layout = run.layout.round(2)
    pair = next(row for row in read_rows(layout.pairs) if row["kind"] == "similarity")

    def equal(rows: Rows) -> Rows:
        row = next(row for row in rows if row["text_id"] == pair["text_id"])
        of = {one["sample"]: one for one in row["candidates"]}
        chosen, rejected = of[pair["chosen_sample"]], of[pair["rejected_sample"]]
        rejected |= {name: chosen[name] for name in ("completion", "tags", "answer")}
        return rows

    rewrite(layout.ranked, equal)


def fuller(rows: Rows) -> Rows:
    """So many pairs of one score gap that no bins are even."""
    return [row for row in rows if row["kind"] == "similarity"][:1] * 1000


def broken(folder: str) -> Change:
    """A bit of a round's weights that is another one."""

    def write(run: RunDir) -> None:
        [file] = getattr(run.layout.round(2), folder).glob("*.safetensors")
        weights = bytearray(file.read_bytes())
        weights[-1] ^= 1
        file.write_bytes(weights)

    return write


def scored_otherwise(row: Row) -> Row:
    [answer] = row["candidates"]
    return {"candidates": [answer | {"format": "valid", "score": 0.75}]}


def swapped(*names: str) -> Callable[[Row], Row]:
    """Two columns in place of each other."""
    return lambda row: {names[0]: row[names[1]], names[1]: row[names[0]]}


def put(**columns: Any) -> Callable[[Row], Row]:
    """Values in place of a row's."""
    return lambda row: columns
