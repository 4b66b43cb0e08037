"""The texts step: input rows become distinct normalised texts, split into train and held-out, or rejects."""

import contextlib
import re
import unicodedata
from array import array
from collections import Counter
from pathlib import Path

import numpy as np

from semtag.cluster.progress import Progress
from semtag.cluster.stage_process import stage_main
from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.generation.cells import as_article, as_json, encodable
from semtag.generation.documents import Part
from semtag.generation.files import locate
from semtag.generation.parse import visible
from semtag.generation.readers import Row, check_columns, read_rows
from semtag.generation.reasons import RejectReason
from semtag.generation.records import REJECT, TEXT, Reject, Text
from semtag.generation.source_state import source_state
from semtag.store.hashing import IdSet, hash64
from semtag.store.layout import RunLayout, Step
from semtag.store.locations import write_json
from semtag.store.manifest import StepCounts
from semtag.store.parquet import RowWriter, TableWriter, read_tables
from semtag.store.run_dir import RunDir, check_rejected

FIRST_ROWS = 100  # reading stops if all of these rows lack the text's column
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def normalise(text: str) -> str:
    """Normalise to NFC, with control characters and runs of white space as one space, trimmed. Idempotent.

    Example: ` a\\t\\tb` becomes `a b`.
    """
    return " ".join(unicodedata.normalize("NFC", _CONTROL.sub(" ", text)).split())


def shown(text: str) -> str:
    """Return a text's visible characters, normalised. The text keeps hidden ones, because some scripts need them."""
    return normalise(visible(text))


def text_id(text: str) -> int:
    """Hash a text's visible characters (BLAKE2b, signed 64 bits), so that texts that look the same have one id."""
    return hash64(shown(text))


def problem_of(text: object) -> tuple[RejectReason, str] | None:
    """Return the reason why a value cannot be used as a text, with details; None for a usable text.

    Example: `problem_of(3)` is `(RejectReason.NOT_TEXT, "a int")`.
    """
    if text is None:
        return RejectReason.NULL_TEXT, ""
    if not isinstance(text, str):
        return RejectReason.NOT_TEXT, f"a {type(text).__name__}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return RejectReason.INVALID_UTF8, str(error)
    return None if shown(text) else (RejectReason.EMPTY_TEXT, "")


class TextCleaner:
    """A converter of rows into texts and rejects, which counts both."""

    def __init__(self, data: Data, candidates: str | None = None) -> None:
        self.data = data
        self.candidates = candidates  # the column with the candidates for replay
        self.seen, self.seen_candidates = IdSet(), IdSet()
        self.rows = 0
        self.dropped: Counter[str] = Counter()
        self.without_article = 0  # texts that name no article
        self.split: Counter[str] = Counter()  # documents that were split, and their parts
        self._columns: list[str] | None = None  # of the first row that lacks the text's column
        self._beside: list[str] = []  # other columns of the first text

    def clean(self, row: Row) -> Text | Reject:
        """Return the row's text, or a reject. The reject of a row that repeats a text names that text."""
        self.rows += 1
        if row.part and row.part.of > 1:
            self.split.update(documents=row.part.number == 1, parts=1)
        column = self.data.column
        if problem := self._problem(row):
            return self._reject(row, *problem)
        text = normalise(row.values[column])
        id_ = text_id(text)
        given = as_json({"given": row.values.get(self.candidates)}) if self.candidates else ""
        new = bool(self.candidates) and self.seen_candidates.add(hash64(id_, given))
        if not self.seen.add(id_):
            if new:
                detail = f"other candidates of text_id {id_}: put all candidates of a text in one row"
                return self._reject(row, RejectReason.MORE_CANDIDATES, detail, id_)
            return self._reject(row, RejectReason.DUPLICATE, f"same text as text_id {id_}", id_)
        meta = {key: value for key, value in row.values.items() if key != column}
        article = as_article(meta.get(self._article_column)) or (row.part and f"document {row.part.document}")
        self.without_article += article is None
        self._beside = self._beside or list(meta)
        return Text(id_, text, article, as_json(meta))

    @property
    def _article_column(self) -> str:
        return self.data.article_column or "title"

    def check_articles(self) -> None:
        """Check that a text names its article, where texts are held out by article. Raises UserError otherwise."""
        kept = self.rows - self.dropped.total()
        by_article = self.data.held_out_by == "article" and self.data.held_out > 0
        if by_article and kept and self.without_article == kept:
            raise UserError(
                f"No text of {self.data.where} names its article in a column '{self._article_column}'. The other "
                f"columns are: {', '.join(self._beside) or 'none'}.",
                "Set data.article_column to the column that names the article, or set data.held_out_by=text.",
            )

    def check(self) -> None:
        """Check that a row has a usable text. Raises UserError otherwise."""
        if self.rows > self.dropped.total():
            return
        if self._columns is not None:
            check_columns(self.data.column, self._columns, self.data.where)
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.dropped.items()))
        raise UserError(
            f"No usable text in {self.data.where}: {self.rows:,} rows read, dropped: {dropped or 'none'}.",
            "Check data.path (for `semtag tag`: --data) and data.column.",
        )

    def _problem(self, row: Row) -> tuple[RejectReason, str] | None:
        if row.problem:
            return row.problem, row.detail
        column = self.data.column
        if column not in row.values:
            return RejectReason.MISSING_COLUMN, f"no column '{column}'"
        return problem_of(row.values[column])

    def _reject(self, row: Row, reason: RejectReason, detail: str, repeats: int | None = None) -> Reject:
        self.dropped[reason.value] += 1
        if reason == RejectReason.MISSING_COLUMN:
            self._columns = self._columns or list(row.values)
            if self.dropped[reason] == self.rows == FIRST_ROWS:
                self.check()
        detail = encodable(f"{row.source}: {detail}".rstrip(": "))
        return Reject("texts", reason, detail, as_json(row.values), repeats)


def preview(data: Data) -> str:
    """Describe a local source by its counts of texts. A hub dataset is only named, so that no network is needed."""
    if hub := [path for path in data.paths if locate(path, data.format).format == "hub"]:
        return f"{', '.join(hub)}, split {data.split}, from the Hugging Face hub (read when the run starts)"
    texts, said = TextCleaner(data), list[str]()
    for row in read_rows(data, said.append):
        texts.clean(row)
    texts.check()
    texts.check_articles()
    dropped = "".join(f", {count:,} {reason}" for reason, count in sorted(texts.dropped.items()))
    return (
        f"{texts.rows - texts.dropped.total():,} distinct texts in {texts.rows:,} rows of {data.where}{dropped}"
        + "".join(f"; {one}" for one in said)
    )


def split_key(text: Text, part: Part | None, config: Config) -> int:
    """Return the signed 64-bit split key: a hash of the text, of its document, or of its article.

    The article counts if there is one, with held_out_by=article.
    """
    by_article = config.data.held_out_by == "article"
    seed = config.run.seed if config.data.split_seed is None else config.data.split_seed
    return hash64("held_out", seed, (by_article and text.article) or (part.document if part else text.text_id))


def hold_out(keys: np.ndarray, fraction: float) -> np.ndarray:
    """Return the keys to hold out, sorted, out of the texts' split keys [N] int64.

    Articles are tried in the order of their hash. An article is held out whole if it brings the share of texts closer
    to `fraction`. Example: the keys `[1, 1, 2, 3]` with fraction 0.5 become `[1]`.
    """
    articles, sizes = np.unique(keys, return_counts=True)
    target, count, chosen = fraction * len(keys), 0, np.zeros(len(articles), dtype=bool)
    for place, size in enumerate(sizes.tolist()):
        if abs(count + size - target) < abs(count - target):
            chosen[place] = True
            count += size
    return articles[chosen]


def prepare(run: RunDir, config: Config, progress: Progress) -> StepCounts:
    """Read, clean, split and write the texts; return the counts."""
    replayed = config.sampling.candidates if config.sampling.engine == "replay" else None
    texts, keys, ids, layout = TextCleaner(config.data, replayed), array("q"), array("q"), run.layout
    with run.replace_folder(layout.texts) as folder, run.replace_folder(layout.rejects) as rejects:
        write_json(folder / layout.source_state.name, source_state(config.data))
        # Write all texts to one file first, because the split depends on the keys of all texts.
        with RowWriter(folder / "all.parquet", TEXT) as good, RowWriter(rejects / "rows.parquet", REJECT) as bad:
            for row in read_rows(config.data, progress.say):
                record = texts.clean(row)
                if isinstance(record, Reject):
                    bad.write(vars(record))
                else:
                    good.write(vars(record))
                    keys.append(split_key(record, row.part, config))
                    ids.append(record.text_id)
                progress.advance()
        texts.check()
        texts.check_articles()
        parts = assign(np.frombuffer(keys, dtype=np.int64), np.frombuffer(ids, dtype=np.int64), config)
        counts = _split(folder, layout, parts, config)
    dropped = dict(texts.dropped)
    check_rejected(dropped, texts.rows, config, layout.rejects)
    run.record(Step("texts"), "rows", texts.rows, sum(counts.values()), dropped)
    if config.data.held_out_by == "article" and texts.without_article:
        counts["without_article"] = texts.without_article  # texts that are split by their own hash
    return {"rows": texts.rows, **counts, "dropped": dropped, **({"split": dict(texts.split)} if texts.split else {})}


HELD_OUT, VALIDATION = -1, 0  # parts of the texts; a part from 1 is the round that trains on the texts


def assign(keys: np.ndarray, ids: np.ndarray, config: Config) -> np.ndarray:
    """Return the part of each text, int64 [N], from its split key and its id: HELD_OUT, VALIDATION or a round.

    With `rounds.texts=reuse` all rounds train on part 1.
    """
    held_out, rounds = config.data.held_out, config.rounds
    if config.data.held_out_by == "article":
        out = np.isin(keys, hold_out(keys, held_out))
    else:
        out = (keys.astype(np.float64) + 2**63) / 2**64 < held_out
    # Take the validation share of the train texts, in the order of a hash.
    train = np.flatnonzero(~out)
    hashes = np.fromiter((hash64("round", config.run.seed, id_) for id_ in ids[train].tolist()), np.int64, len(train))
    dealt = train[np.argsort(hashes, kind="stable")]
    validation = min(int(rounds.validation * len(dealt)), rounds.max_validation)
    parts = np.full(len(keys), HELD_OUT, dtype=np.int64)
    parts[dealt[:validation]] = VALIDATION
    # Deal the rest to the rounds, one text to each in turn.
    places = np.arange(len(dealt) - validation)
    parts[dealt[validation:]] = 1 + (places % rounds.count if rounds.texts == "split" else 0 * places)
    return parts


def _split(folder: Path, layout: RunLayout, parts: np.ndarray, config: Config) -> dict[str, int]:
    """Split all.parquet into a file for each part; return the number of train, validation and held-out texts."""
    rounds = range(1, 1 + (config.rounds.count if config.rounds.texts == "split" else 1))
    files = {number: layout.train_texts(number, reuse=False).name for number in rounds}
    files |= {HELD_OUT: layout.held_out.name, VALIDATION: layout.validation_texts.name}
    with contextlib.ExitStack() as stack:
        writers = {part: stack.enter_context(TableWriter(folder / name, TEXT)) for part, name in files.items()}
        # Send the rows of each table to their parts; `start` is the place of the table's first row.
        start = 0
        for table in read_tables(folder / "all.parquet"):
            of_table = parts[start : start + len(table)]
            for part, writer in writers.items():
                writer.write(table.filter(of_table == part))
            start += len(table)
    (folder / "all.parquet").unlink()
    # Refuse a split that leaves a round without texts.
    empty = [number for number in rounds if not (parts == number).any()]
    if empty:
        raise UserError(
            f"No text is left to train on in round {empty[0]}.",
            "Lower data.held_out, rounds.validation or rounds.count, or set rounds.texts=reuse.",
        )
    return {
        "train": int((parts > 0).sum()),
        "validation": int((parts == VALIDATION).sum()),
        "held_out": int((parts == HELD_OUT).sum()),
    }


if __name__ == "__main__":
    stage_main("texts", lambda run, config, progress, _: prepare(run, config, progress))
