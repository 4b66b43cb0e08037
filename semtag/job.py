"""A run, or some of its steps: the checks before the steps, the steps, and the results after the steps."""

from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.generation.source_state import check_source
from semtag.pipeline import run_steps, steps_of
from semtag.plan import check_model, check_trackers, show_plan, slow_types
from semtag.store.layout import Step
from semtag.store.locations import explain_store_errors
from semtag.store.rounds import last_round, round_lines
from semtag.store.run_dir import RunDir

EVALUATION = Step("evaluate")


def do_steps(config: Config, steps: set[Step] | None = None, dry_run: bool = False, verbose: bool = False) -> int:
    """Do the `steps` that are not done yet, or all steps of the run; return the exit status.

    With `dry_run`, only prints the plan. Raises UserError for a problem that the user can fix.
    """
    run = RunDir.of(config)

    def is_wanted(step: Step) -> bool:
        return steps is None or step in steps

    with explain_store_errors(run.path):
        # Refuse a config that cannot work, before the run is written.
        check_model(config)
        run.refuse_changed_config(config)
        check_source(run, config.data, "give the new run a name of its own with run.name=...")
        if steps != {EVALUATION}:
            check_trackers(config)
        if dry_run:
            show_plan(run, config)
            return 0
        _check_rounds(run, config, steps or set())
        # Only for a new run, because a run that has begun keeps its types.
        if not run.manifest().steps and (faster := slow_types(config)):
            print(f"This CPU has no bfloat16, so float32 is faster here: {' '.join(faster)}")
        # Do the steps under the run's lock.
        run.create()
        with run.lock() as lock:
            run.start(config)
            wanted = [step for step in steps_of(run, config) if is_wanted(step)]
            already = all(map(run.is_done, wanted))
            status = run_steps(run, config, is_wanted, verbose, lock)
        if status:
            return status
        if already:
            print(f"All is done already in {run.path}: {', '.join(step.name for step in wanted)}.")
        return _show_results(run, config) if is_wanted(EVALUATION) and run.is_done(EVALUATION) else 0


def _check_rounds(run: RunDir, config: Config, steps: set[Step]) -> None:
    last = last_round(run, config)
    if beyond := [step.round for step in steps if step.round > last]:
        raise UserError(
            f"There is no round {beyond[0]}: the last one is {last}.",
            "Raise rounds.count. If a round gained less than rounds.least_gain, lower that key as well.",
        )


def _show_results(run: RunDir, config: Config) -> int:
    # Reading a report loads numpy and more, which the command line's help does without.
    from semtag.evaluation.report.terminal import failed_gates, read_report, result_table

    report = read_report(run)
    print(f"\n{result_table(run, report)}")
    for line in round_lines(run, config):
        print(line)
    failed = failed_gates(report)
    if failed and config.evaluation.strict:
        raise UserError(
            f"{len(failed)} gates failed: {', '.join(failed)}.",
            "The report says why. With evaluation.strict=false, failed gates do not change the exit status.",
        )
    return 0
