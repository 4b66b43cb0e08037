"""A tagger's tags for every row of any data, in the data's order: data -> texts -> answers -> one file.

A text that stands in several rows is tagged once. What cannot be tagged goes to `<out>.rejects.jsonl` with its reason.
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.parquet import RowWriter, count_rows, read_rows
from cluster.places import Place, remove
from cluster.progress import Progress
from cluster.rounds import base_of
from cluster.run_dir import RunDir
from cluster.session import ray_session
from cluster.stage import as_process
from cluster.tag import job_file
from configs.errors import UserError
from configs.schema import Config
from generation.decoding import greedy, sampled
from generation.parse import answer_of
from generation.readers import read_rows as read_data
from generation.records import TEXT
from generation.texts import Texts
from scoring.finished import finish
from scoring.rank_texts import count_finished, sample_and_score

# A row of the data as it came, with the id of its text, or the reason that it has none.
ROW = pa.schema([("text_id", pa.int64()), ("reason", pa.string()), ("row", pa.string())])
ADDED = ("tags", "tags_format", "tags_score")  # columns of the result
CHUNK = 1024  # rows that are looked up together

Record = dict[str, Any]


def tag(work: RunDir, progress: Progress) -> Record:
    """Do the job that lies in the folder `work`, or what is left of it, and remove the folder; returns the counts."""
    job, config = json.loads(job_file(work).read_text(encoding="utf-8")), work.config()
    if not work.layout.texts.exists():
        with work.writing(work.layout.texts) as folder:
            _read(folder, config)
    counts = _write(work, job, _answer(work, job, config, progress))
    remove(work.path)
    return counts


def _read(folder: Path, config: Config) -> None:
    """Write the distinct texts to tag, all rows in their order, and the names of their columns."""
    texts, columns = Texts(config.data), dict[str, None]()
    with RowWriter(folder / "texts.parquet", TEXT) as distinct, RowWriter(folder / "rows.parquet", ROW) as rows:
        for row in read_data(config.data):
            record = texts.take(row)
            if "reason" not in record:
                distinct.write(record)
            usable = "text_id" in record  # of a row seen before as well
            content = json.dumps(row.values, ensure_ascii=True, default=str)
            reason = None if usable else record["reason"]
            rows.write({"text_id": record.get("text_id"), "reason": reason, "row": content})
            columns |= dict.fromkeys(row.values if usable else ())
    if not distinct.rows:
        raise UserError(
            f"No usable text in {config.data.path}: {texts.rows} rows read, dropped: {dict(texts.dropped)}.",
            "Check --data and data.column.",
        )
    if taken := columns.keys() & set(ADDED):
        raise UserError(f"The data has columns of the names that tags get: {sorted(taken)}.", "Rename them.")
    (folder / "columns.json").write_text(json.dumps([*columns, *ADDED]), encoding="utf-8")


def _answer(work: RunDir, job: Record, config: Config, progress: Progress) -> list[Place]:
    """Have the model answer the texts that it has not answered yet; returns the files of answers."""
    texts, answers, finished = (work.path / name for name in ("texts/texts.parquet", "answers", "finished"))
    total, before = count_rows(texts), count_finished(finished)
    votes, constrained = job["votes"], job["constrained"]
    by_vote = f", by {votes} votes each" if votes > 1 else ""
    progress.say(f"tagging {total:,} texts{by_vote}" + (f"; {before:,} of them were tagged before" if before else ""))
    decoding = greedy(config, "tag", constrained)
    if votes > 1:
        decoding = sampled(config, "tag", votes, constrained, vote=True)

    def sample() -> None:
        with ray_session(config):
            sample_and_score(
                texts, answers, config, base_of(config), [decoding], progress, finished, score=job["score"]
            )

    return finish(texts, answers, finished, progress, sample)


def _write(work: RunDir, job: Record, answers: list[Place]) -> Record:
    """Join rows and answers into the file, and the rejects into theirs; each appears whole."""
    out = work.here.with_name(job["out"])
    rejects = out.with_name(f"{out.name}.rejects.jsonl")
    formats, defects, rejected = Counter[str](), Counter[str](), Counter[str]()
    with work.scratch("joined") as scratch:
        with (scratch / "rows.jsonl").open("wb") as good, (scratch / "rejects.jsonl").open("wb") as bad:
            for row, answer in _joined(work, answers, scratch):
                if answer["reason"]:
                    rejected[answer["reason"]] += 1
                    bad.write(_line({"reason": answer["reason"], "row": row}))
                    continue
                [found] = answer["candidates"]
                formats[found["format"]] += 1
                if found["reason"]:
                    defects[found["reason"]] += 1
                good.write(_line(row | dict(zip(ADDED, (found["tags"], found["format"], found["score"]), strict=True))))
        columns = json.loads((work.layout.texts / "columns.json").read_text(encoding="utf-8"))
        whole = FORMATS[out.suffix](scratch / "rows.jsonl", columns)
        if rejected:
            (scratch / "rejects.jsonl").replace(rejects)
        whole.replace(out)
    return {
        "rows": formats.total() + rejected.total(),
        "tagged": formats.total(),
        "formats": dict(formats),
        "defects": dict(defects),
        "rejected": dict(rejected),
        "file": str(out),
    }


def _line(value: Record) -> bytes:
    """JSON for people to read, or in ASCII where a column holds bytes that were no UTF-8."""
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"


def _joined(work: RunDir, files: list[Place], scratch: Path) -> Iterator[tuple[Record, Record]]:
    """Every row of the data in its order, with its text's answer, of schema SAMPLED, or the reason that it has none.

    Raises UserError when the `files` of answers lack a text's.
    """
    from datasets import Dataset

    columns = ["text_id", "candidates", "reason"]
    # Memory-mapped: only the ids lie in memory, 8 bytes a text.
    answers = Dataset.from_parquet([*map(str, files)], cache_dir=str(scratch / "cache"), columns=columns).sort(
        "text_id"
    )
    ids = answers.with_format("numpy")["text_id"][:]
    rows = read_rows(work.layout.texts / "rows.parquet")
    while chunk := list(islice(rows, CHUNK)):
        wanted = [row["text_id"] for row in chunk if row["reason"] is None]
        places = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        if (ids[places] != wanted).any():
            raise UserError(f"{work.path} lacks answers to some texts.", "Remove that folder and tag anew.")
        found = iter(answers.select(places).to_list() if wanted else [])
        for row in chunk:
            yield json.loads(row["row"]), next(found) if row["reason"] is None else row


def _as_csv(lines: Path, columns: list[str]) -> Path:
    """Tags in canonical form, `[tag1][tag2]`; other nested values as JSON."""
    file = lines.with_suffix(".csv")
    with (
        lines.open(encoding="utf-8") as rows,
        file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out,
    ):
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        for line in rows:
            row = json.loads(line)
            row["tags"] = answer_of(row["tags"])
            writer.writerow(
                {k: json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict) else v for k, v in row.items()}
            )
    return file


def _as_parquet(lines: Path, columns: list[str]) -> Path:
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    file = lines.with_suffix(".parquet")
    try:
        Dataset.from_json(str(lines), cache_dir=str(lines.parent / "cache")).select_columns(columns).to_parquet(file)
    except (DatasetGenerationError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(
            f"The data's columns do not fit into Parquet: {error.__cause__ or error}.",
            "Tag into a .jsonl file instead.",
        ) from None
    return file


FORMATS = {".jsonl": lambda lines, _: lines, ".csv": _as_csv, ".parquet": _as_parquet}


def main() -> None:
    """`python -m scoring.tag_texts FOLDER`, as `semtag tag` starts it."""
    parser = argparse.ArgumentParser(description="Do a tagging job.")
    parser.add_argument("work", help="the job's folder")
    work = RunDir(parser.parse_args().work)
    as_process(work, "tag", "texts", lambda progress: tag(work, progress))


if __name__ == "__main__":
    main()
