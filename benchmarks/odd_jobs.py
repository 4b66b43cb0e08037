"""Jobs on odd inputs as a user starts them, for `benchmarks.odd_inputs`: replays, a training, and `semtag tag`."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.small_models import SMALL
from semtag import tag_corpus as tag_texts
from semtag.cluster.progress import Progress
from semtag.configs.schema import Config, Model
from semtag.generation.records import CANDIDATE, SAMPLED
from semtag.store.layout import Step
from semtag.store.parquet import RowWriter, read_rows
from semtag.store.run_dir import RunDir
from semtag.tag_files import TAGS

REPOSITORY = Path(__file__).parent.parent
CONFIG = str(REPOSITORY / "configs" / "demo.yaml")
# Of the demo: all texts are trained on, in one round, and no share of rejects is too much.
BASE = [
    *("data.limit=null", "data.held_out=0", "data.held_out_by=text", "data.article_column=null", "run.max_rejected=1"),
    *("rounds.count=1", "rounds.each=[]", "rounds.validation=0"),
]
# Some answers are cut in the middle of a tag, so they are repaired ones, which nobody sampled.
TRAINED = [*SMALL, "sampling.samples=8", "sampling.max_tokens=18", "training.data=lists", "training.max_steps=1"]
TAGGED = [*SMALL, "scoring.model=all-MiniLM-L6-v2"]
ANSWER = {"tags": ["river"], "format": "valid"}  # where no model is asked
# `semtag tag`, with the step that asks a model given the answers by this module.
BY_HAND = """
import sys
from semtag import cli
from semtag import tag_job as tag
start = tag.run_module
tag.run_module = lambda module, arguments, lock: start("benchmarks.odd_jobs", arguments, lock)
sys.exit(cli.main(sys.argv[1:]))
"""
Job = subprocess.CompletedProcess[str]


class Trial(NamedTuple):
    """An input that was tried: what is right for it, and what was found."""

    kind: str
    name: str
    right: str
    found: str

    @property
    def ok(self) -> bool:
        """Whether the right thing was found."""
        return self.found == self.right


@dataclass(frozen=True)
class Bench:
    """Where inputs are tried: their folder, which is the current one of each command, a folder for runs, a model."""

    folder: Path
    root: Path
    model: str

    def of_run(self, name: str, data: str, *overrides: str) -> list[str]:
        """The config and the overrides of a run."""
        where = [f"run.name={name}", f"run.root={self.root}", f"model.base={self.model}", f"data.path={data}"]
        return [CONFIG, *where, *BASE, *overrides]

    def run(self, name: str) -> RunDir:
        """The run of that name."""
        return RunDir(self.root / name)

    def python(self, *arguments: str, **environment: str) -> Job:
        """Run Python in the inputs' folder; what it prints comes together in `stdout`."""
        paths = {"PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=os.environ | paths | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            check=False,
        )

    def semtag(self, *arguments: str, **environment: str) -> Job:
        """Run the command line."""
        return self.python("-m", "semtag", *arguments, **environment)


def ended(job: Job, right: str) -> str:
    """`right`, such as `exit 2: data.encoding ... cp1252`, where a job ended so and said that; else how it ended."""
    status, _, said = right.partition(": ")
    lines = job.stdout.strip().splitlines() or [""]
    well = f"exit {job.returncode}" == status and "Traceback" not in job.stdout
    if well and all(words in job.stdout for words in said.split(" ... ")):
        return right
    errors = [line for line in lines if line.startswith(("error: ", "Traceback"))]
    return f"exit {job.returncode}: {(errors or lines[-1:])[0]}"


def try_replays(bench: Bench) -> Iterator[Trial]:
    """Candidates from files, with texts longer than the embedding model reads, at places that are odd themselves."""
    temporary = bench.root / ("x" * max(1, 79 - len(str(bench.root))))
    temporary.mkdir()
    how = ["sampling.engine=replay"]
    job = bench.semtag("rank", *bench.of_run("nulls", "replay/nulls.jsonl", *how), TMPDIR=str(temporary))
    left = [file.name for file in temporary.iterdir() if file.name.startswith(("semtag-", "ray"))]
    right, found = "exit 0, with [] left there", f"{ended(job, 'exit 0')}, with {left} left there"
    yield Trial("places", f"TMPDIR of {len(str(temporary))} letters", right, found)
    right = "6 ranked: 6 valid, 6 repaired, 6 invalid"
    yield Trial("replays", "replay/nulls.jsonl", right, _ranked(bench, "nulls"))
    grown = bench.root / "grown"
    grown.mkdir()
    for name in ("replay/surrogate.jsonl", "long_tail.jsonl"):
        shutil.copy(bench.folder / name, grown)
    command = ["rank", *bench.of_run("together", str(grown), *how)]
    job = bench.semtag(*command)
    right = "9 ranked: 18 valid, 1 invalid"
    yield Trial("replays", "replay/surrogate.jsonl", right, _ranked(bench, "together"))
    right = "exit 0: 2 texts are longer than the embedding model reads"
    yield Trial("replays", "long_tail.jsonl", right, ended(job, right))
    shutil.copy(bench.folder / "replay" / "nulls.jsonl", grown / "surrogate.jsonl")
    right = "exit 2: surrogate.jsonl has changed"
    yield Trial("places", "a folder that grew", right, ended(bench.semtag(*command), right))


def _ranked(bench: Bench, name: str) -> str:
    """How many texts have a ranked list, and the formats of their candidates."""
    run = bench.run(name)
    if not run.is_done(Step("rank", 1)):
        return "not ranked"
    rows = list(read_rows(run.layout.round(1).ranked))
    formats = Counter(candidate["format"] for row in rows for candidate in row["candidates"])
    shown = ", ".join(f"{formats[one]} {one}" for one in ("valid", "repaired", "invalid") if formats[one])
    verified = bench.semtag("verify", str(run.path)).returncode == 0
    return f"{len(rows)} ranked: {shown}" + ("" if verified else ", not verified")


def try_training(bench: Bench) -> Iterator[Trial]:
    """A model with odd settings, under templates that are odd, trained on texts that spell control tokens."""
    refused = bench.of_run("no_end", "special_tokens.jsonl", *SMALL, "model.chat_template=no_end.jinja")
    right = "exit 2: ends no answer"
    found = ended(bench.semtag("rank", *refused), right)
    yield Trial("training", "no_end.jinja", right, found + sampled(bench.run("no_end")))
    base = bench.root / "base"
    shutil.copytree(bench.model, base)
    settings = bench.folder / "bad_generation_config.json"
    shutil.copy(settings, base / "generation_config.json")
    more = [f"model.base={base}", "model.chat_template=think.jinja", "training.dtype=float32"]
    command = bench.of_run("trained", "special_tokens.jsonl", *TRAINED, *more)
    for stage in ("rank", "pairs", "train"):
        job = bench.semtag(stage, *command)
        if job.returncode:
            break
    yield Trial("training", "special_tokens.jsonl", "7 prompts, each with 5 control tokens", _control_tokens(bench))
    yield _as_sampled(bench)
    merged, right = bench.run("trained").layout.round(1).merged, "exit 0, and the settings as they were"
    found = ended(job, "exit 0")
    if (merged / settings.name.removeprefix("bad_")).exists():
        kept = json.loads((merged / "generation_config.json").read_text(encoding="utf-8"))
        wanted = json.loads(settings.read_text(encoding="utf-8"))
        # What is the default already, such as to sample not, need not be said.
        same = all(kept.get(key, False) == value for key, value in wanted.items())
        found += ", and the settings as they were" if same else f", and the settings {kept}"
    yield Trial("training", settings.name, right, found)


def sampled(run: RunDir) -> str:
    """What to say of a run that was to be refused before anything is sampled."""
    return ", sampled" if run.layout.round(1).sampled.parent.exists() else ""


def _control_tokens(bench: Bench) -> str:
    from transformers import AutoTokenizer

    run = bench.run("trained")
    if not run.is_done(Step("pairs", 1)):
        return "no lists"
    control = set(AutoTokenizer.from_pretrained(bench.model).added_tokens_decoder)
    prompts = {row["text_id"]: row["prompt_ids"] for row in read_rows(run.layout.round(1).ranked)}
    counts = set[int]()
    for ids in prompts.values():
        counts.add(sum(id_ in control for id_ in ids))
    trained = {row["text_id"]: row["prompt_ids"] for row in read_rows(run.layout.round(1).lists)}
    same = trained.items() <= prompts.items() and trained
    shown = " or ".join(map(str, sorted(counts)))
    return f"{len(prompts)} prompts, each with {shown} control tokens" + ("" if same else ", trained by others")


def _as_sampled(bench: Bench) -> Trial:
    """Tokens that were sampled are those that are trained, however the template would spell them."""
    from semtag.generation.prompts import load_tokenizer
    from semtag.training.tokenized import load_rows, tokenized

    run = bench.run("trained")
    if not run.is_done(Step("train", 1)):
        return Trial("training", "think.jinja", "trained", "not trained")
    counts = run.counts(Step("train", 1))["references"]
    template = str(bench.folder / "think.jinja")
    rows = load_rows(run.local_dir / "round-1" / "lists", "lists", bench.root / "cache")
    made = tokenized(rows, load_tokenizer(bench.model, Model(base=bench.model, chat_template=template)))
    given = [ids for row in rows for ids in row["sampled_ids"]]
    spelled = [ids for row in made for ids in row["completion_ids"]]
    drawn = sum(ids is not None for ids in given)
    kept = sum(ids == own for ids, own in zip(given, spelled, strict=True))
    other = counts.pop("recomputed_as_not_sampled_by_this_model", 0)
    right = f"{drawn} sampled answers trained token by token, {len(given) - drawn} repaired ones"
    found = f"{min(kept, sum(counts.values()))} sampled answers trained token by token, {other} repaired ones"
    return Trial("training", "think.jinja", right, found if other and drawn else f"{found}: nothing tried")


def try_tagging(bench: Bench) -> Iterator[Trial]:
    """Files of odd names and cells, tagged; the first by a real model, the others with answers by hand."""
    yield _tagged(bench, "news #2.jsonl", "x[1].jsonl", real=True)
    yield _tagged(bench, "0123", "0123.jsonl")
    yield _tagged(bench, "tag/nan.jsonl", "nan.jsonl")
    yield _tagged(bench, "tag/dates.jsonl", "dates.parquet")
    yield _tagged(bench, _as_parquet(bench), "same.parquet")
    right = "exit 2: File name too long"
    job = bench.semtag("tag", bench.model, "--data", "0123", "--out", str(bench.root / f"{'x' * 300}.jsonl"))
    yield Trial("tag", "--out of 300 letters", right, ended(job, right))


def _as_parquet(bench: Bench) -> str:
    """The dates as Parquet has them, by types of their own; returns the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = bench.root / "dates.parquet"
    table = pa.Table.from_pylist(list(_rows(bench.folder / "tag" / "dates.jsonl")))
    text, code, day, at = (table[name] for name in ("text", "code", "day", "at"))
    typed = {"text": text, "code": code, "day": day.cast(pa.date32()), "at": at.cast(pa.timestamp("us", "UTC"))}
    pq.write_table(pa.table(typed), file)
    return str(file)


def _tagged(bench: Bench, data: str, out: str, real: bool = False) -> Trial:
    """Tag a file; right is that each row comes out as it was, with tags."""
    file, came = bench.root / out, list(_rows(bench.folder / data))
    command = ["tag", bench.model, "--data", data, "--out", str(file), "--constrained", *TAGGED]
    job = bench.semtag(*command) if real else bench.python("-c", BY_HAND, *command)
    right, found = f"{len(came)} rows as they came, with tags", ended(job, "exit 0")
    if found == "exit 0":
        went, tags = list(_rows(file, nan="NaN")), list[Any]()
        for row in went:
            tags.append(row["tags"])
            for name in TAGS.names:
                row.pop(name, None)
        found = right if went == came and all(tags) else f"tagged {tags}: {went}"
    return Trial("tag", f"{data.removeprefix(f'{bench.root}/')}, to {out}", right, found)


def _rows(file: Path, nan: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file or folder, each cell of its own type; `nan` is what a number that is none comes as."""
    import pyarrow.parquet as pq

    for part in sorted(file.iterdir()) if file.is_dir() else [file]:
        if part.suffix == ".parquet":
            yield from pq.read_table(part).to_pylist()
        else:
            lines = part.read_text(encoding="utf-8").splitlines()
            yield from (json.loads(line, parse_constant=lambda _: nan) for line in lines)


def _by_hand(work: RunDir, job: dict[str, Any], config: Config, progress: Progress) -> dict[str, Any]:
    """What a model would have answered; its place in `semtag tag`."""
    file = work.local_dir / "answers.parquet"
    found = dict.fromkeys(field.name for field in CANDIDATE) | ANSWER
    with RowWriter(file, SAMPLED) as out:
        for row in read_rows(work.layout.texts / "texts.parquet"):
            out.write(dict.fromkeys(SAMPLED.names) | row | {"candidates": [found]})
    return tag_texts._write(work, job, [file], config.data.column)


if __name__ == "__main__":
    setattr(tag_texts, "_answer", _by_hand)  # noqa: B010
    tag_texts.main()
