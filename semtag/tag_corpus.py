"""The work of a tagging job: data -> distinct texts -> answers -> one file, in the data's order.

A text of several rows is tagged once. A row that cannot be tagged goes to `<out>.rejects.jsonl` with its reason.
"""

import argparse
import glob
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import ray_session
from semtag.cluster.stage_process import as_process
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.generation.cells import as_json
from semtag.generation.decoding import tagging
from semtag.generation.preflight import check_model
from semtag.generation.readers import read_rows as read_data
from semtag.generation.reasons import RejectReason
from semtag.generation.records import TEXT, Candidate, Reject, Text, candidates_of
from semtag.generation.source_state import source_state
from semtag.generation.texts import TextCleaner, shown
from semtag.generation.vote import answer_of_parts
from semtag.scoring.finished import finish
from semtag.scoring.pipeline import sample_and_score
from semtag.store.locations import Place, remove, short_hash, write_json
from semtag.store.manifest import StepCounts
from semtag.store.parquet import RowWriter, count_rows, read_rows
from semtag.store.rounds import base_of
from semtag.store.run_dir import RunDir
from semtag.tag_answers import keep_answers, kept_files, write_new
from semtag.tag_columns import keep_columns
from semtag.tag_files import TAGS, WRITERS, Row, Tagged, json_line
from semtag.tag_job import job_file, rejects_of

# A row of the data as JSON, with the ids of its text's parts, or the reason why the row has no usable text.
# `whole` says that the text was not split.
ROW = pa.schema(
    [("text_ids", pa.list_(pa.int64())), ("whole", pa.bool_()), ("reason", pa.string()), ("row", pa.string())]
)
CHUNK = 1024  # rows whose answers are looked up together


@dataclass
class TagCounts:
    """Counts of rows: tagged rows by format and by defect, rejected rows by reason."""

    formats: Counter[str] = field(default_factory=Counter)
    defects: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    in_parts: int = 0  # rows scored in parts, because their text is longer than the embedding model reads


@dataclass(frozen=True)
class RowAnswer:
    """The answer to a row's text, or the reason why the row has no answer."""

    reason: str | None = None
    candidate: Candidate | None = None
    in_parts: bool = False


def tag(work: RunDir, progress: Progress) -> StepCounts:
    """Do or resume the job in the folder `work`, write its files and remove the folder; return the counts."""
    job, config = json.loads(job_file(work).read_text(encoding="utf-8")), work.config()
    if not work.layout.texts.exists():
        with work.replace_folder(work.layout.texts) as folder:
            write_json(folder / work.layout.source_state.name, source_state(config.data))
            _read(folder, config, progress)
            if job["out"].endswith(".parquet"):
                _keep_columns(folder, config, progress)
    counts = _answer(work, job, config, progress)
    remove(work.path)
    return counts


def _read(folder: Path, config: Config, progress: Progress) -> None:
    """Write the distinct texts, all rows in their order, and the names of the columns.

    Raises UserError when no row has a usable text, and when a column has the name of a new column.
    """
    # A row's text goes to texts.parquet once, and the row to rows.parquet each time.
    texts, columns = TextCleaner(config.data), dict[str, None]()
    with RowWriter(folder / "texts.parquet", TEXT) as distinct, RowWriter(folder / "rows.parquet", ROW) as rows:
        ids = list[int]()  # of the parts of a document that are usable
        for row in read_data(config.data, progress.say):
            record = texts.clean(row)
            if isinstance(record, Text):
                distinct.write(vars(record))
            id_ = record.text_id if isinstance(record, Text) else record.repeats
            ids += [] if id_ is None else [id_]  # a row that repeats a text is usable
            if row.part and row.part.number < row.part.of:
                continue
            reason = record.reason if isinstance(record, Reject) and not ids else None
            values = row.part.whole if row.part else row.values
            whole = row.part is None or row.part.of == 1
            rows.write({"text_ids": ids, "whole": whole, "reason": reason, "row": as_json(values)})
            columns |= dict.fromkeys(values if ids else ())
            ids = []
    texts.check()
    if texts.split:
        progress.say(f"{texts.split['documents']:,} documents were split into {texts.split['parts']:,} parts")
    if taken := columns.keys() & set(TAGS.names):
        problem = f"The data has columns with the names of new columns: {sorted(taken)}."
        raise UserError(problem, "Rename these columns.")
    (folder / "columns.json").write_text(json.dumps([*columns]), encoding="utf-8")


def _keep_columns(folder: Path, config: Config, progress: Progress) -> None:
    names = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
    if mixed := keep_columns(folder / "columns.parquet", config.data, folder / "rows.parquet", names):
        progress.say(f"columns with values of several types become JSON text in the Parquet file: {', '.join(mixed)}")


def _answer(work: RunDir, job: dict[str, Any], config: Config, progress: Progress) -> StepCounts:
    """Have the model answer the texts that have no answer yet, and write the files; return the counts."""
    answers, finished = (work.path / name for name in ("answers", "finished"))
    check_model(base_of(config), config, trained=False)
    votes, known = job["votes"], Path(job["answers"]) if job["answers"] else None
    texts = _without_answers(work, known, progress)
    by_vote = f", by {votes} votes each" if votes > 1 else ""
    progress.say(f"tagging {count_rows(texts):,} texts{by_vote}")
    decoding = tagging(config, votes, job["constrained"])

    def sample(done: np.ndarray, last: bool) -> None:
        if len(done):
            progress.say(f"{len(done):,} of these texts were tagged before")
        model, score = base_of(config), job["score"]
        with ray_session(config):
            sample_and_score(texts, answers, config, model, [decoding], progress, finished, done, score, last)

    def write(files: list[Place]) -> StepCounts:
        if known:
            earlier = kept_files(known)
            keep_answers(files, known, short_hash(f"{work.path} {work.manifest().created}"))
            files = [*files, *earlier]  # a text in both has equal answers
        return _write(work, job, files, config.data.column)

    return finish(texts, answers, finished, progress, sample, write)


def _without_answers(work: RunDir, known: Path | None, progress: Progress) -> Place:
    """Return the file of the texts to ask the tagger about: all, or those without an answer in the folder `known`."""
    texts, new = work.local_dir / "texts" / "texts.parquet", work.local_dir / "texts" / "new.parquet"
    if known is None:
        return texts
    if not new.exists():
        with work.temporary_folder("new") as scratch:
            kept = write_new(texts, known, scratch / new.name)
            (scratch / new.name).rename(new)
        progress.say(f"{kept:,} of {count_rows(texts):,} texts have answers by this tagger in {known}")
    return new


def _write(work: RunDir, job: dict[str, Any], answers: list[Place], column: str) -> StepCounts:
    """Join rows and answers, and write the output and the rejects. Each file appears whole or not at all."""
    out = work.local_dir.with_name(job["out"])
    counts = TagCounts()
    # Write into a scratch folder, then move the finished files.
    with work.temporary_folder("joined") as scratch:
        whole, rejects = scratch / out.name, scratch / "rejects.jsonl"
        with rejects.open("wb") as bad:
            rows = _tagged(_joined(work, answers, column, scratch), counts, bad)
            WRITERS[out.suffix](whole, rows, work.local_dir / "texts")
        if counts.rejected:
            rejects.replace(rejects_of(out))
        whole.replace(out)
    return {
        "rows": counts.formats.total() + counts.rejected.total(),
        "tagged": counts.formats.total(),
        "formats": dict(counts.formats),
        "defects": dict(counts.defects),
        "rejected": dict(counts.rejected),
        **({"scored_in_parts": counts.in_parts} if counts.in_parts else {}),
        "file": str(out),
    }


def _tagged(joined: Iterator[tuple[Row, RowAnswer]], counts: TagCounts, bad: BinaryIO) -> Tagged:
    """Yield each row with its tags, or with None after the row is written to the rejects. Count all rows."""
    for row, answer in joined:
        if answer.candidate is None:
            reason = answer.reason or ""
            counts.rejected[reason] += 1
            bad.write(json_line({"reason": reason, "row": row}))
            yield row, None
            continue
        found = answer.candidate
        counts.formats[found.format] += 1
        counts.in_parts += answer.in_parts
        if found.reason:
            counts.defects[found.reason] += 1
        yield row, dict(zip(TAGS.names, (found.tags, found.format, found.score), strict=True))


def _joined(work: RunDir, files: list[Place], column: str, scratch: Path) -> Iterator[tuple[Row, RowAnswer]]:
    """Yield every row of the data in its order, with the answer to its text, or to the parts of its text.

    Compares the texts of row and answer as well, because two texts may have one id. Raises UserError when the `files`
    lack the answer to a text.
    """
    from datasets import Dataset

    columns = ["text_id", "text", "candidates", "reason", "in_parts"]
    paths = [glob.escape(str(file)) for file in files]
    # The answers are memory-mapped. Only the ids lie in memory, 8 bytes a text.
    answers = Dataset.from_parquet(paths, cache_dir=str(scratch / "cache"), columns=columns).sort("text_id")
    ids = answers.with_format("numpy")["text_id"][:]
    rows = read_rows(work.layout.texts / "rows.parquet")
    while chunk := list(islice(rows, CHUNK)):
        # Look up the answers of a chunk by id.
        wanted = list(itertools.chain.from_iterable(row["text_ids"] for row in chunk))
        places = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        if (ids[places] != wanted).any():
            raise UserError(f"{work.path} lacks answers to some texts.", "Remove this folder, and tag again.")
        found = iter(answers.select(places).to_list() if wanted else [])
        for record in chunk:
            # NaN becomes null, because JSON has no NaN.
            row = json.loads(record["row"], parse_constant=lambda _: None)
            if record["reason"] is not None:
                yield row, RowAnswer(record["reason"])
                continue
            yield row, _answer_to(row[column], record["whole"], list(islice(found, len(record["text_ids"]))))


def _answer_to(text: str, whole: bool, parts: list[dict[str, Any]]) -> RowAnswer:
    """Return the answer to a text from the answers to its parts. Parts without an answer have no vote."""
    if any(not _is_of(part["text"], text, whole) for part in parts):
        return RowAnswer(RejectReason.OTHER_TEXT_OF_SAME_ID)
    answered = [part for part in parts if not part["reason"]]
    if not answered:
        return RowAnswer(parts[0]["reason"])
    elected = answer_of_parts([candidates_of(part)[0] for part in answered], len(parts))
    return RowAnswer(candidate=elected, in_parts=any(part["in_parts"] for part in answered))


def _is_of(asked: str, text: str, whole: bool) -> bool:
    """Return whether the text that was asked about is the `whole` text, or a part of it. White space may differ."""
    if whole:
        return shown(asked) == shown(text)
    return "".join(shown(asked).split()) in "".join(shown(text).split())


def main() -> None:
    """Do the job in a folder, as the process `python -m semtag.tag_corpus FOLDER` of `semtag tag`."""
    parser = argparse.ArgumentParser(description="Do a tagging job.")
    parser.add_argument("work", help="the job's folder")
    work = RunDir(parser.parse_args().work)
    as_process(work, "tag", "texts", lambda progress: tag(work, progress))


if __name__ == "__main__":
    main()
