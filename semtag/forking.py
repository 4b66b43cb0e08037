"""A fork: a run that takes over the steps of another run up to the first step whose settings differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from semtag.configs.errors import UserError
from semtag.configs.load import differences, load_config
from semtag.configs.schema import Config, merge_into
from semtag.pipeline import steps_of
from semtag.store.layout import RunLayout, Step
from semtag.store.links import take_folder
from semtag.store.locations import Place, uri, write_json, write_text
from semtag.store.manifest import Ledger, StepRecord
from semtag.store.run_dir import RunDir, result_settings


@dataclass(frozen=True)
class Plan:
    """The steps that a fork takes over, the first step that the fork does itself, and why."""

    taken: list[Step]
    first: Step | None  # None: all steps are taken over
    why: list[str]  # keys that differ; empty where the source has not finished the step

    @property
    def rescored(self) -> Step | None:
        """Return the ranking whose candidates the fork scores itself, because nothing but scoring differs."""
        only_scores = self.why and all(line.startswith("scoring.") for line in self.why)
        return self.first if self.first and self.first.stage == "rank" and only_scores else None


def config_of_fork(
    source: RunDir, name: str, overrides: Sequence[str] = (), sections: dict[str, Any] | None = None
) -> Config:
    """Return the config of `source` with changed keys and another name; the run lies beside `source` by default.

    Raises UserError if `source` is no run or has that name, and as `load_config` does.
    """
    source.config()
    changed: dict[str, Any] = {"run": {"root": str(source.path.parent)}}
    merge_into(changed, sections or {})
    config = load_config(source.layout.config, [*overrides, f"run.name={name}"], changed)
    if uri(RunDir.of(config).path) == uri(source.path):
        raise UserError(f"{source.path} cannot be a fork of itself.", "Give the fork another name.")
    return config


def fork(source: RunDir, config: Config, say: Callable[[str], None]) -> RunDir:
    """Make the run of `config` with all that it can take over from `source`; return the run. A made one is left as is.

    Raises UserError if nothing can be taken over, and for a disk that is full.
    """
    run = RunDir.of(config)
    if run.manifest().steps:
        say(f"{run.path} was made before, and resumes")
    else:
        plan = plan_fork(source, config)
        for line in lines_of(source, config, plan):
            say(line)
        take_over(source, run, config, plan)
    return run


def plan_fork(source: RunDir, config: Config) -> Plan:
    """Find the steps of `source` that a run of `config` would make again as they are.

    A step is taken over if its settings are equal and all steps before it are taken over, because each step reads what
    earlier ones wrote. Raises UserError if no step can be taken over.
    """
    records, taken = source.manifest().steps, list[Step]()
    for step in steps_of(source, config):
        record, settings = records.get(step.name), result_settings(config, step)
        if record is None or record.state != "done":
            plan = Plan(taken, step, [])
            break
        if record.config != settings:
            plan = Plan(taken, step, differences(record.config, settings, f"in {source.path}"))
            break
        taken.append(step)
    else:
        plan = Plan(taken, None, [])
    if not taken:
        raise UserError(
            f"A fork of {source.path} would take nothing over.\n  " + "\n  ".join(plan.why or ["It has no texts yet."]),
            "Leave these keys as they are, or start a run of its own with `semtag run`.",
        )
    return plan


def take_over(source: RunDir, run: RunDir, config: Config, plan: Plan) -> None:
    """Give a new run the steps of the fork, with their files and their entries in manifest and ledger.

    The manifest comes last, so a run whose making was ended takes the steps over again.
    """
    run.create()
    with source.lock(reading=True), run.lock():
        run.start(config)
        if plan.rescored:
            _give_candidates(source, run, config, plan.rescored)
        folders = zip(_folders(source.layout, plan.taken), _folders(run.layout, plan.taken), strict=True)
        for theirs, own in folders:
            if theirs.exists():
                take_folder(theirs, own)
        _record(source, run, [step.name for step in plan.taken])


def lines_of(source: RunDir, config: Config, plan: Plan) -> list[str]:
    """Format what a fork takes over, and why it does the next step itself."""
    name = RunDir.of(config).path
    lines = [f"{name} takes over {', '.join(step.name for step in plan.taken)} of {source.path}"]
    if plan.first is None:
        return [*lines, "all steps are taken over"]
    if plan.rescored:
        lines.append(f"{name} takes over the candidates of {plan.rescored.name} too, and scores them")
    if not plan.why:
        lines.append(f"{name} begins at {plan.first.name}, which {source.path} has not done")
    else:
        lines.append(f"{name} begins at {plan.first.name}, because these keys differ:")
    return lines + [f"  {line}" for line in plan.why]


def _record(source: RunDir, run: RunDir, names: list[str]) -> None:
    """Write the entries of finished steps in the ledger and the manifest of `source` into those of `run`."""
    manifest, ledger = source.manifest(), source.ledger()
    steps = dict[str, StepRecord]()
    for name in names:
        record = manifest.steps[name]
        steps[name] = record.model_copy(update={"taken_from": record.taken_from or uri(source.path)})
    write_json(run.layout.ledger, Ledger({name: ledger.of(name) for name in names if ledger.of(name)}).as_json())
    write_json(run.layout.manifest, run.manifest().model_copy(update={"steps": steps}).as_json())


def _give_candidates(source: RunDir, run: RunDir, config: Config, step: Step) -> None:
    """Write the candidates of a ranked round for the fork to score."""
    from semtag.scoring.given import sampling_identity, write_candidates

    layout = run.layout.round(step.round)
    texts = source.layout.train_texts(step.round, config.rounds.texts == "reuse")
    with run.replace_folder(layout.given) as folder:
        write_candidates(source.layout.round(step.round), texts, folder)
    write_text(layout.given_identity, sampling_identity(config, step.round))


def _folders(layout: RunLayout, steps: list[Step]) -> list[Place]:
    """Return the folders that the steps wrote."""
    return [folder for step in steps for folder in layout.written_by(step)]
