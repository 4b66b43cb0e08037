"""`semtag judge`: two arms' tags, compared blindly by a person or by a language model."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from semtag.cluster.stage_process import as_process
from semtag.commands.arguments import add_run, positive
from semtag.configs.errors import UserError
from semtag.store.locations import naming_store
from semtag.store.run_dir import RunDir

HELP = "compare two arms' tags blindly: by a person, on a page, or by a language model"
MORE = "Without --results and --model it makes the page."


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="with --model, how it is served")
    parser.add_argument("--first", default="base", metavar="ARM", help="an arm of the evaluation; default %(default)s")
    parser.add_argument("--second", default="tuned", metavar="ARM", help="the arm compared with it; %(default)s")
    parser.add_argument("--count", type=positive, default=50, metavar="N", help="texts to judge; default %(default)s")
    parser.add_argument("--out", metavar="FILE", help="a new file; default RUN/judgement/judge.html or model.json")
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--results", nargs="+", type=Path, metavar="FILE", help="analyse what the page saved, of one person or more"
    )
    way.add_argument("--model", metavar="MODEL", help="path or hub name of the model that judges")


def run(arguments: Namespace) -> int:
    """Make the page, or say what came of it, or have a language model judge."""
    if arguments.overrides and not arguments.model:
        raise UserError(f"{arguments.overrides[0]} has nothing to override.", "Overrides go with --model.")
    if arguments.out and arguments.results:
        raise UserError("--out is of no use with --results.", "The analysis is written beside the first of them.")
    run = RunDir(arguments.run)
    with naming_store(run.path):
        run.config()  # says so where there is no run
        if arguments.results:
            from semtag.evaluation.judgement import analyse_files

            analyse_files(run, arguments.first, arguments.second, arguments.results)
        elif arguments.model:
            from semtag.evaluation.judge_model import judge

            as_process(run, "judge", "answers", lambda progress: judge(run, arguments, progress))
        else:
            from semtag.evaluation.judge import make_page

            make_page(run, arguments.first, arguments.second, arguments.count, arguments.out)
    return 0
