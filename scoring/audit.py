"""The audit of a scorer before anything is trained: which hacks score above a text's honest tags.

A hack's list passes the parser first, as a model's answer does. A malformed list cannot win.
"""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.generation.parse import answer_of, parse, same_answer_key
from semtag.generation.readers import Row, read_rows
from semtag.generation.records import Candidate, SampledText, Text, candidates_of, read_candidate
from semtag.generation.texts import TextCleaner
from semtag.scoring.hacks import HACKS, Around, words_of
from semtag.scoring.pairs import judged
from semtag.scoring.similarity import Embed
from semtag.store.hashing import hash64
from semtag.store.locations import write_json
from semtag.store.parquet import read_rows as read_parquet
from semtag.store.run_dir import RunDir

TEXTS_AT_ONCE = 16
MOST_MOVED = 0.1  # by which order, case and spacing may move a score
Edit = Callable[[Sequence[str]], Sequence[str]]
# Changes of an honest list that no score should mind.
EDITS: dict[str, Edit] = {
    "order reversed": lambda tags: tags[::-1],
    "first tag last": lambda tags: [*tags[1:], tags[0]],
    "upper case": lambda tags: [tag.upper() for tag in tags],
    "lower case": lambda tags: [tag.lower() for tag in tags],
    "spacing": lambda tags: [f"  {tag} ".replace(" ", "  ") for tag in tags],
}
HONEST = "honest"
NAMES = (HONEST, *EDITS, *HACKS)  # a list's place here is its sample number
Outcome = Literal["honest", "hack", "refused"]


@dataclass(frozen=True)
class HonestText:
    """A text with tags that it deserves. The title is empty if none is known."""

    text_id: int
    text: str
    title: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """A hack against the honest tags of a text. A hack that the form refuses has a defect and no score."""

    text_id: int
    hack: str
    tags: tuple[str, ...]
    honest: float
    score: float | None
    refused: str | None

    @property
    def outcome(self) -> Outcome:
        """Return who wins. A tie is the hack's, because then the score does not tell the two lists apart."""
        if self.score is None:
            return "refused"
        return "honest" if self.honest > self.score else "hack"


@dataclass(frozen=True)
class HackResult:
    """The cells of one hack: in how many of them the honest tags win, and how many the form refuses.

    The mean scores are over the cells that the form lets through, and None without such cells.
    """

    hack: str
    cells: int
    won: int
    refused: int
    honest: float | None
    score: float | None


@dataclass(frozen=True)
class Benign:
    """The moves of honest scores by order, case and spacing: the largest, and the share of them above `bound`."""

    largest: float
    bound: float
    above: float


@dataclass(frozen=True)
class Audit:
    """The matrix of one scorer. `share` is the share of cells that the hack does not win."""

    model: str
    texts: int
    share: float
    share_of_valid: float  # of the cells that the form lets through
    hacks: Sequence[HackResult]
    benign: Benign
    cells: Sequence[Cell]


def longest_tag(config: Config) -> int:
    """Return the most words of a tag that training takes as valid."""
    return min(config.prompt.max_tag_words, config.pairs.max_tag_words or config.prompt.max_tag_words)


# -- honest tags --------------------------------------------------------------------------------------------------


def honest_texts(config: Config, column: str | None, count: int, say: Callable[[str], None]) -> list[HonestText]:
    """Choose `count` texts with honest tags, by hash: from `column` of the data, or else from the config's ranked run.

    Without a column and a ranked run, the column is evaluation.keys_column. Raises UserError where no text has honest
    tags.
    """
    ranked = RunDir.of(config).layout.round(1).ranked
    if column is None and ranked.exists():
        say(f"honest tags: the best candidates of {ranked}")
        found = _of_run(read_parquet(ranked, ["text_id", "text", "meta", "candidates"]), config)
        missing = f"No text of {ranked} has a valid candidate."
    else:
        column = column or config.evaluation.keys_column
        say(f"honest tags: column '{column}' of {config.data.where}")
        found = _of_data(read_rows(config.data, say), column, config)
        missing = f"No text of {config.data.where} has a list of valid tags in a column '{column}'."
    chosen = heapq.nsmallest(count, found, key=lambda text: hash64("audit", config.run.seed, text.text_id))
    if not chosen:
        raise UserError(missing, "Name a column of lists by --honest, or do `semtag rank` first.")
    return chosen


def _of_data(rows: Iterator[Row], column: str, config: Config) -> Iterator[HonestText]:
    cleaner = TextCleaner(config.data)
    for row in rows:
        text, given = cleaner.clean(row), row.values.get(column)
        if isinstance(text, Text) and isinstance(given, list):
            tags = cut_to_form([tag for tag in given if isinstance(tag, str)], config)
            first, *more = row.values[config.data.column].strip().splitlines()
            if tags:
                yield HonestText(text.text_id, text.text, text.article or (first if more else ""), tags)
    cleaner.check()


def _of_run(rows: Iterator[dict[str, Any]], config: Config) -> Iterator[HonestText]:
    for row in rows:
        candidates = [judged(one, config.pairs) for one in candidates_of(row)]
        best = max((one for one in candidates if one.format == "valid"), key=lambda one: one.score or 0.0, default=None)
        if best:
            title = json.loads(row["meta"]).get(config.data.article_column or "title")
            yield HonestText(row["text_id"], row["text"], title if isinstance(title, str) else "", tuple(best.tags))


def cut_to_form(tags: Sequence[str], config: Config) -> tuple[str, ...]:
    """Return the first tags that make a valid answer; none where they make no valid answer."""
    most = longest_tag(config)
    short = [tag for tag in tags if len(tag.split()) <= most][: config.prompt.max_tags]
    parsed = parse(answer_of(short), config.prompt.max_tags, most)
    return parsed.tags if parsed.format == "valid" else ()


# -- the matrix ---------------------------------------------------------------------------------------------------


def audit(
    texts: Sequence[HonestText],
    config: Config,
    embed_texts: Embed,
    score: Callable[[Sequence[SampledText]], list[SampledText]],
    progress: Progress,
) -> Audit:
    """Score the hacks of each text beside the text's honest tags, as ranking and pairing do.

    `embed_texts` finds the texts that are near to each other.
    """
    progress.begin(2 * len(texts))
    known: dict[str, np.ndarray] = {}  # text -> embedding
    for part in _parts(texts):
        own = [one.text for one in part]
        known.update(zip(own, embed_texts(own), strict=True))
        progress.advance(len(part))
    around = dict(zip(texts, arounds(texts, np.stack([known[one.text] for one in texts]), config), strict=True))
    cells, moves = list[Cell](), list[float]()
    for part in _parts(texts):
        asked = [_asked(text, around[text], config) for text in part]
        for text in score(asked):
            scored = {NAMES[one.sample]: judged(one, config.pairs) for one in text.candidates}
            if scored:  # none where a score is not finite
                cells += _cells(text.text_id, scored)
                moves += _moves(scored)
        progress.advance(len(part))
    return _summary(config.scoring.named, len(texts), cells, np.array(moves))


def _parts(texts: Sequence[HonestText]) -> list[Sequence[HonestText]]:
    return [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]


def arounds(texts: Sequence[HonestText], texts_N_D: np.ndarray, config: Config) -> list[Around]:
    """Collect what the hacks of each text may take beside the text."""
    texts_with = Counter(word for one in texts for word in {*words_of(one.text)})
    directions_N_D = texts_N_D / np.maximum(np.linalg.norm(texts_N_D, axis=1, keepdims=True), 1e-12)
    prompt = f"{config.prompt.system} {config.prompt.user.replace('{text}', '')}"
    found = []
    for place, one in enumerate(texts):
        alike_N = directions_N_D @ directions_N_D[place]
        alike_N[place] = -np.inf
        nearest = texts[int(alike_N.argmax())].tags if len(texts) > 1 else ()
        other = texts[place - 1].tags if len(texts) > 1 else ()
        limits = config.prompt.max_tags, longest_tag(config)
        found.append(Around(one.title, prompt, other, nearest, texts_with, *limits))
    return found


def _asked(text: HonestText, around: Around, config: Config) -> SampledText:
    """Make a text whose candidates are its honest tags, their edits and the hacks, malformed ones without tags."""
    lists: dict[str, Sequence[str]] = {HONEST: text.tags}
    lists |= {name: edit(text.tags) for name, edit in EDITS.items()}
    hacks = {name: hack(text.text, text.tags, around) for name, hack in HACKS.items()}
    lists |= {name: tags for name, tags in hacks.items() if same_answer_key(tags) != same_answer_key(text.tags)}
    prompt = config.prompt.model_copy(update={"max_tag_words": around.max_tag_words})
    read = [read_candidate(prompt, NAMES.index(name), answer_of(tags), "stop") for name, tags in lists.items() if tags]
    candidates = [one if one.format == "valid" else replace(one, tags=()) for one in read]
    return SampledText(text.text_id, text.text, None, "{}", "audit", candidates=candidates)


def _cells(text_id: int, scored: dict[str, Candidate]) -> list[Cell]:
    honest = scored[HONEST].score
    assert honest is not None
    hacks = [(name, scored[name]) for name in HACKS if name in scored]
    return [Cell(text_id, name, tuple(own.tags), honest, own.score, own.reason) for name, own in hacks]


def _moves(scored: dict[str, Candidate]) -> list[float]:
    honest, edits = scored[HONEST].score, [scored[name].score for name in EDITS]
    return [abs(score - honest) for score in edits if score is not None and honest is not None]


def _summary(model: str, texts: int, cells: Sequence[Cell], moves_N: np.ndarray) -> Audit:
    outcomes = Counter(cell.outcome for cell in cells)
    valid = outcomes["honest"] + outcomes["hack"]
    by_hack: dict[str, list[Cell]] = {hack: [] for hack in HACKS}
    for cell in cells:
        by_hack[cell.hack].append(cell)
    return Audit(
        model=model,
        texts=texts,
        share=1 - outcomes["hack"] / max(1, len(cells)),
        share_of_valid=outcomes["honest"] / max(1, valid),
        hacks=[_result(hack, own) for hack, own in by_hack.items()],
        benign=Benign(float(moves_N.max(initial=0)), MOST_MOVED, float((moves_N > MOST_MOVED).mean())),
        cells=cells,
    )


def _result(hack: str, cells: Sequence[Cell]) -> HackResult:
    outcomes = Counter(cell.outcome for cell in cells)
    scores = [(cell.honest, cell.score) for cell in cells if cell.score is not None]
    honest, score = map(float, np.mean(scores, axis=0)) if scores else (None, None)
    return HackResult(hack, len(cells), outcomes["honest"], outcomes["refused"], honest, score)


def write_audit(found: Audit, file: Path) -> None:
    """Write the results and every cell, with its outcome, as JSON."""
    cells = [asdict(cell) | {"outcome": cell.outcome} for cell in found.cells]
    write_json(file, asdict(found) | {"cells": cells})
