"""`semtag verify RUN`: proves from the files alone that a run kept its invariants."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.parquet import count_rows, count_values, read_rows, read_tables
from cluster.places import Place, naming_store
from cluster.run_dir import STAGES, RunDir, identity
from configs.errors import UserError
from configs.schema import Config
from generation.parse import parse
from generation.records import REJECT, TEXT
from generation.texts import IdSet, text_id
from scoring.finished import read_ids
from scoring.pairs import format_quota, group_of
from scoring.records import LIST, PAIR, RANKED

Problems = Iterator[str]
TEXTS_IN_MEMORY = 200_000


def verify(run: RunDir) -> dict[str, list[str]]:
    """Check -> what is wrong, for the stages that are done; empty lists where all is well."""
    config = run.config()
    done = {stage for stage, entry in run.manifest()["stages"].items() if entry["state"] == "done"}
    checks: list[tuple[str, str, Callable[[RunDir, Config], Problems]]] = [
        ("texts", "no half-written file, no unknown schema", _files),
        ("texts", "every stage is the one that its identity names", _identities),
        ("texts", "the ledger balances and agrees with the files", _ledger),
        ("texts", "each text once, named by its content, on one side of the split", _texts),
        ("rank", "every train text exactly once, ranked or rejected", _exactly_once),
        ("rank", "candidates are complete, parsed as stored and in order of score", _candidates),
        ("pairs", "every pair is a preference between two of its text's candidates", _pairs),
        ("pairs", "format pairs keep under their share", _cap),
        ("pairs", "bins of score gaps are filled evenly, where that was asked for", _balance),
    ]
    return {name: list(check(run, config)) for stage, name, check in checks if stage in done}


def _files(run: RunDir, config: Config) -> Problems:
    schemas: dict[str, pa.Schema] = {"ranked": RANKED, "pairs": PAIR, "lists": LIST, "texts": TEXT, "rejects": REJECT}
    for partial in run.path.rglob(".*.partial"):
        yield f"{partial} was left half-written"
    for stage in filter(run.is_done, STAGES):
        if run.unfinished_path(stage).exists():
            yield f"{stage} is done, and what it had half-way is still there: run the same command again"
    for folder, schema in schemas.items():
        for file in (run.path / folder).rglob("*.parquet"):
            try:
                with file.open("rb") as source:
                    found = pq.read_schema(source)
            except (pa.ArrowException, OSError) as error:
                yield f"{file} cannot be read: {error}"
                continue
            if not found.equals(schema):
                yield f"{file} has columns {found.names}, not {schema.names} with their types"


def _identities(run: RunDir, config: Config) -> Problems:
    for stage, entry in run.manifest()["stages"].items():
        if entry["identity"] != identity(entry["config"]):
            yield f"manifest.json: identity {entry['identity']} of {stage} is not the hash of its config"


def _ledger(run: RunDir, config: Config) -> Problems:
    for stage, units in run.ledger().items():
        for unit, entry in units.items():
            if entry["in"] != entry["out"] + sum(entry["dropped"].values()):
                yield f"ledger.json: {stage} {unit}: {entry}"
    out = {
        ("texts", "rows"): ["texts/train.parquet", "texts/held_out.parquet"],
        ("rank", "texts"): ["ranked"],
        ("pairs", "pairs"): ["pairs"],
        ("pairs", "lists"): ["lists"],
    }
    for (stage, unit), names in out.items():
        entry = run.ledger().get(stage, {}).get(unit)
        rows = sum(count_rows(run.path / name) for name in names if (run.path / name).exists())
        if entry and entry["out"] != rows:
            yield f"ledger.json says that {entry['out']} {unit} came out of {stage}, the files hold {rows}"
        rejects = run.path / "rejects" / stage
        if entry and rejects.exists() and count_rows(rejects) != sum(entry["dropped"].values()):
            yield f"{rejects} holds {count_rows(rejects)} rows, the ledger dropped {entry['dropped']}"


def _texts(run: RunDir, config: Config) -> Problems:
    seen = IdSet()
    for side in ("train", "held_out"):
        for row in read_rows(run.path / "texts" / f"{side}.parquet", ["text_id", "text"]):
            if not seen.add(row["text_id"]):
                yield f"text_id {row['text_id']} is there twice"
            if row["text_id"] != text_id(row["text"]):
                yield f"text_id {row['text_id']} is not the hash of its text"


def _exactly_once(run: RunDir, config: Config) -> Problems:
    expected, ranked = read_ids(run.path / "texts" / "train.parquet"), read_ids(run.path / "ranked")
    found, times = np.unique(ranked, return_counts=True)
    for id_ in found[times > 1]:
        yield f"text_id {id_} is ranked twice"
    for id_ in np.setdiff1d(found, expected):
        yield f"text_id {id_} is ranked but no train text"
    rejects = [json.loads(row["row"])["text_id"] for row in read_rows(run.path / "rejects" / "rank", ["row"])]
    missing = np.setdiff1d(expected, found)
    for id_ in np.setdiff1d(missing, rejects):
        yield f"text_id {id_} is neither ranked nor rejected"
    for id_ in sorted(set(rejects) - set(missing.tolist())):
        yield f"text_id {id_} is rejected and ranked, or no train text"
    if len(rejects) != len(set(rejects)):
        yield "a text is rejected twice"


def _candidates(run: RunDir, config: Config) -> Problems:
    samples = 1 if config.sampling.temperature == 0 else config.sampling.samples
    replay = config.sampling.engine == "replay"
    prompt = config.prompt
    for row in read_rows(run.path / "ranked"):
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


def _pairs(run: RunDir, config: Config) -> Problems:
    """Pairs against the candidates they name, part by part: only a part's candidates are in memory."""
    parts = 1 + count_rows(run.path / "ranked") // TEXTS_IN_MEMORY
    columns = ["text_id", "kind", "margin", "chosen_sample", "rejected_sample"]
    for part in range(parts):
        seen: set[tuple[int, int, int]] = set()
        ranked = {
            (row["text_id"], c["sample"]): (c["format"], c["score"], (c["answer"] or "").casefold())
            for row in _part_of(run.path / "ranked", ["text_id", "candidates"], part, parts)
            for c in row["candidates"]
        }
        for row in _part_of(run.path / "pairs", columns, part, parts):
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


def _cap(run: RunDir, config: Config) -> Problems:
    kinds: Counter[str] = Counter()
    for table in read_tables(run.path / "pairs", ["kind"]):
        kinds += count_values(table["kind"])
    quota = format_quota(kinds["similarity"], config.pairs.format_share)
    dropped = run.ledger()["pairs"]["pairs"]["dropped"].get("over_format_share", 0)
    if kinds["format"] > quota:
        yield f"{kinds['format']} format pairs beside {kinds['similarity']} similarity pairs; at most {quota} may be"
    if dropped and kinds["format"] < quota:
        yield f"{dropped} format pairs were dropped, though {quota} may be and {kinds['format']} are"


def _balance(run: RunDir, config: Config) -> Problems:
    if config.pairs.strategy != "margin_bins":
        return
    bins: Counter[int] = Counter()
    for table in read_tables(run.path / "pairs", ["margin"]):
        bins.update(group_of(margin, config.pairs) for margin in pc.drop_null(table["margin"]).to_pylist())
    texts, fullest = count_rows(run.path / "ranked"), max(bins.values(), default=0)
    full = sum(pairs == fullest for pairs in bins.values())
    dropped = run.ledger()["pairs"]["pairs"]["dropped"].get("over_margin_bin", 0)
    if bins.total() > texts and fullest > 1:
        yield f"{bins.total()} similarity pairs of {texts} texts, up to {fullest} in a bin"
    if dropped and bins.total() + full <= texts:
        yield f"{dropped} pairs were dropped, though each of the {full} fullest bins had room for another one"


def main(path: str) -> int:
    """Print each check with what is wrong; returns 0 when all is well, 1 when not, 2 for what is no run."""
    try:
        run = RunDir(path)
        with naming_store(run.path):
            run.config()  # what is no run directory gets no lock file
            with run.lock():
                found: dict[str, Any] = verify(run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, problems in found.items():
        print(f"  {'FAIL' if problems else 'ok':<5} {name}")
        for problem in problems[:20]:
            print(f"        {problem}")
        if len(problems) > 20:
            print(f"        and {len(problems) - 20:,} more")
    bad = sum(map(len, found.values()))
    print(f"{path}: " + (f"{bad:,} problems" if bad else "every check holds" if found else "nothing is finished yet"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
