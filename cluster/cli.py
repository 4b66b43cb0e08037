"""The command line. Imports no machine learning: `semtag --help` answers at once."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.layout import Step
from cluster.pipeline import run_steps, steps_of
from cluster.places import naming_store
from cluster.plan import check_model, check_source, check_trackers, show_plan
from cluster.rounds import last_round, round_lines
from cluster.run_dir import RunDir
from cluster.stage import name_error, print_anywhere
from cluster.submit import submit
from cluster.summary import failed_gates, read_report, result_table
from cluster.tag import tag
from configs.errors import UserError
from configs.load import load_config
from configs.schema import Config

EPILOG = """\
examples:
  semtag run configs/demo.yaml                          the whole job on this machine, some minutes
  semtag run configs/demo.yaml data.path=my.jsonl run.name=mine
  semtag run configs/zephyr_squad.yaml --dry-run        what a run would do
  semtag submit configs/cluster_millions.yaml           the whole job on a Ray cluster
  semtag verify runs/demo                               prove that nothing was lost
  semtag tag runs/demo --data news.jsonl --out tagged.jsonl data.column=body
  semtag judge runs/demo                                a page on which a person compares base and tuned

A run lives in <run.root>/<run.name>. The same command again goes on where it stopped.
Every key is explained in configs/schema.py, data.py and training.py; a wrong one gets the nearest known name.
A key of type text takes what follows the = as it is, without quotes; null is no text where a key may be empty."""

STAGES = ("run", "rank", "pairs", "train", "evaluate")

# What these commands call lies to the right of this folder and loads slowly, so it is imported when asked for.
MODULES = {
    "verify": "scoring.verify",
    "push": "training.push",
    "report": "evaluation.report",
    "judge": "evaluation.judge",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `semtag` script; returns the exit status (0 well, 1 failed, 2 the user can mend it)."""
    print_anywhere()
    arguments = _parse(argv)
    try:
        if arguments.command in MODULES:
            return importlib.import_module(MODULES[arguments.command]).main(arguments)
        if arguments.command == "tag":
            return tag(
                arguments.run,
                arguments.data,
                Path(arguments.out),
                arguments.overrides,
                votes=arguments.votes,
                base=arguments.base,
                score=arguments.score,
                constrained=arguments.constrained,
            )
        if arguments.command == "submit":
            return submit(
                arguments.config,
                arguments.overrides,
                arguments.stage,
                arguments.address,
                arguments.working_dir,
                not arguments.no_wait,
            )
        config = load_config(arguments.config, arguments.overrides)
        return _do(arguments, config)
    except (UserError, OSError) as error:
        user_error = error if isinstance(error, UserError) else name_error(error)
        if user_error is None:
            raise
        print(f"error: {user_error}", file=sys.stderr)
        return 2


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; overrides may stand anywhere, also behind options, where argparse does not look for them."""
    parser = build_parser()
    arguments, left = parser.parse_known_args(argv)
    if "overrides" in arguments and all("=" in one and not one.startswith("-") for one in left):
        arguments.overrides += left
    elif left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="semtag",
        description="Turns a pile of texts into a tagger, without one human label.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (help_, more, add_arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=help_, description=f"semtag {name}: {help_}. {more}")
        add_arguments(command)
    return parser


def _of_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="CONFIG", help="YAML file, for example configs/demo.yaml")
    command.add_argument("overrides", metavar="key=value", nargs="*", help="overrides, such as training.beta=0.5")


def _of_stage(command: argparse.ArgumentParser) -> None:
    _of_config(command)
    command.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    command.add_argument("--verbose", action="store_true", help="show what the libraries print, instead of logging it")


def _of_round(command: argparse.ArgumentParser) -> None:
    _of_stage(command)
    command.add_argument("--round", type=_positive, default=1, metavar="N", help="the round; default %(default)s")


def _of_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="run directory, for example runs/demo")


def _of_submit(command: argparse.ArgumentParser) -> None:
    _of_config(command)
    command.add_argument("--stage", choices=STAGES, default="run", help="what to do there; all, unless given")
    command.add_argument(
        "--address", metavar="URL", default="http://127.0.0.1:8265", help="Ray's dashboard; default %(default)s"
    )
    command.add_argument("--working-dir", metavar="DIR", default=".", help="what is sent, less what .gitignore names")
    command.add_argument("--no-wait", action="store_true", help="send the job and return")


def _of_report(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", metavar="RUN", nargs="+", help="run directory, for example runs/demo")
    command.add_argument("--out", type=Path, metavar="FILE", help="the page of a comparison; default comparison.html")


def _of_push(command: argparse.ArgumentParser) -> None:
    _of_run(command)
    command.add_argument("name", metavar="OWNER/NAME", help="the repository; made where there is none")
    command.add_argument("--merged", action="store_true", help="the whole model, in place of the adapter")
    command.add_argument("--public", action="store_true", help="make a new repository public")


def _of_tag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run", metavar="MODEL", help="a run directory, for example runs/demo, or a model's path or hub name"
    )
    command.add_argument("overrides", metavar="key=value", nargs="*", help="overrides, such as data.column=body")
    command.add_argument("--data", required=True, metavar="DATA", help="what to tag: all that data.path takes")
    command.add_argument("--out", required=True, metavar="FILE", help="a new .jsonl, .csv or .parquet file")
    command.add_argument(
        "--votes", type=_positive, default=1, metavar="N", help="tags that most of N samples name; default: greedy"
    )
    command.add_argument(
        "--constrained", action="store_true", help="let no answer leave the form of tags; costs some speed"
    )
    command.add_argument("--base", action="store_true", help="ask the base model, without what tuning made of it")
    command.add_argument("--score", action="store_true", help="say how similar tags and text are")


def _of_judge(command: argparse.ArgumentParser) -> None:
    _of_run(command)
    command.add_argument("overrides", metavar="key=value", nargs="*", help="with --model, how it is served")
    command.add_argument("--first", default="base", metavar="ARM", help="an arm of the evaluation; default %(default)s")
    command.add_argument("--second", default="tuned", metavar="ARM", help="the arm compared with it; %(default)s")
    command.add_argument("--count", type=_positive, default=50, metavar="N", help="texts to judge; default %(default)s")
    command.add_argument("--out", metavar="FILE", help="a new file; default RUN/judgement/judge.html or model.json")
    way = command.add_mutually_exclusive_group()
    way.add_argument(
        "--results", nargs="+", type=Path, metavar="FILE", help="analyse what the page saved, of one person or more"
    )
    way.add_argument("--model", metavar="MODEL", help="path or hub name of the model that judges")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


# Name -> what it does, what its own help says besides, and its arguments.
COMMANDS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": (
        "all steps: texts, rounds of ranking, pairs, training, validation; evaluation; resumes",
        "",
        _of_stage,
    ),
    "rank": ("texts -> candidates -> scores -> ranked lists", "", _of_round),
    "pairs": ("ranked lists -> preference pairs and lists", "", _of_round),
    "train": ("pairs -> adapter, and the weights with it merged in", "", _of_round),
    "evaluate": ("base against tuned on the held-out texts -> report", "", _of_stage),
    "submit": ("the same as a job of a Ray cluster, whose log is followed", "", _of_submit),
    "verify": ("check a run's files against every invariant; exit status 0 or 1", "", _of_run),
    "report": (
        "write a run's report.html anew, or compare several runs",
        "Several runs give a table here and a page of its own: how well their models do, which gates failed, and which "
        "settings differ.",
        _of_report,
    ),
    "push": ("put the tagger on the Hugging Face hub, in a private repository", "", _of_push),
    "tag": (
        "tag a corpus of yours with a run's tagger or any model; the same command again resumes",
        "Every row comes out with its tags, in the data's order.",
        _of_tag,
    ),
    "judge": (
        "compare two arms' tags blindly: by a person, on a page, or by a language model",
        "Without --results and --model it makes the page.",
        _of_judge,
    ),
}


def _do(arguments: argparse.Namespace, config: Config) -> int:
    run = RunDir.of(config)
    with naming_store(run.path):
        check_model(config)
        run.check_same(config)
        check_source(run, config.data, "give the new run a name of its own with run.name=...")
        if arguments.command != "evaluate":
            check_trackers(config)
        if arguments.dry_run:
            show_plan(run, config)
            return 0
        wanted = _wanted(arguments)
        number, last = getattr(arguments, "round", 0), last_round(run, config)
        if number > last:
            raise UserError(
                f"There is no round {number}: the last one is {last}.",
                "Raise rounds.count, or lower rounds.least_gain where a round gained less.",
            )
        run.create()
        with run.lock() as lock:
            run.start(config)
            steps = [step for step in steps_of(run, config) if wanted(step)]
            already = all(map(run.is_done, steps))
            status = run_steps(run, config, wanted, arguments.verbose, lock)
        if status:
            return status
        if already:
            print(f"All is done already in {run.path}: {', '.join(step.name for step in steps)}.")
        return _show_results(run, config) if run.is_done(Step("evaluate")) and wanted(Step("evaluate")) else 0


def _wanted(arguments: argparse.Namespace) -> Callable[[Step], bool]:
    """Which steps a command is for; `rank` prepares the texts first."""
    if arguments.command == "run":
        return lambda step: True
    steps = {Step(arguments.command, getattr(arguments, "round", 0))}
    if arguments.command == "rank":
        steps.add(Step("texts"))
    return steps.__contains__


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


if __name__ == "__main__":
    sys.exit(main())
