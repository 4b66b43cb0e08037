"""The checks of `semtag verify` on pairs and lists.

Each pair is a preference. Pairs and lists are all those, and only those, that the ranked texts give.
"""

import itertools
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from semtag.configs.schema import Config
from semtag.generation.parse import same_answer_key
from semtag.generation.records import Candidate
from semtag.scoring.build_pairs import pair_text
from semtag.scoring.pairs import FORMAT, format_quota, group_count, group_of, judged, pairs_to_keep
from semtag.scoring.records import Pair, RankedList, RankedText, TextPairs, ranked_text
from semtag.store.layout import RoundLayout, Step
from semtag.store.locations import Place
from semtag.store.parquet import count_rows, count_values, read_rows, read_tables
from semtag.store.run_dir import RunDir

Made = TypeVar("Made", Pair, RankedList)
Problems = Iterator[str]
TEXTS_IN_MEMORY = 20_000  # with their pairs and lists: the size of a part
ROWS_PER_GROUP = 32  # of a part's file; so many rows of each part wait in memory for their writing


class Selection:
    """The pairs that the ranked texts give and the pairs in the files, counted by group.

    The counts are over all texts, because the caps on groups are.
    """

    def __init__(self, config: Config, texts: int) -> None:
        self.pairs, self.texts = config.pairs, texts
        self.made, self.there = (np.zeros(group_count(config.pairs), dtype=np.int64) for _ in range(2))
        self.last_there: dict[int, tuple[int, str]] = {}  # the largest hash of a pair in the files
        self.first_left_out: dict[int, tuple[int, str]] = {}  # the smallest hash of a pair left out

    def add(self, group: int, hash_: int, name: str, there: bool) -> None:
        """Count a pair that the ranked texts give; `there` says whether the files have the pair."""
        self.made[group] += 1
        self.there[group] += there
        edge, nearest = (self.last_there, max) if there else (self.first_left_out, min)
        edge[group] = nearest(edge.get(group, (hash_, name)), (hash_, name))

    def dropped(self) -> Counter[str]:
        """Count the pairs that the caps leave out, by the reasons of the ledger."""
        over = self.made - pairs_to_keep(self.made, self.texts, self.pairs)
        return +Counter(over_format_share=int(over[FORMAT]), over_margin_bin=int(over[1:].sum()))

    def problems(self) -> Problems:
        """Yield a problem for each group with a wrong number of pairs, or with pairs not chosen by hash."""
        for group, quota in enumerate(pairs_to_keep(self.made, self.texts, self.pairs).tolist()):
            there, made = self.there[group], self.made[group]
            last, first = self.last_there.get(group), self.first_left_out.get(group)
            if there != quota:
                yield f"group {group} (0: format pairs) has {there} pairs; of the {made} possible pairs, {quota} stay"
            elif last and first and last > first:
                yield f"{first[1]} is left out and {last[1]} is kept, though {first[1]} has the smaller hash"


def pairs_and_lists(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    """Compare pairs and lists with those that the ranked texts give, part by part. Only a part is in memory."""
    selection, dropped, unlisted = Selection(config, count_rows(layout.ranked)), Counter[str](), Counter[str]()
    # Compare the pairs and lists of each text.
    wrong = 0
    for text, pairs, lists in _joined(layout):
        made = pair_text(text, config)
        for problem in [*_pair_problems(text, pairs, made, config, selection), *_list_problems(lists, made, text)]:
            wrong += 1
            yield problem
        dropped.update(made.dropped)
        unlisted.update([made.list_dropped] if made.list_dropped else [])
    if wrong:
        return  # the choice among wrong pairs cannot be checked
    # Compare the choice under the caps, and the ledger.
    yield from selection.problems()
    ledger = run.ledger().of(Step("pairs", number).name)
    for unit, found in (("pairs", dropped + selection.dropped()), ("lists", unlisted)):
        if ledger[unit].dropped != dict(found):
            yield f"ledger.json: dropped {unit} {ledger[unit].dropped}; the ranked texts give {dict(found)}"


def _joined(layout: RoundLayout) -> Iterator[tuple[RankedText, list[Pair], list[RankedList]]]:
    """Yield each ranked text with its pairs and lists. Those of no ranked text come with a text without candidates."""
    parts = 1 + count_rows(layout.ranked) // TEXTS_IN_MEMORY
    with tempfile.TemporaryDirectory(prefix="semtag-verify-") as scratch:
        sources = (layout.ranked, layout.pairs, layout.lists)
        shared = [_shared_out(source, Path(scratch) / source.name, parts) for source in sources]
        for ranked, pairs, lists in zip(*shared, strict=True):
            pairs_of, lists_of = _by_text(pairs, Pair), _by_text(lists, RankedList)
            for text in map(ranked_text, read_rows(ranked)):
                yield text, pairs_of.pop(text.text_id, []), lists_of.pop(text.text_id, [])
            for id_ in pairs_of.keys() | lists_of.keys():
                nobody = RankedText(id_, "", "", [], None, None, candidates=[])
                yield nobody, pairs_of.get(id_, []), lists_of.get(id_, [])


def _shared_out(source: Place, folder: Path, parts: int) -> list[Place]:
    """Copy the rows of `source` into a folder for each part of the texts, in one pass; return the folders.

    Text i is in part text_id % parts. A single part is `source` itself.
    """
    if parts == 1:
        return [source]
    # Number the part of each row, and let Arrow write a folder for each number.
    numbers = ds.partitioning(pa.schema([("part", pa.int32())]))
    tables = (
        table.append_column("part", pa.array(table["text_id"].to_numpy() % parts, pa.int32()))
        for table in read_tables(source)
    )
    first = next(tables, None)
    if first is not None:
        ds.write_dataset(
            (batch for table in itertools.chain([first], tables) for batch in table.to_batches()),
            folder,
            schema=first.schema,
            format="parquet",
            partitioning=numbers,
            max_partitions=parts,
            min_rows_per_group=ROWS_PER_GROUP,
        )
    return [folder / str(part) for part in range(parts)]


def _by_text(place: Place, record: type[Made]) -> dict[int, list[Made]]:
    """Read the records of a folder: text_id -> records."""
    rows = defaultdict[int, list[Made]](list)
    for row in read_rows(place):
        rows[row["text_id"]].append(record(**row))
    return rows


def _pair_problems(
    text: RankedText, pairs: list[Pair], made: TextPairs, config: Config, selection: Selection
) -> Problems:
    """Yield the problems with the pairs of a ranked text, and count each pair of `made` in `selection`."""
    answers = {candidate.sample: judged(candidate, config.pairs) for candidate in text.candidates}
    expected = {_name(pair): pair for pair in made.pairs}
    names = Counter(map(_name, pairs))
    # Check each pair in the files, then whether a pair occurs twice, then which pairs of `made` the files have.
    for pair in pairs:
        name = _name(pair)
        problem = _no_preference(pair, answers, config) or _difference(pair, expected.get(name))
        if problem:
            yield f"{name}: {problem}"
    for name, times in names.items():
        if times > 1:
            yield f"{name}: occurs twice"
    for name, group, hash_ in zip(expected, made.groups, made.hashes, strict=True):
        selection.add(group, hash_, name, name in names)


def _name(pair: Pair) -> str:
    return f"pair {pair.text_id} ({pair.chosen_sample} over {pair.rejected_sample})"


def _difference(found: Made, expected: Made | None) -> str | None:
    """Return the problem with a record that is not the expected record, or None. Names the fields that differ."""
    if expected is None:
        return "the ranked text gives no such record"
    if differing := [name for name, value in vars(expected).items() if getattr(found, name) != value]:
        return f"{', '.join(differing)}: not as the ranked text has it"
    return None


def _no_preference(pair: Pair, answers: dict[int, Candidate], config: Config) -> str | None:
    """Return why a pair is no preference between two of the `answers`, sample -> candidate; None for a preference."""
    chosen, rejected = answers.get(pair.chosen_sample), answers.get(pair.rejected_sample)
    if chosen is None or rejected is None:
        return "no such candidates"
    if chosen.format != "valid" or (rejected.format == "valid") != (pair.kind == "similarity"):
        return f"a {pair.kind} pair of {chosen.format} over {rejected.format}"
    if pair.kind == "similarity":
        gap = (chosen.score or 0.0) - (rejected.score or 0.0)
        if gap <= 0 or gap < config.pairs.min_margin or pair.margin is None or abs(gap - pair.margin) > 1e-9:
            return f"score gap {gap}, stored margin {pair.margin}"
        if same_answer_key(chosen.tags) == same_answer_key(rejected.tags):
            return "equal answers"
    return None


def _list_problems(lists: list[RankedList], made: TextPairs, text: RankedText) -> Problems:
    """Yield the problems with the lists of a ranked text, which has the list of `made`, or no list."""
    name, expected = f"list of text_id {text.text_id}", made.list
    if expected and not lists:
        yield f"{name}: is missing"
    if len(lists) > 1:
        yield f"{name}: occurs {len(lists)} times"
    for found in lists:
        if problem := _difference(found, expected):
            yield f"{name}: {problem}"


def cap(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    """Check the share of format pairs, counted in the files alone."""
    kinds: Counter[str] = Counter()
    for table in read_tables(layout.pairs, ["kind"]):
        kinds += count_values(table["kind"])
    quota = format_quota(kinds["similarity"], config.pairs.format_share)
    dropped = run.ledger().of(Step("pairs", number).name)["pairs"].dropped.get("over_format_share", 0)
    if kinds["format"] > quota:
        yield f"{kinds['format']} format pairs beside {kinds['similarity']} similarity pairs; {quota} are allowed"
    if dropped and kinds["format"] < quota:
        yield f"{dropped} format pairs were dropped, though {quota} are allowed and {kinds['format']} are kept"


def balance(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    """Check that the bins of score gaps are filled evenly, counted in the files alone."""
    if config.pairs.strategy != "margin_bins":
        return
    bins: Counter[int] = Counter()
    for table in read_tables(layout.pairs, ["margin"]):
        bins.update(group_of(margin, config.pairs) for margin in pc.drop_null(table["margin"]).to_pylist())
    texts, fullest = count_rows(layout.ranked), max(bins.values(), default=0)
    full = sum(pairs == fullest for pairs in bins.values())
    dropped = run.ledger().of(Step("pairs", number).name)["pairs"].dropped.get("over_margin_bin", 0)
    if bins.total() > texts and fullest > 1:
        yield f"{bins.total()} similarity pairs of {texts} texts, up to {fullest} in a bin; {texts} are allowed"
    if dropped and bins.total() + full <= texts:
        yield f"{dropped} pairs were dropped, though each of the {full} fullest bins had room for another pair"
