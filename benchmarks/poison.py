"""Poisoned rows among good ones: each ends in the rejects with its reason, and costs no other row.

    python -m benchmarks.poison --rows 10000 --json poison.json

One row in a hundred is poisoned: null, 1 MB of text, nothing but control characters, invalid UTF-8, a duplicate, or a
text that kills the engine; the last is done for real, with `kill -9` on the engine's process as soon as that text
reaches it. The job is `semtag rank` in all else, by a small model of random weights. The ledger must balance and
`semtag verify` must hold.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from benchmarks.contest import demo_texts, machine, markdown, publish
from benchmarks.small_models import SMALL, save_small
from semtag.cluster.stage_process import stage_main
from semtag.generation.decoding import Decoding
from semtag.generation.engine_guard import GuardedSampler
from semtag.generation.records import Candidate, SampledText
from semtag.scoring import pipeline, rank
from semtag.store.parquet import count_rows, read_rows
from semtag.store.run_dir import RunDir
from semtag.store.stages import STAGES

CONFIG = "configs/demo.yaml"
DEADLY = "A poison for engines"
REASONS = {
    "null": "null_text",
    "megabyte": "too_long",
    "control": "empty_text",
    "bytes": "invalid_utf8",
    "duplicate": "duplicate",
    "deadly": "kills_engine",
}


class Vulnerable(GuardedSampler):
    """A sampler whose engine dies, for real, of texts that say so."""

    async def _candidates(self, text: SampledText, ids: list[int], decoding: Decoding) -> list[Candidate]:
        if DEADLY in text.text:
            for child in psutil.Process(os.getpid()).children(recursive=True):
                child.kill()
        return await super()._candidates(text, ids, decoding)


def make_lines(rows: int, deadly: int) -> tuple[list[bytes], Counter[str]]:
    """JSON lines with one poisoned row in a hundred, `deadly` of them for engines; and how many of each kind."""
    others = [kind for kind in REASONS if kind != "deadly"]
    lines: list[bytes] = []
    made: Counter[str] = Counter()
    for number, text in enumerate(demo_texts(rows)):
        kind = None
        if number % 100 == 50:
            kind = "deadly" if made["deadly"] < deadly else others[number // 100 % len(others)]
            made[kind] += 1
        lines.append(_line(kind, text, lines))
    return lines, made


def _line(kind: str | None, text: str, before: list[bytes]) -> bytes:
    if kind == "bytes":
        return b'{"text": "' + b"\xff\xfe" + b'"}\n'
    if kind == "duplicate":
        return before[-1]
    poisoned = {"null": None, "megabyte": f"{text} " + "long " * 200_000, "control": "\u0000\u0007\u001b"}
    poisoned |= {"deadly": f"{DEADLY}. {text}"}
    return json.dumps({"text": poisoned.get(kind, text) if kind else text}).encode() + b"\n"


def run(rows: int, deadly: int, root: Path, overrides: list[str]) -> dict[str, Any]:
    """Rank poisoned rows; returns what came of them."""
    data, run = root / "rows.jsonl", RunDir(root / "poison")
    lines, made = make_lines(rows, deadly)
    data.write_bytes(b"".join(lines))
    start = time.monotonic()
    rank = [CONFIG, "run.name=poison", f"run.root={root}", f"model.base={save_small(root / 'model')}", *SMALL]
    rank += [f"data.path={data}", "data.limit=null", "data.held_out=0"]
    rank += ["rounds.count=1", "rounds.validation=0", *overrides]
    subprocess.run([sys.executable, "-m", "benchmarks.poison", "--semtag", "rank", *rank], check=True)
    verify = [sys.executable, "-m", "semtag", "verify", str(run.path)]
    layout = run.layout.round(1)
    rejects = Counter(
        row["reason"] for folder in (run.layout.rejects, layout.rejects) for row in read_rows(folder, ["reason"])
    )
    return {
        "rows": rows,
        "poisoned": made.total(),
        "ranked": count_rows(layout.ranked),
        "rejects": dict(rejects),
        "as_expected": rejects == Counter({REASONS[kind]: number for kind, number in made.items()}),
        "verified": subprocess.run(verify, check=False).returncode == 0,
        "seconds": round(time.monotonic() - start),
    }


def command_line(arguments: list[str]) -> int:
    """The command line, with the rank stage's sampler made vulnerable."""
    from semtag import cli

    STAGES["rank"] = STAGES["rank"]._replace(module="benchmarks.poison")
    return cli.main(arguments)


def main() -> int:
    """Run and print the outcome; returns 0 when every row is where it belongs."""
    if sys.argv[1:2] == ["--semtag"]:
        return command_line(sys.argv[2:])
    if len(sys.argv) > 1 and (Path(sys.argv[1]) / "manifest.json").exists():  # started as a stage, by command_line()
        setattr(pipeline, "GuardedSampler", Vulnerable)  # noqa: B010
        stage_main("rank", rank.rank)
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="rows, one in a hundred of them poisoned")
    parser.add_argument("--deadly", type=int, default=3, help="how many of the poisoned ones kill engines")
    parser.add_argument("--root", type=Path, default=Path("runs/poison"), help="folder of the run; emptied")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.root, ignore_errors=True)
    arguments.root.mkdir(parents=True)
    result = run(arguments.rows, arguments.deadly, arguments.root, arguments.overrides)
    publish({"machine": machine(), **result}, markdown(list(result), [list(map(str, result.values()))]), arguments.json)
    good = result["as_expected"] and result["verified"] and result["ranked"] == result["rows"] - result["poisoned"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
