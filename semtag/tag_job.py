"""`semtag tag`: the settings of a tagging job, and its start. semtag/tag_corpus.py does the work."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semtag.configs.errors import UserError
from semtag.configs.load import differences, override
from semtag.configs.schema import Config, merge_into
from semtag.generation.source_state import check_source
from semtag.pipeline import run_module
from semtag.store.layout import Step
from semtag.store.locations import Place, is_hub_name, place_at, short_hash, uri, weights_hash, write_json
from semtag.store.packaged import is_packaged
from semtag.store.rounds import delivered_round
from semtag.store.run_dir import RunDir, result_settings

ENDINGS = (".jsonl", ".csv", ".parquet")  # of the output file


def tag(
    tagger: str,
    data: str,
    out: Path,
    overrides: list[str],
    *,
    votes: int,
    base: bool,
    score: bool,
    constrained: bool,
    answers: Path | None = None,
) -> int:
    """Tag the rows of `data` into the file `out`; return the exit status.

    `tagger` is a run directory, or a model's path or hub name. With `base`, the run's base model tags. The folder
    `answers` keeps answers for later jobs. The job's state lies in `<out>.unfinished` until the job is done, so the
    same command again resumes. Raises UserError for an `out` that exists or has another ending, and for an unfinished
    job of other settings.
    """
    if ":/" in str(out) or out.suffix not in ENDINGS:
        raise UserError(f"Cannot write {out}.", f"Set --out to a file on a disk that ends in {', '.join(ENDINGS)}.")
    work = RunDir(out.with_name(out.name + ".unfinished"))
    _check_free(out, work)
    config = tagger_config(tagger, data, base, overrides)
    # An unfinished job resumes only with the same settings and the same data.
    asked = {"votes": votes, "constrained": constrained, "score": score}
    job = {
        **asked,
        "answers": answers and str(answers.resolve() / tagger_identity(config, asked)),
        "out": out.name,
        **result_settings(config, Step("texts")),
        **result_settings(config, Step("rank")),
    }
    _check_same(work, job)
    check_source(work, config.data, f"remove {work.path} to start again")
    work.create()
    with work.lock() as lock:
        write_json(job_file(work), job)
        work.start(config)
        return run_module("semtag.tag_corpus", [str(work.path)], lock)


def tagger_identity(config: Config, asked: dict[str, Any]) -> str:
    """Return the hash of all that an answer depends on besides its text; `asked` says how the tagger is asked.

    A model in a folder counts by the hash of its weights, so a run that has moved is the same tagger.
    """
    values = result_settings(config, Step("rank")) | asked
    base = config.model.base
    if not is_packaged(base) and not is_hub_name(base):
        values["model.base"] = weights_hash(place_at(base))
    return short_hash(json.dumps(values, sort_keys=True))


def _check_free(out: Path, work: RunDir) -> None:
    for file in (out, rejects_of(out)):
        # An unfinished job may have its rejects already, because a kill may come between the two files.
        if file.exists() and (file == out or not work.path.exists()):
            raise UserError(f"{file} exists already.", "Remove the file, or set --out to another name.")


def rejects_of(out: Path) -> Path:
    """Return the file of the rows that a job cannot tag. Example: `a.csv` becomes `a.csv.rejects.jsonl`."""
    return out.with_name(f"{out.name}.rejects.jsonl")


def job_file(work: RunDir) -> Place:
    """Return the file with the settings of the job in the folder `work`."""
    return work.path / "job.json"


def tagger_config(
    tagger: str, data: str, base: bool, overrides: Sequence[str] = (), sections: dict[str, Any] | None = None
) -> Config:
    """Return the config under which a run's tagger, its base model, or any model tags the data.

    Raises UserError for a `tagger` that is neither a run nor a model, an unknown key and an invalid value.
    """
    run = RunDir(tagger)
    values = _values_of_run(run, base) if run.layout.config.exists() else _values_of_model(tagger)
    values["data"] = {"path": data, "held_out": 0.0, "max_words": values.get("data", {}).get("max_words")}
    merge_into(values, sections or {})
    config = override(values, overrides)
    return config.model_copy(update={"scoring": config.scoring.as_cosine()})  # --score gives the cosine


def _values_of_run(run: RunDir, base: bool) -> dict[str, Any]:
    values = run.config().model_dump()
    values["sampling"]["engine"] = "vllm"
    if not base:
        values["model"] |= {"base": uri(run.layout.round(delivered_round(run)).merged), "revision": None}
    return values


def _values_of_model(name: str) -> dict[str, Any]:
    """Return the values for a model without a run. The prompt and all other keys have their defaults."""
    place = place_at(name)
    if place.exists() and not (place / "config.json").exists():
        raise UserError(
            f"{place} is neither a run directory nor a model.", "Name a run, such as runs/demo, or a model."
        )
    return {"run": {"name": "tag"}, "model": {"base": name}}


def _check_same(work: RunDir, job: dict[str, Any]) -> None:
    file = job_file(work)
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else job
    if differing := differences(before, job, "when it began"):
        raise UserError(
            "\n  ".join([f"{work.path} holds an unfinished job with other settings:", *differing]),
            f"Restore these settings to resume the job, or remove {work.path} to start again.",
        )
