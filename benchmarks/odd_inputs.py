"""Odd inputs, as people have them: what becomes of each, beside what is right.

    python -m benchmarks.odd_inputs ../shared/bug_inputs --json odd_inputs.json

Files of texts go through the texts step, one that is refused also through `semtag rank --dry-run`; rows of texts/ and
of rejects/ must add up to those that the ledger says were read. Completions go through the parser, overrides through
`semtag rank`. Replayed candidates, chat templates and settings of models go through whole jobs of a small model with
random weights, and files to tag through `semtag tag`, whose answers are written by hand. An input that no case here is
about counts as wrong. The exit status is 0 when all are right.
"""

import argparse
import bz2
import csv
import gzip
import io
import json
import lzma
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.contest import machine, markdown, publish
from benchmarks.odd_jobs import Bench, Trial, ended, sampled, try_replays, try_tagging, try_training
from benchmarks.small_models import save_small
from semtag.configs.load import load_config
from semtag.generation.parse import parse
from semtag.store.parquet import read_rows


class Case(NamedTuple):
    """A file or folder of texts, and what is right for it under some overrides."""

    input: str
    right: str
    overrides: tuple[str, ...] = ()


COMPRESSED = ("gz", "bz2", "xz", "zst")
FILES = [
    Case("0123", "2 texts"),
    Case("UPPER.JSONL", "2 texts"),
    Case("array.json", "6 texts", ("data.column=text",)),
    Case("bom.txt", "2 texts"),
    Case("bom_squad.json", "1 text"),
    Case("compressed.jsonl.gz", "4 texts"),
    *(Case(f"made/texts.{kind}.{end}", "4 texts") for kind in ("jsonl", "csv") for end in COMPRESSED),
    *(Case(f"made/{kind}", "4 texts, 12 duplicate") for kind in ("jsonl", "csv")),
    Case("cp1252_header.csv", "exit 2: cp1252_header.csv is not in utf-8 ... Set data.encoding, such as cp1252"),
    Case("cp1252_header.csv", "1 text", ("data.encoding=cp1252", "data.column=Text")),
    Case("cp1252_title.csv", "2 texts"),
    Case("crlf_embedded_newline.csv", "2 texts"),
    Case("damaged_page.parquet", "exit 2: Cannot read damaged_page.parquet: Corrupt"),
    Case("duplicate_columns.csv", "exit 2: duplicate_columns.csv has the column 'text' twice"),
    Case("first_row_lacks_column.jsonl", "2 texts, 1 missing_column"),
    Case("invalid_utf8.parquet", "1 text, 1 invalid_utf8"),
    Case("json_lines", "2 texts"),
    Case("lists_and_bytes.parquet", "4 texts"),
    Case("lone_surrogate.jsonl", "2 texts"),
    Case("long_number.jsonl", "2 texts"),
    Case("mixed_types.jsonl", "3 texts, 3 broken_line, 4 not_text"),
    Case("nested", "2 texts"),
    Case("news #2.jsonl", "2 texts"),
    Case("partitioned", "2 texts"),
    Case("semicolons.csv", "2 texts"),
    Case("sound_column", "6 texts"),
    Case("special_tokens.jsonl", "7 texts"),
    Case("tabs.tsv", "2 texts"),
    Case("unclosed_quote.csv", "2 texts, 1 broken_line"),
    Case("unquoted_comma.csv", "1 text, 1 extra_cells"),
    Case("year_17000.parquet", "2 texts"),
    Case("zero_width.jsonl", "2 texts, 2 duplicate, 1 empty_text"),
]
# What a refused override is told, and nothing is sampled.
REFUSED = {
    "training.report_to=[wandb]": "exit 2: wandb is not installed here ... pip install wandb",
    "sampling.temperature=0": "exit 2: sampling.temperature",
    "training.lora.target_modules=[q_proj,v_porj]": "exit 2: v_porj is no layer",
    "training.lora.target_modules=[q_proj,lm_head]": "exit 2: lm_head is a layer of the vocabulary",
}
NO_INPUTS = ("README.md", "tag", "replay")  # the last two are folders of inputs


def try_files(bench: Bench) -> Iterator[Trial]:
    """Texts in files and folders."""
    _make_compressed(bench)
    for number, case in enumerate(FILES):
        # Parquet holds what JSON does not, which must come out the same each time.
        turns = 2 if case.input.endswith(".parquet") else 1
        found = [read_texts(bench, case, f"files-{number}-{turn}") for turn in range(turns)]
        if case.right.startswith("exit "):
            job = bench.semtag("rank", *_command(bench, case, f"files-{number}"), "--dry-run")
            found.append((ended(job, case.right), []))
        wrong = [said for said, _ in found if said != case.right]
        same = found[0][1] == found[turns - 1][1]
        said = wrong[0] if wrong else case.right if same else "other rows the second time"
        yield Trial("files", " ".join([case.input, *case.overrides]), case.right, said)


def _make_compressed(bench: Bench) -> None:
    """The texts of compressed.jsonl.gz in all compressions, as JSON lines and as CSV, alone and in folders."""
    import pyarrow as pa

    lines = gzip.decompress((bench.folder / "compressed.jsonl.gz").read_bytes())
    rows, table = [json.loads(line) for line in lines.splitlines()], io.StringIO(newline="")
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    pack: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    pack["zst"] = lambda content: pa.compress(content, codec="zstd", asbytes=True)
    for kind, content in {"jsonl": lines, "csv": table.getvalue().encode()}.items():
        (bench.root / "made" / kind).mkdir(parents=True)
        for end in COMPRESSED:
            (bench.root / "made" / f"texts.{kind}.{end}").write_bytes(pack[end](content))
            shutil.copy(bench.root / "made" / f"texts.{kind}.{end}", bench.root / "made" / kind)


def _command(bench: Bench, case: Case, name: str) -> list[str]:
    made = case.input.startswith("made/")
    return bench.of_run(name, str(bench.root / case.input) if made else case.input, *case.overrides)


def read_texts(bench: Bench, case: Case, name: str) -> tuple[str, list[Any]]:
    """Do the texts step alone; returns what became of the rows, such as `2 texts, 1 empty_text`, and the texts."""
    config, *overrides = _command(bench, case, name)
    run, settings = bench.run(name), load_config(config, overrides)
    run.create()
    run.start(settings)
    job = bench.python("-m", "semtag.generation.texts", str(run.path))
    if job.returncode or "Traceback" in job.stdout:
        return ended(job, case.right), []
    rejects = Counter(row["reason"] for row in read_rows(run.layout.rejects))
    texts = list(read_rows(run.layout.texts))
    found = ", ".join(
        [
            "1 text" if len(texts) == 1 else f"{len(texts)} texts",
            *(f"{rejects[reason]} {reason}" for reason in sorted(rejects)),
        ]
    )
    said = {"in": len(texts) + rejects.total(), "out": len(texts), "dropped": dict(rejects)}
    if run.ledger().of("texts")["rows"].as_json() != said:
        found += f", but the ledger has {run.ledger().as_json()}"
    sources = [Path(file) for file in json.loads(run.layout.source_state.read_text(encoding="utf-8"))]
    wanted = bench.folder / Path(settings.data.paths[0])
    if not sources or any(wanted not in (bench.folder / file, *(bench.folder / file).parents) for file in sources):
        found += f", read from {sources}"
    if any(row["text"].startswith("\ufeff") for row in texts):
        found += ", one begins with U+FEFF"
    return found, texts


def try_completions(bench: Bench) -> Iterator[Trial]:
    """Completions, as the parser reads them at three tags."""
    for line in (bench.folder / "completions.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        parsed = parse(case["completion"], max_tags=3)
        right, found = _answer(case["format"], case["tags"]), _answer(parsed.format, parsed.tags)
        yield Trial("completions", json.dumps(case["completion"]), right, found)


def _answer(format_: str, tags: Iterable[str]) -> str:
    return " ".join([format_, *(f"[{tag}]" for tag in tags)])


def try_overrides(bench: Bench) -> Iterator[Trial]:
    """Overrides: a value that is taken is the very text of it, in the plan that `--dry-run` prints."""
    data = bench.root / "columns.jsonl"
    data.write_text('{"text": "A lock lifts boats.", "no": "A mill grinds grain."}\n', encoding="utf-8")
    lines = (bench.folder / "overrides.tsv").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[1:]):
        override, _, told = line.partition("\t")
        command = ["rank", *bench.of_run(f"override-{number}", str(data), override)]
        if told.startswith("exit 2"):
            right = REFUSED.get(override, "a case here")
            found = ended(bench.semtag(*command), right) + sampled(bench.run(f"override-{number}"))
        else:
            key, _, value = override.partition("=")
            job, right = bench.semtag(*command, "--dry-run"), f"exit 0, {value!r}"
            found = ended(job, "exit 0")
            if found == "exit 0":
                plan = yaml.safe_load(job.stdout.partition("\nPlan\n")[0])
                for part in key.split("."):
                    plan = plan[part]
                found = f"exit 0, {plan!r}"
        yield Trial("overrides", override, right, found)


KINDS: dict[str, Callable[[Bench], Iterator[Trial]]] = {
    "files": try_files,
    "completions": try_completions,
    "overrides": try_overrides,
    "replays": try_replays,
    "training": try_training,
    "tag": try_tagging,
}


def try_all(bench: Bench, kinds: list[str]) -> list[Trial]:
    """Try the inputs of these kinds; when that is all, an input of the folder that no case is about is wrong."""
    trials = list[Trial]()
    for kind in kinds:
        begun = time.monotonic()
        trials += KINDS[kind](bench)
        print(f"{kind}: {time.monotonic() - begun:.0f} s", flush=True)
    if set(kinds) == set(KINDS):
        inputs = {"completions.jsonl", "overrides.tsv", *(case.input for case in FILES)}
        inputs |= {trial.name.partition(", to ")[0] for trial in trials}
        found = [file for folder in (".", "replay", "tag") for file in sorted((bench.folder / folder).iterdir())]
        names = [str(file.relative_to(bench.folder)) for file in found if file.name not in NO_INPUTS]
        trials += [Trial("", name, "a case here", "none") for name in names if name not in inputs]
    return trials


def _line(trial: Trial) -> list[str]:
    cells = (trial.kind, trial.name, trial.right, trial.found, "yes" if trial.ok else "no")
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]


def main() -> int:
    """Try the inputs and print what became of each; returns 0 when all are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the inputs")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of inputs to try")
    parser.add_argument("--root", type=Path, default=Path("runs/odd_inputs"), help="folder of the runs; emptied")
    parser.add_argument("--json", type=Path, help="write the outcome to this file")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.root, ignore_errors=True)
    arguments.root.mkdir(parents=True)
    root = arguments.root.resolve()
    bench = Bench(arguments.folder.resolve(), root, save_small(root / "model"))
    begun = time.monotonic()
    trials = sorted(try_all(bench, arguments.only), key=lambda trial: trial.ok)
    result: dict[str, Any] = {"machine": machine(), "seconds": round(time.monotonic() - begun)}
    result["trials"] = [trial._asdict() | {"ok": trial.ok} for trial in trials]
    publish(result, markdown(["kind", "input", "right", "found", "ok"], [*map(_line, trials)]), arguments.json)
    right = sum(trial.ok for trial in trials)
    print(f"{right} of {len(trials)} right")
    return 0 if right == len(trials) else 1


if __name__ == "__main__":
    sys.exit(main())
