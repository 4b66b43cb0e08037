"""A run, or some of its steps, from the checks before them to the results behind them."""

from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.evaluation.terminal import failed_gates, read_report, result_table
from semtag.generation.source_state import check_source
from semtag.pipeline import run_steps, steps_of
from semtag.plan import check_model, check_trackers, show_plan
from semtag.store.layout import Step
from semtag.store.locations import naming_store
from semtag.store.rounds import last_round, round_lines
from semtag.store.run_dir import RunDir

EVALUATION = Step("evaluate")


def do_steps(config: Config, steps: set[Step] | None = None, dry_run: bool = False, verbose: bool = False) -> int:
    """Do the `steps` that are not done yet, or all of the run; returns the exit status.

    With `dry_run` print the plan and do nothing. Raises UserError for what the user can mend.
    """
    run = RunDir.of(config)

    def is_wanted(step: Step) -> bool:
        return steps is None or step in steps

    with naming_store(run.path):
        check_model(config)
        run.check_same(config)
        check_source(run, config.data, "give the new run a name of its own with run.name=...")
        if steps != {EVALUATION}:
            check_trackers(config)
        if dry_run:
            show_plan(run, config)
            return 0
        _check_rounds(run, config, steps or set())
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
            "Raise rounds.count, or lower rounds.least_gain where a round gained less.",
        )


def _show_results(run: RunDir, config: Config) -> int:
    report = read_report(run)
    print(f"\n{result_table(run, report)}")
    for line in round_lines(run, config):
        print(line)
    failed = failed_gates(report)
    if failed and config.evaluation.strict:
        raise UserError(
            f"{len(failed)} gates failed: {', '.join(failed)}.",
            "The report says why; evaluation.strict=false ends well all the same.",
        )
    return 0
