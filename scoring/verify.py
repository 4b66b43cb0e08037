"""`semtag verify RUN`: proves from the files alone that a run kept its invariants."""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.layout import RoundLayout, Step
from cluster.parquet import count_rows, count_values, read_rows, read_tables
from cluster.places import Place, naming_store, weights_hash
from cluster.run_dir import RunDir, identity
from configs.schema import Config
from generation.parse import parse
from generation.records import REJECT, SAMPLED, TEXT
from generation.texts import IdSet, text_id
from scoring.finished import read_ids
from scoring.pairs import format_quota, group_of, judged
from scoring.records import LIST, PAIR, RANKED

Problems = Iterator[str]
TEXTS_IN_MEMORY = 200_000


def verify(run: RunDir) -> dict[str, list[str]]:
    """Check -> what is wrong, for the steps that are done; empty lists where all is well."""
    config = run.config()
    checks: list[tuple[str, str, Callable[[RunDir, Config, RoundLayout, int], Problems]]] = [
        ("texts", "no half-written file, no unknown schema", _files),
        ("texts", "every step is the one that its identity names", _identities),
        ("texts", "the ledger balances and agrees with the files", _ledger),
        ("texts", "each text once, named by its content, on one side of the split", _texts),
        ("rank", "every train text exactly once, ranked or rejected", _exactly_once),
        ("rank", "candidates are complete, parsed as stored and in order of score", _candidates),
        ("pairs", "every pair is a preference between two of its text's candidates", _pairs),
        ("pairs", "format pairs keep under their share", _cap),
        ("pairs", "bins of score gaps are filled evenly, where that was asked for", _balance),
        ("train", "adapter and merged weights are those that training left", _weights),
        ("validate", "every validation text is answered once, with the figures of the manifest", _validation),
    ]
    found = {}
    for step in run.done():
        settings, layout = config.of_round(step.round) if step.round else config, run.layout.round(step.round)
        named = f"round {step.round}: " if step.round else ""
        for stage, name, check in checks:
            if stage == step.stage:
                found[named + name] = list(check(run, settings, layout, step.round))
    return found


def _files(run: RunDir, config: Config, _: RoundLayout, __: int) -> Problems:
    for partial in run.path.rglob(".*.partial"):
        yield f"{partial} was left half-written"
    for step in run.done():
        for folder in run.layout.unfinished(step):
            if folder.exists():
                yield f"{step.name} is done, and {folder} is still there: run the same command again"
    schemas = [(run.layout.texts, TEXT), (run.layout.rejects, REJECT)]
    for number in {step.round for step in run.done()} - {0}:
        layout = run.layout.round(number)
        schemas += [(layout.ranked, RANKED), (layout.pairs, PAIR), (layout.lists, LIST), (layout.rejects, REJECT)]
        schemas += [(layout.validation, SAMPLED)]
    for folder, schema in schemas:
        for file in folder.rglob("*.parquet"):
            yield from _schema_problem(file, schema)


def _schema_problem(file: Place, schema: pa.Schema) -> Problems:
    try:
        with file.open("rb") as source:
            found = pq.read_schema(source)
    except (pa.ArrowException, OSError) as error:
        yield f"{file} cannot be read: {error}"
        return
    if not found.equals(schema):
        yield f"{file} has columns {found.names}, not {schema.names} with their types"


def _identities(run: RunDir, config: Config, _: RoundLayout, __: int) -> Problems:
    for name, entry in run.manifest()["steps"].items():
        if entry["identity"] != identity(entry["config"]):
            yield f"manifest.json: identity {entry['identity']} of {name} is not the hash of its config"


def _ledger(run: RunDir, config: Config, _: RoundLayout, __: int) -> Problems:
    for name, units in run.ledger().items():
        step = Step.of(name)
        layout = run.layout.round(step.round)
        kept: dict[tuple[str, str], Place] = {
            ("texts", "rows"): run.layout.texts,
            ("rank", "texts"): layout.ranked,
            ("pairs", "pairs"): layout.pairs,
            ("pairs", "lists"): layout.lists,
        }
        dropped: dict[tuple[str, str], Place] = {
            ("texts", "rows"): run.layout.rejects,
            ("rank", "texts"): layout.rejects,
        }
        for unit, entry in units.items():
            lost = sum(entry["dropped"].values())
            if entry["in"] != entry["out"] + lost:
                yield f"ledger.json: {name} {unit}: {entry}"
            for folders, number in ((kept, entry["out"]), (dropped, lost)):
                folder = folders.get((step.stage, unit))
                if folder is not None and count_rows(folder) != number:
                    yield f"ledger.json names {number} {unit} of {name} for {folder}, which holds {count_rows(folder)}"


def _texts(run: RunDir, config: Config, _: RoundLayout, __: int) -> Problems:
    seen = IdSet()
    for row in read_rows(run.layout.texts, ["text_id", "text"]):
        if not seen.add(row["text_id"]):
            yield f"text_id {row['text_id']} is there twice"
        if row["text_id"] != text_id(row["text"]):
            yield f"text_id {row['text_id']} is not the hash of its text"


def _exactly_once(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    texts = run.layout.train_texts(number, config.rounds.texts == "reuse")
    expected, ranked = read_ids(texts), read_ids(layout.ranked)
    found, times = np.unique(ranked, return_counts=True)
    for id_ in found[times > 1]:
        yield f"text_id {id_} is ranked twice"
    for id_ in np.setdiff1d(found, expected):
        yield f"text_id {id_} is ranked but no train text"
    rejects = [json.loads(row["row"])["text_id"] for row in read_rows(layout.rejects, ["row"])]
    missing = np.setdiff1d(expected, found)
    for id_ in np.setdiff1d(missing, rejects):
        yield f"text_id {id_} is neither ranked nor rejected"
    for id_ in sorted(set(rejects) - set(missing.tolist())):
        yield f"text_id {id_} is rejected and ranked, or no train text"
    if len(rejects) != len(set(rejects)):
        yield "a text is rejected twice"


def _candidates(run: RunDir, config: Config, layout: RoundLayout, _: int) -> Problems:
    samples = 1 if config.sampling.temperature == 0 else config.sampling.samples
    replay = config.sampling.engine == "replay"
    prompt = config.prompt
    for row in read_rows(layout.ranked):
        where, candidates = f"text_id {row['text_id']}", row["candidates"]
        if sorted(c["sample"] for c in candidates) != list(range(len(candidates) if replay else samples)):
            yield f"{where}: samples {[c['sample'] for c in candidates]}, expected {samples}"
        scores = [c["score"] for c in candidates if c["score"] is not None]
        if scores != sorted(scores, reverse=True) or [c["rank"] for c in candidates[: len(scores)]] != list(
            range(len(scores))
        ):
            yield f"{where}: not in order of score: {scores}"
        for c in candidates:
            parsed = parse(c["completion"], prompt.max_tags, prompt.max_tag_words, c["finish_reason"] == "length")
            if (parsed.format, parsed.answer) != (c["format"], c["answer"]):
                yield f"{where}, sample {c['sample']}: stored as {c['format']}, parses as {parsed.format}"


def _pairs(run: RunDir, config: Config, layout: RoundLayout, _: int) -> Problems:
    """Pairs against the candidates they name, part by part: only a part's candidates are in memory."""
    parts = 1 + count_rows(layout.ranked) // TEXTS_IN_MEMORY
    columns = ["text_id", "kind", "margin", "chosen_sample", "rejected_sample"]
    for part in range(parts):
        seen: set[tuple[int, int, int]] = set()
        ranked = {
            (row["text_id"], c["sample"]): (c["format"], c["score"], (c["answer"] or "").casefold())
            for row in _part_of(layout.ranked, ["text_id", "candidates"], part, parts)
            for candidate in row["candidates"]
            for c in [judged(candidate, config.pairs)]
        }
        for row in _part_of(layout.pairs, columns, part, parts):
            key = (row["text_id"], row["chosen_sample"], row["rejected_sample"])
            problem = _problem_of(row, ranked, config) or ("is there twice" if key in seen else None)
            seen.add(key)
            if problem:
                yield f"pair {row['text_id']} ({row['chosen_sample']} over {row['rejected_sample']}): {problem}"


def _part_of(path: Place, columns: list[str], part: int, parts: int) -> Iterator[dict[str, Any]]:
    for table in read_tables(path, columns):
        yield from table.filter(table["text_id"].to_numpy() % parts == part).to_pylist()


def _problem_of(row: dict[str, Any], ranked: dict[tuple[int, int], Any], config: Config) -> str | None:
    chosen = ranked.get((row["text_id"], row["chosen_sample"]))
    rejected = ranked.get((row["text_id"], row["rejected_sample"]))
    if chosen is None or rejected is None:
        return "no such candidates"
    if chosen[0] != "valid" or (rejected[0] == "valid") != (row["kind"] == "similarity"):
        return f"a {row['kind']} pair of {chosen[0]} over {rejected[0]}"
    if row["kind"] == "similarity":
        gap = chosen[1] - rejected[1]
        if gap <= 0 or gap < config.pairs.min_margin or abs(gap - row["margin"]) > 1e-9:
            return f"score gap {gap}, stored margin {row['margin']}"
        if chosen[2] == rejected[2]:
            return "equal answers"
    return None


def _cap(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    kinds: Counter[str] = Counter()
    for table in read_tables(layout.pairs, ["kind"]):
        kinds += count_values(table["kind"])
    quota = format_quota(kinds["similarity"], config.pairs.format_share)
    dropped = run.ledger()[Step("pairs", number).name]["pairs"]["dropped"].get("over_format_share", 0)
    if kinds["format"] > quota:
        yield f"{kinds['format']} format pairs beside {kinds['similarity']} similarity pairs; at most {quota} may be"
    if dropped and kinds["format"] < quota:
        yield f"{dropped} format pairs were dropped, though {quota} may be and {kinds['format']} are"


def _balance(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    if config.pairs.strategy != "margin_bins":
        return
    bins: Counter[int] = Counter()
    for table in read_tables(layout.pairs, ["margin"]):
        bins.update(group_of(margin, config.pairs) for margin in pc.drop_null(table["margin"]).to_pylist())
    texts, fullest = count_rows(layout.ranked), max(bins.values(), default=0)
    full = sum(pairs == fullest for pairs in bins.values())
    dropped = run.ledger()[Step("pairs", number).name]["pairs"]["dropped"].get("over_margin_bin", 0)
    if bins.total() > texts and fullest > 1:
        yield f"{bins.total()} similarity pairs of {texts} texts, up to {fullest} in a bin"
    if dropped and bins.total() + full <= texts:
        yield f"{dropped} pairs were dropped, though each of the {full} fullest bins had room for another one"


def _weights(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    for folder in (layout.adapter, layout.merged):
        known, there = run.counts(Step("train", number))["weights"][folder.name], weights_hash(folder)
        if known != there:
            yield f"the weights in {folder} have the hash {there}, training left {known}"


def _validation(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    expected = np.sort(read_ids(run.layout.validation_texts))
    if not np.array_equal(np.sort(read_ids(layout.validation)), expected):
        yield f"{layout.validation} does not hold each validation text once"
    answers = [row["candidates"][0] for row in read_rows(layout.validation, ["candidates"]) if row["candidates"]]
    scores = [answer["score"] for answer in answers if answer["format"] == "valid"]
    counts = run.counts(Step("validate", number))
    for name, value in (("well_formed", len(scores)), ("mean_score", sum(scores))):
        if len(expected) and abs(counts[name] - value / len(expected)) > 1e-9:
            yield f"manifest.json: {name} is {counts[name]}, the answers give {value / len(expected)}"


def main(arguments: argparse.Namespace) -> int:
    """`semtag verify`: print each check with what is wrong; returns 0 when all is well, else 1."""
    run = RunDir(arguments.run)
    with naming_store(run.path):
        run.config()  # what is no run directory gets no lock file
        with run.lock(reading=True):
            found = verify(run)
    for name, problems in found.items():
        print(f"  {'FAIL' if problems else 'ok':<5} {name}")
        for problem in problems[:20]:
            print(f"        {problem}")
        if len(problems) > 20:
            print(f"        and {len(problems) - 20:,} more")
    bad = sum(map(len, found.values()))
    outcome = f"{bad:,} problems" if bad else "every check holds" if found else "nothing is finished yet"
    print(f"{arguments.run}: {outcome}")
    return 1 if bad else 0
