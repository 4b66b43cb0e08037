"""Input rows -> distinct normalised texts, split into train and held-out; what cannot be used goes to the rejects."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from cluster.parquet import RowWriter
from cluster.parquet import read_rows as read_parquet
from cluster.progress import Progress
from cluster.run_dir import RunDir, check_rejected
from cluster.stage import stage_main
from configs.errors import UserError
from configs.schema import Config, Data
from generation.readers import Row, read_rows, require_column
from generation.records import REJECT, TEXT

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def normalise(text: str) -> str:
    """Unicode NFC, control characters and runs of white space as one space, trimmed. Idempotent."""
    return " ".join(unicodedata.normalize("NFC", _CONTROL.sub(" ", text)).split())


def text_id(normalised: str) -> int:
    """Signed 64-bit BLAKE2b hash of a normalised text."""
    return hash64(normalised)


def hash64(*parts: object) -> int:
    """Signed 64-bit BLAKE2b hash of the parts, the same on every machine."""
    joined = "\x1f".join(map(str, parts)).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big", signed=True)


def unit_hash(*parts: object) -> float:
    """The hash of the parts as a number in [0, 1)."""
    return (hash64(*parts) + 2**63) / 2**64


class Texts:
    """Turns rows into records of schema TEXT or REJECT, and counts what became of them."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.seen: set[int] = set()
        self.rows = 0
        self.dropped: Counter[str] = Counter()

    def take(self, row: Row) -> dict[str, Any]:
        """A TEXT record, or a REJECT record (it has a `reason`)."""
        self.rows += 1
        column = self.data.column
        if row.problem is None and self.rows == 1:
            require_column(column, list(row.values), row.source)
        problem, detail = row.problem, row.detail
        if problem is None:
            problem, detail = self._problem(row)
        if problem is not None:
            return self._reject(row, problem, detail)
        text = normalise(row.values[column])
        id_ = text_id(text)
        if id_ in self.seen:
            return self._reject(row, "duplicate", f"same text as text_id {id_}")
        self.seen.add(id_)
        meta = {key: value for key, value in row.values.items() if key != column}
        article = meta.get(self.data.article_column or "title")
        return {
            "text_id": id_,
            "text": text,
            "article": None if article is None else str(article),
            "meta": json.dumps(meta, ensure_ascii=True, default=str),
        }

    def _problem(self, row: Row) -> tuple[str | None, str]:
        column = self.data.column
        if column not in row.values:
            return "missing_column", f"no column '{column}'"
        text = row.values[column]
        if text is None:
            return "null_text", ""
        if not isinstance(text, str):
            return "not_text", f"a {type(text).__name__}"
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return "invalid_utf8", str(error)
        if not normalise(text):
            return "empty_text", ""
        return None, ""

    def _reject(self, row: Row, reason: str, detail: str) -> dict[str, Any]:
        self.dropped[reason] += 1
        content = json.dumps(row.values, ensure_ascii=True, default=str)
        return {"stage": "texts", "reason": reason, "detail": f"{row.source}: {detail}".rstrip(": "), "row": content}


def hold_out(articles: Counter[str], fraction: float, seed: int) -> set[str]:
    """The articles to hold out: taken whole in order of their hash while they bring the share closer to `fraction`."""
    target = fraction * articles.total()
    chosen: set[str] = set()
    count = 0
    for article in sorted(articles, key=lambda name: hash64("held_out", seed, name)):
        if abs(count + articles[article] - target) < abs(count - target):
            chosen.add(article)
            count += articles[article]
    return chosen


def prepare(run: RunDir, config: Config, progress: Progress) -> dict[str, Any]:
    """Read, clean, split and write the texts; returns the counts."""
    texts = Texts(config.data)
    articles: Counter[str] = Counter()
    with run.writing("texts") as folder, run.writing("rejects/texts") as rejects:
        with RowWriter(folder / "all.parquet", TEXT) as good, RowWriter(rejects / "rows.parquet", REJECT) as bad:
            for row in read_rows(config.data):
                record = texts.take(row)
                if "reason" in record:
                    bad.write(record)
                else:
                    good.write(record)
                    articles[record["article"] or str(record["text_id"])] += 1
                progress.advance()
        if not articles:
            raise UserError(
                f"No usable text in {config.data.path}: {texts.rows} rows read, dropped: {dict(texts.dropped)}.",
                "Check data.path and data.column.",
            )
        split = _split(folder, config, articles)
    dropped = dict(texts.dropped)
    check_rejected(dropped, texts.rows, config, run.path / "rejects" / "texts")
    run.record("texts", "rows", texts.rows, split["train"] + split["held_out"], dropped)
    return {"rows": texts.rows, **split, "dropped": dropped}


def _split(folder: Path, config: Config, articles: Counter[str]) -> dict[str, int]:
    """Part all.parquet into train.parquet and held_out.parquet."""
    fraction, seed = config.data.held_out, config.run.seed
    by_article = config.data.held_out_by == "article"
    held = hold_out(articles, fraction, seed) if by_article else set()
    counts = {"train": 0, "held_out": 0}
    with RowWriter(folder / "train.parquet", TEXT) as train, RowWriter(folder / "held_out.parquet", TEXT) as held_out:
        for record in read_parquet(folder / "all.parquet"):
            name = record["article"] or str(record["text_id"])
            out = name in held if by_article else unit_hash("held_out", seed, record["text_id"]) < fraction
            (held_out if out else train).write(record)
            counts["held_out" if out else "train"] += 1
    (folder / "all.parquet").unlink()
    if not counts["train"]:
        raise UserError("No text is left to train on: all are held out.", "Lower data.held_out.")
    return counts


if __name__ == "__main__":
    stage_main("texts", prepare)
