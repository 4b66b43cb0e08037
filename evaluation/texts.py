"""The texts to evaluate on: held-out texts of the run, or texts of other data."""

from collections import Counter

from semtag.cluster.progress import Progress
from semtag.configs.data import Data
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.generation.readers import read_rows as read_data
from semtag.generation.records import TEXT, Reject
from semtag.generation.texts import TextCleaner
from semtag.scoring.finished import read_ids
from semtag.store.hashing import hash64
from semtag.store.layout import Step
from semtag.store.locations import Place
from semtag.store.parquet import RowWriter, read_rows
from semtag.store.run_dir import RunDir

IN_TRAINING = "also_in_training"  # reason why a text of other data is left out
NOT_CHOSEN = "over_max_texts"


def choose_texts(run: RunDir, config: Config, scratch: Place, progress: Progress) -> Place:
    """Write the texts to answer, at most evaluation.max_texts of them by hash; return their file.

    Texts of evaluation.data that the run also trains or validates on are left out and counted. Raises UserError where
    no text is left.
    """
    evaluation, file = config.evaluation, run.layout.held_out
    dropped, came_in = Counter[str](), None
    if evaluation.data:
        file = scratch / "other.parquet"
        came_in, dropped = _read_other(run, evaluation.data, file, progress)
    ids = read_ids(file).tolist()
    if not ids:
        raise UserError(
            f"There is no text to evaluate on{_because(dropped)}.", "Raise data.held_out, or set evaluation.data."
        )
    kept = set(sorted(ids, key=lambda id_: hash64("evaluate", config.run.seed, id_))[: evaluation.max_texts])
    with RowWriter(scratch / "texts.parquet", TEXT) as out:
        for row in read_rows(file):
            if row["text_id"] in kept:
                out.write(row)
    if len(kept) < len(ids):
        dropped[NOT_CHOSEN] = len(ids) - len(kept)
    run.record(Step("evaluate"), "texts", len(ids) if came_in is None else came_in, len(kept), dict(dropped))
    return scratch / "texts.parquet"


def _read_other(run: RunDir, data: Data, out: Place, progress: Progress) -> tuple[int, Counter[str]]:
    """Write the usable texts of other data that no round learns from; return the rows read, and those dropped."""
    rounds = [file for file in run.layout.texts.glob("*.parquet") if file.name != run.layout.held_out.name]
    learned, texts = set(read_ids(rounds).tolist()), TextCleaner(data)
    with RowWriter(out, TEXT) as good:
        for row in read_data(data, progress.say):
            record = texts.clean(row)
            if isinstance(record, Reject):
                continue
            if record.text_id in learned:
                texts.dropped[IN_TRAINING] += 1
            else:
                good.write(vars(record))
    progress.say(f"{texts.rows:,} rows of {data.where}{_because(texts.dropped)}")
    return texts.rows, texts.dropped


def _because(dropped: Counter[str]) -> str:
    left_out = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in sorted(dropped.items()))
    return f"; left out: {left_out}" if left_out else ""
